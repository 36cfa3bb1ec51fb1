//! The trait of the remote tier, by the crate `object_store`.

use std::fmt::Debug;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStore as Client,
    ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::sync::Semaphore;
use torchcache_store::remote::{
    ListedObject, MAX_CONCURRENT_READS, ObjectError, ObjectErrorKind, ObjectPage, ObjectStore,
    RangeRead,
};

use crate::failure::{is_not_implemented, object_error};
use crate::request::{Begun, Listing};
use crate::runtime::Running;

/// The longest object that is read as a whole.
const MAX_GET: u64 = 64 << 10;

/// How objects are listed.
#[derive(Clone)]
pub(crate) enum Lister {
    /// A page by one request.
    #[cfg_attr(
        not(feature = "cloud"),
        expect(dead_code, reason = "directories are listed as a whole")
    )]
    Pages(Arc<dyn PaginatedListStore>),
    /// All at once, in any order.
    Whole,
}

/// A bucket or a directory.
#[derive(Clone)]
pub(crate) struct RemoteStore {
    client: Arc<dyn Client>,
    lister: Lister,
    /// One for each read or removal that is under way.
    slots: Arc<Semaphore>,
    /// The store implements no conditions.
    is_unconditional: Arc<AtomicBool>,
}

impl Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.client)
    }
}

impl RemoteStore {
    pub(crate) fn new(client: Arc<dyn Client>, lister: Lister) -> RemoteStore {
        RemoteStore {
            client,
            lister,
            slots: Arc::new(Semaphore::new(MAX_CONCURRENT_READS)),
            is_unconditional: Arc::default(),
        }
    }

    /// A bucket of a cloud, which is listed by pages.
    #[cfg(feature = "cloud")]
    pub(crate) fn of_cloud(client: impl Client + PaginatedListStore) -> RemoteStore {
        let client = Arc::new(client);
        RemoteStore::new(client.clone(), Lister::Pages(client))
    }

    /// Waits for one request on the background thread, until the deadline. Then it is aborted.
    fn wait<T: Send + 'static, F>(
        &self,
        deadline: Instant,
        request: impl FnOnce(RemoteStore, Begun) -> F,
    ) -> Result<T, ObjectError>
    where
        F: Future<Output = Result<T, ObjectError>> + Send + 'static,
    {
        if Instant::now() >= deadline {
            return Err(ObjectErrorKind::NotMade.into());
        }
        let begun = Begun::default();
        let request = request(self.clone(), begun.clone());
        let running = Running::start(|sender| async move {
            // Where it is gone, the deadline has passed.
            let _ = sender.send(request.await);
        });
        let running = running.map_err(not_started)?;
        running
            .next(deadline)
            .unwrap_or_else(|end| Err(unfinished(end, Some(&begun))))
    }

    /// Makes a request for each of these on the background thread, some at a time, and passes their numbers and results
    /// on, until the deadline. Then those that are left are aborted.
    fn wait_for_each<J: Clone + Send + 'static, T: Send + 'static, F>(
        &self,
        jobs: &[J],
        deadline: Instant,
        request: impl Fn(RemoteStore, J, Begun) -> F + Clone + Send + 'static,
        done: &mut dyn FnMut(usize, Result<T, ObjectError>),
    ) where
        F: Future<Output = Result<T, ObjectError>> + Send + 'static,
    {
        if Instant::now() >= deadline {
            let not_made = || Err(ObjectErrorKind::NotMade.into());
            return (0..jobs.len()).for_each(|n| done(n, not_made()));
        }
        // Of those that were made.
        let all: Arc<[OnceLock<Begun>]> = jobs.iter().map(|_| OnceLock::new()).collect();
        let mut left: Vec<usize> = (0..jobs.len()).collect();
        let jobs: Vec<_> = jobs.iter().cloned().enumerate().collect();
        let (store, made) = (self.clone(), all.clone());
        let running = Running::start(|sender| {
            stream::iter(jobs).for_each_concurrent(MAX_CONCURRENT_READS, move |(n, job)| {
                let (store, sender, request) = (store.clone(), sender.clone(), request.clone());
                let made = made.clone();
                async move {
                    // It is never closed.
                    let _slot = store.slots.acquire().await;
                    let begun = made[n].get_or_init(Begun::default).clone();
                    let _ = sender.send((n, request(store.clone(), job, begun).await));
                }
            })
        });
        let running = match running {
            Ok(running) => running,
            Err(error) => {
                return left
                    .into_iter()
                    .for_each(|n| done(n, Err(not_started(&error))));
            }
        };
        while !left.is_empty() {
            match running.next(deadline) {
                Ok((n, result)) => {
                    left.retain(|&it| it != n);
                    done(n, result);
                }
                Err(end) => {
                    drop(running);
                    return left
                        .into_iter()
                        .for_each(|n| done(n, Err(unfinished(end, all[n].get()))));
                }
            }
        }
    }

    async fn read_range(&self, read: RangeRead, begun: Begun) -> Result<Vec<u8>, ObjectError> {
        let RangeRead { key, range } = read;
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let got = self.get_opts(&key, Some(range), &begun).await?;
        body(got, wanted).await
    }

    async fn get_opts(
        &self,
        key: &str,
        range: Option<Range<u64>>,
        begun: &Begun,
    ) -> Result<GetResult, ObjectError> {
        let mut options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        options.extensions.insert(begun.clone());
        let got = self.client.get_opts(&path(key)?, options).await;
        begun.set();
        got.map_err(|error| object_error(&error))
    }

    async fn put(
        &self,
        path: &Path,
        bytes: Bytes,
        mode: PutMode,
        begun: &Begun,
    ) -> object_store::Result<()> {
        let mut options = PutOptions::from(mode);
        options.extensions.insert(begun.clone());
        let payload = PutPayload::from_bytes(bytes);
        self.client.put_opts(path, payload, options).await?;
        Ok(())
    }

    async fn put_if_absent(
        &self,
        path: &Path,
        bytes: Bytes,
        begun: &Begun,
    ) -> object_store::Result<()> {
        if !self.is_unconditional.load(Ordering::Relaxed) {
            match self.put(path, bytes.clone(), PutMode::Create, begun).await {
                Err(error) if is_not_implemented(&error) => {
                    self.is_unconditional.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.put(path, bytes, PutMode::Overwrite, begun).await
    }

    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        begun: Begun,
    ) -> object_store::Result<ObjectPage> {
        // Names of directories end with `/` in a bucket, and without it here.
        let is_wanted =
            |object: &ListedObject| object.key.starts_with(prefix) && Some(&*object.key) > after;
        let mut page = match &self.lister {
            Lister::Pages(pages) => {
                let mut options = PaginatedListOptions {
                    offset: after.map(str::to_owned),
                    ..PaginatedListOptions::default()
                };
                options.extensions.insert(begun);
                options.extensions.insert(Listing);
                let shorter = without_last_character(prefix);
                // A page may have nothing, and not be the last one.
                loop {
                    let listed = pages.list_paginated(Some(shorter), options.clone()).await?;
                    let objects = listed.result.objects.into_iter().map(listed_object);
                    let objects: Vec<_> = objects.filter(is_wanted).collect();
                    let is_last = listed.page_token.is_none();
                    if is_last || !objects.is_empty() {
                        break ObjectPage { objects, is_last };
                    }
                    options.page_token = listed.page_token;
                }
            }
            Lister::Whole => {
                // Names of directories, whole.
                let parent = Path::parse(prefix.rsplit_once('/').map_or("", |(parent, _)| parent))?;
                let listed = match after {
                    Some(after) => {
                        (self.client).list_with_offset(Some(&parent), &Path::parse(after)?)
                    }
                    None => self.client.list(Some(&parent)),
                };
                let mut objects: Vec<_> = listed.map_ok(listed_object).try_collect().await?;
                objects.retain(is_wanted);
                ObjectPage {
                    objects,
                    is_last: true,
                }
            }
        };
        page.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(page)
    }
}

impl ObjectStore for RemoteStore {
    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        deadline: Instant,
    ) -> Result<ObjectPage, ObjectError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.wait(deadline, |store, begun| async move {
            let page = store.page(&prefix, after.as_deref(), begun).await;
            page.map_err(|error| object_error(&error))
        })
    }

    fn read(
        &self,
        reads: &[RangeRead],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<Vec<u8>, ObjectError>),
    ) {
        let request =
            |store: RemoteStore, read, begun| async move { store.read_range(read, begun).await };
        self.wait_for_each(reads, deadline, request, done);
    }

    fn get(&self, key: &str, deadline: Instant) -> Result<Vec<u8>, ObjectError> {
        let key = key.to_owned();
        self.wait(deadline, |store, begun| async move {
            let got = store.get_opts(&key, None, &begun).await?;
            let size = got.meta.size;
            if size > MAX_GET {
                let reason = format!("{key} has {size} bytes; expected at most {MAX_GET}");
                return Err(ObjectError::new(ObjectErrorKind::Other, reason));
            }
            let bytes = body(got, size).await?;
            if bytes.len() as u64 != size {
                let reason = format!("{} of the {size} bytes of {key} came", bytes.len());
                return Err(ObjectError::new(ObjectErrorKind::Other, reason));
            }
            Ok(bytes)
        })
    }

    fn put_new(
        &self,
        key: &str,
        bytes: &Arc<Vec<u8>>,
        deadline: Instant,
    ) -> Result<(), ObjectError> {
        let path = path(key)?;
        let bytes = Bytes::from_owner(SharedBytes(bytes.clone()));
        self.wait(deadline, |store, begun| async move {
            let put = store.put_if_absent(&path, bytes, &begun).await;
            put.map_err(|error| object_error(&error))
        })
    }

    fn set(&self, key: &str, bytes: &[u8], deadline: Instant) -> Result<(), ObjectError> {
        let path = path(key)?;
        let bytes = Bytes::copy_from_slice(bytes);
        self.wait(deadline, |store, begun| async move {
            let put = store.put(&path, bytes, PutMode::Overwrite, &begun).await;
            put.map_err(|error| object_error(&error))
        })
    }

    fn remove(
        &self,
        keys: &[String],
        deadline: Instant,
        done: &mut dyn FnMut(usize, Result<(), ObjectError>),
    ) {
        let request = |store: RemoteStore, key: String, _| async move {
            match store.client.delete(&path(&key)?).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(object_error(&error)),
            }
        };
        self.wait_for_each(keys, deadline, request, done);
    }
}

/// The bytes of an object, which the upload of another try may need as well.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn path(key: &str) -> Result<Path, ObjectError> {
    Path::parse(key).map_err(|error| ObjectError::new(ObjectErrorKind::Other, error))
}

/// The client for Azure leaves out the object whose key is the prefix of a listing, as it does directories.
fn without_last_character(prefix: &str) -> &str {
    let last = prefix.char_indices().next_back();
    last.map_or(prefix, |(n, character)| match character {
        '/' => prefix,
        _ => &prefix[..n],
    })
}

fn listed_object(meta: ObjectMeta) -> ListedObject {
    ListedObject {
        key: meta.location.into(),
        size: meta.size,
        modified: meta.last_modified.into(),
    }
}

/// The bytes of an answer as far as they came. More than `limit` are an error, and so is a body that breaks off before
/// its first byte.
async fn body(got: GetResult, limit: u64) -> Result<Vec<u8>, ObjectError> {
    let mut stream = match got.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(..) => {
            let bytes = got.bytes().await.map_err(|error| object_error(&error))?;
            return Ok(bytes.into());
        }
    };
    let mut bytes = Vec::with_capacity(limit.min(got.range.end - got.range.start) as usize);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) if (bytes.len() + chunk.len()) as u64 > limit => {
                let reason = format!("more bytes came than the {limit} that were asked for");
                return Err(ObjectError::new(ObjectErrorKind::Other, reason));
            }
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) if bytes.is_empty() => return Err(object_error(&error)),
            Err(_) => break,
        }
    }
    Ok(bytes)
}

/// The error of a request that has not ended, or was not made.
fn unfinished(end: RecvTimeoutError, begun: Option<&Begun>) -> ObjectError {
    match end {
        RecvTimeoutError::Timeout => begun.map_or(ObjectErrorKind::NotMade, Begun::late).into(),
        RecvTimeoutError::Disconnected => {
            ObjectError::new(ObjectErrorKind::Other, "the request panicked")
        }
    }
}

/// The error of a request that was not made.
fn not_started(error: impl std::fmt::Display) -> ObjectError {
    ObjectError::new(ObjectErrorKind::Other, error)
}

#[cfg(all(test, feature = "cloud"))]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use object_store::ListResult;
    use object_store::list::PaginatedListResult;
    use object_store::memory::InMemory;

    use super::*;

    /// Pages of a listing, each with these keys, without the one that is the prefix. The token of a page is its number.
    struct Pages(Vec<Vec<&'static str>>);

    #[async_trait]
    impl PaginatedListStore for Pages {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> object_store::Result<PaginatedListResult> {
            let n = options.page_token.map_or(0, |it| it.parse().unwrap());
            let listed = self.0[n].iter().filter(|&&key| Some(key) != prefix);
            let objects = listed.map(|&key| ObjectMeta {
                location: key.into(),
                last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
                size: 1,
                e_tag: None,
                version: None,
            });
            Ok(PaginatedListResult {
                result: ListResult {
                    common_prefixes: Vec::new(),
                    objects: objects.collect(),
                    extensions: Default::default(),
                },
                page_token: (n + 1 < self.0.len()).then(|| (n + 1).to_string()),
            })
        }
    }

    /// The keys of a page, and whether it is the last one.
    fn list(pages: &[&[&'static str]], prefix: &str, after: Option<&str>) -> (Vec<String>, bool) {
        let pages = Pages(pages.iter().map(|it| it.to_vec()).collect());
        let store = RemoteStore::new(Arc::new(InMemory::new()), Lister::Pages(Arc::new(pages)));
        let deadline = Instant::now() + Duration::from_secs(60);
        let page = store.list(prefix, after, deadline).unwrap();
        let keys = page.objects.into_iter().map(|it| it.key);
        (keys.collect(), page.is_last)
    }

    #[test]
    fn an_object_whose_key_is_the_prefix_is_listed() {
        let (keys, _) = list(
            &[&["p/lates", "p/latest", "p/latest2", "p/latesu"]],
            "p/latest",
            None,
        );
        assert_eq!(keys, ["p/latest", "p/latest2"]);
        for (prefix, shorter) in [("p/", "p/"), ("", ""), ("ü", ""), ("p/ü", "p/")] {
            assert_eq!(without_last_character(prefix), shorter);
        }
    }

    #[test]
    fn pages_without_new_objects_are_passed_over() {
        let list = |pages: &[&[&'static str]], after| list(pages, "p/", after);
        let found = |keys: &[&str], is_last| (keys.iter().map(|&it| it.into()).collect(), is_last);
        assert_eq!(
            list(&[&[], &[], &["p/a"], &["p/b"]], None),
            found(&["p/a"], false)
        );
        assert_eq!(
            list(&[&[], &["p/b", "p/a"]], None),
            found(&["p/a", "p/b"], true)
        );
        assert_eq!(
            list(&[&["p/a"], &["p/b"]], Some("p/a")),
            found(&["p/b"], true)
        );
        assert_eq!(list(&[&[], &[]], None), found(&[], true));
    }
}
