//! Finds the caches below a prefix by one listing, without a request for each.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::requests::{ReadError, Requests};
use crate::manifest::{self, Manifest};
use crate::remote::{
    Clock, Layout, ListedObject, ObjectError, ObjectName, ObjectStore, RangeRead, ReadMark,
    new_hint, parse_names,
};
use crate::size::sum;

/// A longer object is no manifest, read mark or compaction record.
const MAX_SMALL_BYTES: u64 = 16 << 20;

/// What the option `remote` names: caches of one team in an object store.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use torchcache_store::remote::{ObjectStore, SystemClock};
/// use torchcache_store::remote_admin::RemoteRoot;
///
/// # fn list(store: Arc<dyn ObjectStore>) -> Result<(), Box<dyn std::error::Error>> {
/// let root = RemoteRoot::new(store, Arc::new(SystemClock), "team");
/// for cache in root.list()?.caches {
///     println!("{}: {} segments, {} bytes", cache.name(), cache.segment_count(), cache.bytes());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RemoteRoot {
    pub(super) requests: Requests,
    prefix: String,
}

/// The objects below a prefix.
#[derive(Debug, Default)]
pub struct RemoteListing {
    /// The caches, by name.
    pub caches: Vec<RemoteCache>,
    /// The keys of objects that belong to no cache. They are left alone.
    pub foreign: Vec<String>,
}

/// A cache in an object store, as it was listed.
#[derive(Clone, Debug)]
pub struct RemoteCache {
    name: String,
    pub(super) layout: Layout,
    /// In the order of their names.
    pub(super) segments: Vec<SegmentObject>,
    pub(super) manifest: Option<ListedObject>,
    pub(super) latest: Option<ListedObject>,
    pub(super) marks: Vec<ListedObject>,
    pub(super) compactions: Vec<CompactionRecord>,
    foreign: Vec<String>,
}

/// An object whose name is that of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentObject {
    pub(super) name: ObjectName,
    pub(super) size: u64,
    /// When it was put, by the clock of the store.
    pub(super) modified: SystemTime,
}

/// Says which segments another one joins.
#[derive(Clone, Debug)]
pub(super) struct CompactionRecord {
    pub(super) joined: ObjectName,
    pub(super) object: ListedObject,
}

impl RemoteRoot {
    /// The caches of an object store whose keys begin with a prefix, which may be empty. Makes no request.
    pub fn new(store: Arc<dyn ObjectStore>, clock: Arc<dyn Clock>, prefix: &str) -> RemoteRoot {
        RemoteRoot {
            requests: Requests::new(store, clock),
            prefix: prefix.to_owned(),
        }
    }

    /// Lists all objects: a request for a thousand of them.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn list(&self) -> Result<RemoteListing, ObjectError> {
        let prefix = Layout::caches(&self.prefix);
        let mut caches = BTreeMap::new();
        let mut listing = RemoteListing::default();
        self.requests.list(&prefix, |object| {
            let rest = &object.key[prefix.len()..];
            // Some names of directories are those of others.
            match rest.split_once('/') {
                Some((name, rest)) if !matches!(name, "" | "." | "..") => {
                    let rest = rest.to_owned();
                    let cache = caches
                        .entry(name.to_owned())
                        .or_insert_with(|| self.cache(name));
                    cache.add(&rest, object);
                }
                _ => listing.foreign.push(object.key),
            }
        })?;
        for cache in caches.into_values() {
            match cache.is_empty() {
                true => listing.foreign.extend(cache.foreign),
                false => listing.caches.push(cache),
            }
        }
        Ok(listing)
    }

    /// A cache without objects.
    pub(super) fn cache(&self, name: &str) -> RemoteCache {
        RemoteCache {
            name: name.to_owned(),
            layout: Layout::new(&self.prefix, name),
            segments: Vec::new(),
            manifest: None,
            latest: None,
            marks: Vec::new(),
            compactions: Vec::new(),
            foreign: Vec::new(),
        }
    }

    /// Lists the objects of one cache.
    pub(super) fn list_cache(&self, name: &str) -> Result<RemoteCache, ObjectError> {
        let mut cache = self.cache(name);
        let prefix = cache.layout.root().to_owned();
        self.requests.list(&prefix, |object| {
            let rest = object.key[prefix.len()..].to_owned();
            cache.add(&rest, object);
        })?;
        Ok(cache)
    }

    /// Reads the manifests of caches, several at a time. A cache works without one.
    pub fn manifests<'c>(
        &self,
        caches: impl IntoIterator<Item = &'c RemoteCache>,
    ) -> Vec<io::Result<Manifest>> {
        let objects: Vec<_> = caches.into_iter().map(|it| it.manifest.as_ref()).collect();
        let present: Vec<&ListedObject> = objects.iter().copied().flatten().collect();
        let mut read = self.read_small(&present, |_| true).into_iter();
        let manifests = objects.iter().map(|object| {
            let bytes = object.and_then(|_| read.next());
            let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            Manifest::parse(&bytes.map_err(io::Error::from)?)
        });
        manifests.collect()
    }

    /// Reads whole small objects. Those that are not sound may have been damaged on the way, and are read again.
    pub(super) fn read_small(
        &self,
        objects: &[&ListedObject],
        is_sound: impl Fn(&[u8]) -> bool,
    ) -> Vec<Result<Vec<u8>, ReadError>> {
        let mut bodies: Vec<Result<Vec<u8>, ReadError>> =
            objects.iter().map(|_| Ok(Vec::new())).collect();
        // There is no range of an empty object.
        let numbers: Vec<usize> = (0..objects.len())
            .filter(|n| objects[*n].size > 0)
            .collect();
        let reads = numbers.iter().map(|n| RangeRead {
            key: objects[*n].key.clone(),
            range: 0..objects[*n].size,
        });
        let reads: Vec<RangeRead> = reads.collect();
        let failures = self.requests.read(&reads, |at, body| {
            bodies[numbers[at]] = Ok(body.to_vec());
            is_sound(body)
        });
        for (at, failure) in failures.into_iter().enumerate() {
            if let Some(failure) = failure {
                bodies[numbers[at]] = Err(failure);
            }
        }
        bodies
    }

    /// When rows of segments were read last, as read marks say. A mark that is damaged counts for all segments.
    pub(super) fn last_reads(
        &self,
        cache: &RemoteCache,
    ) -> Result<HashMap<ObjectName, LastRead>, ObjectError> {
        const MARKS_AT_ONCE: usize = 64;
        let mut reads: HashMap<ObjectName, LastRead> = HashMap::new();
        let mut note = |name: ObjectName, read: LastRead| {
            let last = reads.entry(name).or_insert(read);
            if read.at > last.at {
                *last = read;
            }
        };
        for (chunk, marks) in cache.marks.chunks(MARKS_AT_ONCE).enumerate() {
            let objects: Vec<&ListedObject> = marks.iter().collect();
            let contents = self.read_small(&objects, |content| parse_names(content).is_some());
            for (at, content) in contents.into_iter().enumerate() {
                let read = LastRead {
                    at: marks[at].modified,
                    mark: chunk * MARKS_AT_ONCE + at,
                };
                match &content {
                    Ok(content) => {
                        let names = parse_names(content).unwrap_or_default().into_iter();
                        let names = names.filter_map(ObjectName::parse);
                        names.for_each(|name| note(name, read));
                    }
                    Err(ReadError::Refused) => {
                        let all = cache.segments.iter();
                        all.for_each(|segment| note(segment.name, read));
                    }
                    Err(ReadError::Request(error)) if error.is_not_found() => {}
                    Err(ReadError::Request(error)) => return Err(error.clone()),
                }
            }
        }
        Ok(reads)
    }

    /// Changes the hint of a cache, so that machines look for new segments.
    pub(super) fn set_latest(&self, layout: &Layout) -> Result<(), ObjectError> {
        self.requests.set(&layout.latest(), &new_hint())
    }

    /// The time by the clock of the store, which all ages are measured by: that of this machine may be wrong by hours. It is
    /// that of the hint, which is changed. `None` if another process removes it.
    pub(super) fn store_time(&self, layout: &Layout) -> Result<Option<SystemTime>, ObjectError> {
        self.set_latest(layout)?;
        let key = layout.latest();
        let mut modified = None;
        self.requests.list(&key, |object| {
            if object.key == key {
                modified = Some(object.modified);
            }
        })?;
        Ok(modified)
    }
}

/// The newest read mark that names a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastRead {
    pub(super) at: SystemTime,
    /// Its index in the cache.
    pub(super) mark: usize,
}

impl RemoteCache {
    /// Adds an object, given its key within the cache.
    fn add(&mut self, rest: &str, object: ListedObject) {
        let is_small = object.size <= MAX_SMALL_BYTES;
        if let Some(name) = rest.strip_prefix("s/").and_then(ObjectName::parse) {
            self.segments.push(SegmentObject {
                name,
                size: object.size,
                modified: object.modified,
            });
        } else if rest == manifest::FILE && is_small {
            self.manifest = Some(object);
        } else if rest == "latest" {
            self.latest = Some(object);
        } else if is_small && rest.strip_prefix("r/").and_then(ReadMark::parse).is_some() {
            self.marks.push(object);
        } else if is_small && let Some(joined) = rest.strip_prefix("c/").and_then(ObjectName::parse)
        {
            self.compactions.push(CompactionRecord { joined, object });
        } else {
            self.foreign.push(object.key);
        }
    }

    /// Whether it has no object of torchcache.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.others().next().is_none()
    }

    /// The objects next to the segments, in the order in which they are removed.
    pub(super) fn others(&self) -> impl Iterator<Item = &ListedObject> {
        let compactions = self.compactions.iter().map(|record| &record.object);
        let ends = self.latest.iter().chain(&self.manifest);
        compactions.chain(&self.marks).chain(ends)
    }

    /// The module hash, or the name that the user chose.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// The bytes of all segments.
    pub fn bytes(&self) -> u64 {
        sum(self.segments.iter().map(|segment| segment.size))
    }

    /// An upper bound of the number of rows, by the names of the segments: those of one schema are one or two fewer in each
    /// segment.
    pub fn max_rows(&self) -> u64 {
        let rows = self.segments.iter().map(|it| it.name.max_rows() as u64);
        rows.sum()
    }

    /// When the newest segment was put or a machine left a read mark, whichever is later; `None` without segments.
    pub fn last_read(&self) -> Option<SystemTime> {
        let put = self.segments.iter().map(|it| it.modified).max()?;
        let marked = self.marks.iter().map(|mark| mark.modified).max();
        Some(marked.map_or(put, |marked| marked.max(put)))
    }

    /// When the manifest was put.
    pub fn created(&self) -> Option<SystemTime> {
        self.manifest.as_ref().map(|object| object.modified)
    }

    /// The keys of objects of other programs. They are left alone.
    pub fn foreign(&self) -> &[String] {
        &self.foreign
    }
}
