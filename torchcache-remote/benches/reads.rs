//! Reads the same bytes from a real server by plain `object_store` and by the trait of the remote tier, in turn, and
//! prints the ratio. Needs the variable that names the server.
//!
//! ```sh
//! TORCHCACHE_SEAWEEDFS=target/seaweedfs/4.48/bin/weed cargo bench --package torchcache-remote --bench reads
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use tokio::runtime::Builder;
use torchcache_servers::{SeaweedFs, Server, WRITER, variables};
use torchcache_store::remote::{ObjectStore, RangeRead};

const BUCKET: &str = "bench";
const OBJECTS: u64 = 4;
const OBJECT_BYTES: u64 = 64 << 20;
/// What a fetch of rows asks for at a time.
const REQUEST_BYTES: u64 = 8 << 20;
const ROUNDS: usize = 5;

fn key(n: u64) -> String {
    format!("reads/{n}")
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let server = SeaweedFs::start(dir.path())?;
    server.create_bucket(BUCKET)?;
    let url = format!("s3://{BUCKET}/reads");
    let ours = torchcache_remote::open_with(&url, variables(&server.endpoint(), WRITER))?.store;
    let plain = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(WRITER.0)
        .with_secret_access_key(WRITER.1)
        .with_bucket_name(BUCKET)
        .build()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;

    let mut bytes = vec![0u8; OBJECT_BYTES as usize];
    let mut state = 1u64;
    for byte in &mut bytes {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    let bytes = Arc::new(bytes);
    for n in 0..OBJECTS {
        let deadline = Instant::now() + Duration::from_secs(60);
        ours.put_new(&key(n), &bytes, deadline)?;
    }

    let (mut best_plain, mut best_ours) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        for n in 0..OBJECTS {
            let got = runtime
                .block_on(async { plain.get(&Path::parse(key(n))?).await?.bytes().await })?;
            assert!(got == bytes[..], "other bytes");
        }
        best_plain = best_plain.min(begin.elapsed());

        let begin = Instant::now();
        read_all(&*ours, &bytes);
        best_ours = best_ours.min(begin.elapsed());
    }
    let megabytes = (OBJECTS * OBJECT_BYTES) as f64 / 1e6;
    let rate = |time: Duration| megabytes / time.as_secs_f64();
    println!("| {megabytes:.0} MB, the best of {ROUNDS} rounds | MB/s |");
    println!("| --- | ---: |");
    println!("| plain GET, {OBJECTS} objects | {:.0} |", rate(best_plain));
    println!(
        "| the remote tier's trait, ranges of {} MiB | {:.0} |",
        REQUEST_BYTES >> 20,
        rate(best_ours)
    );
    println!("| ratio | {:.2} |", rate(best_ours) / rate(best_plain));
    Ok(())
}

fn read_all(store: &dyn ObjectStore, bytes: &[u8]) {
    let ranges =
        (0..OBJECT_BYTES / REQUEST_BYTES).map(|n| n * REQUEST_BYTES..(n + 1) * REQUEST_BYTES);
    let of_object = |n| {
        ranges
            .clone()
            .map(move |range| RangeRead { key: key(n), range })
    };
    let reads: Vec<_> = (0..OBJECTS).flat_map(of_object).collect();
    let deadline = Instant::now() + Duration::from_secs(600);
    store.read(&reads, deadline, &mut |n, got| {
        let range = reads[n].range.start as usize..reads[n].range.end as usize;
        assert!(got.expect("it is read") == bytes[range], "other bytes");
    });
}
