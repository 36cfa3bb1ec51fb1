//! A fresh machine reads all rows of a bucket in their order and puts them on its disk, next to plain `object_store`,
//! which gets the same objects. `--quick` takes few rows. Needs the variable that names the server.
//!
//! ```sh
//! TORCHCACHE_SEAWEEDFS=$PWD/target/seaweedfs/4.48/bin/weed cargo bench --package torchcache-remote --bench fill
//! ```

use std::error::Error;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;
use torchcache_faults::rows::{batch, fetch, keys, value};
use torchcache_remote::RemoteLocation;
use torchcache_servers::{SeaweedFs, Server, WRITER, variables};
use torchcache_store::remote::RemoteMode;
use torchcache_store::remote_tier::{RemoteTier, RemoteTierConfig};
use torchcache_store::{Config, Key, RowBatch, Store};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BUCKET: &str = "bench";

/// Lengths of rows, and how many rows a call has.
const ROWS: [(usize, u64); 2] = [(2_000, 256), (200_000, 64)];

/// How many bytes all rows have together.
const BYTES: u64 = 256_000_000;
const QUICK_BYTES: u64 = 16_000_000;

const ROUNDS: usize = 5;

const LONG: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    let bytes = if is_quick { QUICK_BYTES } else { BYTES };
    let dir = tempfile::tempdir()?;
    let server = SeaweedFs::start(dir.path())?;
    server.create_bucket(BUCKET)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    println!(
        "| rows of | a call | objects | plain GET | in ranges of a call | remote tier | and on disk | \
         ratio to plain GET | to ranges |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for (len, batch_rows) in ROWS {
        let fill = Fill {
            url: format!("s3://{BUCKET}/rows-of-{len}"),
            endpoint: server.endpoint(),
            dir: dir.path(),
            len,
            batch_rows,
            rows: bytes / len as u64,
        };
        fill.upload()?;
        fill.print_line(&runtime)?;
    }
    Ok(())
}

/// Rows of one length.
struct Fill<'a> {
    url: String,
    endpoint: String,
    dir: &'a FilePath,
    len: usize,
    batch_rows: u64,
    rows: u64,
}

impl Fill<'_> {
    fn location(&self) -> Result<RemoteLocation> {
        let variables = variables(&self.endpoint, WRITER);
        Ok(torchcache_remote::open_with(&self.url, variables)?)
    }

    /// A machine with a directory of this name.
    fn open(&self, name: &str) -> Result<(Store, RemoteTier)> {
        let location = self.location()?;
        let mut config = Config::default();
        config.compression = None;
        let name = format!("{name}-{}", self.len);
        let store = Store::open(self.dir.join(name), config)?;
        let config = RemoteTierConfig {
            url: self.url.clone(),
            prefix: format!("{}/", location.prefix),
            module_hash: "feed".to_owned(),
            mode: RemoteMode::ReadWrite,
        };
        let tier = RemoteTier::open(&store, location.store, config);
        Ok((store, tier))
    }

    fn batches(&self) -> impl Iterator<Item = Vec<Key>> {
        let firsts = (0..self.rows).step_by(self.batch_rows as usize);
        firsts.map(|first| keys(first..(first + self.batch_rows).min(self.rows)))
    }

    fn upload(&self) -> Result<()> {
        let (store, tier) = self.open("writer")?;
        for first in (0..self.rows).step_by(self.batch_rows as usize) {
            let numbers = first..(first + self.batch_rows).min(self.rows);
            store.put(batch(numbers.clone(), self.len));
            let rows = keys(numbers).into_iter();
            tier.push(rows.map(|key| (key, self.len as u32)));
        }
        tier.flush(LONG)?;
        Ok(())
    }

    /// Reads all rows as the library does: those that are not on disk from the remote. Returns how long that took,
    /// and until all were on disk.
    fn fill(&self, name: &str) -> Result<[Duration; 2]> {
        let (store, tier) = self.open(name)?;
        let mut values = vec![vec![0; self.len]; self.batch_rows as usize];
        let begin = Instant::now();
        for keys in self.batches() {
            let epoch = store.epoch();
            let rows = fetch(&store, &keys);
            let missing: Vec<Key> = keys
                .iter()
                .zip(&rows)
                .filter(|(_, row)| row.is_none())
                .map(|(key, _)| *key)
                .collect();
            if missing.is_empty() {
                continue;
            }
            let deadline = Instant::now() + LONG;
            let located = tier.locate(&missing, deadline);
            let located: Vec<_> = located.into_iter().flatten().collect();
            assert_eq!(located.len(), missing.len(), "rows that were uploaded");
            let mut out: Vec<&mut [u8]> = values[..missing.len()]
                .iter_mut()
                .map(Vec::as_mut_slice)
                .collect();
            let read = tier.read(&located, &mut out, deadline);
            assert!(read.into_iter().all(|it| it), "no request fails");
            let put = RowBatch::new(missing, located[0].schema().into(), out.concat(), self.len);
            store.put(put?.since(epoch));
        }
        let read = begin.elapsed();
        store.flush()?;
        let on_disk = begin.elapsed();
        let last = keys(self.rows - 1..self.rows);
        assert!(fetch(&store, &last)[0].as_deref() == Some(&value(&last[0], self.len)[..]));
        Ok([read, on_disk])
    }

    fn print_line(&self, runtime: &Runtime) -> Result<()> {
        let plain = AmazonS3Builder::new()
            .with_endpoint(&self.endpoint)
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id(WRITER.0)
            .with_secret_access_key(WRITER.1)
            .with_bucket_name(BUCKET)
            .build()?;
        let prefix = Path::from(format!("rows-of-{}/torchcache-1/feed/s", self.len));
        let objects: Vec<ObjectMeta> = runtime.block_on(plain.list(Some(&prefix)).try_collect())?;
        let bytes_of_call = self.batch_rows * self.len as u64;
        let mut best = [Duration::MAX; 4];
        for round in 0..ROUNDS {
            let [read, on_disk] = self.fill(&format!("reader-{round}"))?;
            let times = [
                runtime.block_on(get_all(&plain, &objects, u64::MAX))?,
                runtime.block_on(get_all(&plain, &objects, bytes_of_call))?,
                read,
                on_disk,
            ];
            for (best, time) in best.iter_mut().zip(times) {
                *best = time.min(*best);
            }
        }
        let megabytes = (self.rows * self.len as u64) as f64 / 1e6;
        let [whole, ranges, read, on_disk] = best.map(|time| megabytes / time.as_secs_f64());
        println!(
            "| {} kB | {} | {} | {whole:.0} MB/s | {ranges:.0} MB/s | {read:.0} MB/s | {on_disk:.0} MB/s | {:.2} | {:.2} |",
            self.len / 1000,
            self.batch_rows,
            objects.len(),
            read / whole,
            read / ranges,
        );
        Ok(())
    }
}

/// Gets all bytes of objects, so many of an object by a request, one request after the other.
async fn get_all(
    store: &AmazonS3,
    objects: &[ObjectMeta],
    bytes_a_request: u64,
) -> object_store::Result<Duration> {
    let begin = Instant::now();
    for object in objects {
        for first in (0..object.size).step_by(bytes_a_request as usize) {
            let end = object.size.min(first.saturating_add(bytes_a_request));
            let body = store.get_range(&object.location, first..end).await?;
            assert_eq!(body.len() as u64, end - first);
        }
    }
    Ok(begin.elapsed())
}
