//! The results of the runs as Markdown.

use torchcache_benches::figures::median;
use torchcache_benches::table::{Table, bytes, ratio, time};

use crate::measured::{Ample, Later, Plain, Starved};

impl Ample {
    /// The median, over blocks of the first epoch, of the time with the cache divided by the time without
    /// it. Interference slows single blocks down.
    fn median_of_blocks(&self) -> f64 {
        let blocks = self.first_with.iter().zip(&self.first_without);
        middle(blocks.map(|(with, without)| with / without))
    }
}

fn middle(blocks: impl Iterator<Item = f64>) -> f64 {
    median(blocks).expect("an epoch has blocks")
}

pub(crate) fn markdown(plain: &Plain, ample: &Ample, starved: &Starved) -> String {
    let mut table = Table::new(
        2,
        &["run", "epoch", "time", "compared with", "its time", "ratio"],
    );
    let seconds = |seconds: f64| time(seconds * 1e3);
    let total = |blocks: &[f64]| blocks.iter().sum::<f64>();
    let (first_with, first_without) = (total(&ample.first_with), total(&ample.first_without));
    let first = first_with / first_without;
    table.row([
        "memory for all".into(),
        "first".into(),
        seconds(first_with),
        "the plain forward and the head".into(),
        seconds(first_without),
        ratio(first),
    ]);
    table.row([
        "memory for all".into(),
        "first, its median block".into(),
        seconds(middle(ample.first_with.iter().copied())),
        "the same".into(),
        seconds(middle(ample.first_without.iter().copied())),
        ratio(ample.median_of_blocks()),
    ]);
    let head = |later: &Later| later.head + later.hashing;
    let later = ample.later.epoch / head(&ample.later);
    table.row([
        "memory for all".into(),
        "later".into(),
        seconds(ample.later.epoch),
        "the head and the hashing".into(),
        seconds(head(&ample.later)),
        ratio(later),
    ]);
    for (epoch, took) in [("first", starved.first), ("later", starved.later.epoch)] {
        table.row([
            "memory for a quarter".into(),
            epoch.into(),
            seconds(took),
            "the head and the hashing".into(),
            seconds(head(&starved.later)),
            ratio(took / head(&starved.later)),
        ]);
    }
    let faster = first_without / ample.later.epoch;
    let mut memory = Table::new(
        1,
        &["run", "peak of memory", "beyond the plain run", "bound"],
    );
    let beyond = |peak: u64| bytes(peak as f64 - plain.peak_bytes as f64);
    memory.row([
        "without the cache".into(),
        bytes(plain.peak_bytes as f64),
        String::new(),
        String::new(),
    ]);
    memory.row([
        "memory for all".into(),
        bytes(ample.peak_bytes as f64),
        beyond(ample.peak_bytes),
        format!("{} in use", bytes(ample.memory_bytes as f64)),
    ]);
    memory.row([
        "memory for a quarter".into(),
        bytes(starved.peak_bytes as f64),
        beyond(starved.peak_bytes),
        bytes(starved.bound as f64),
    ]);
    format!(
        "{images} images, {distinct} of them distinct, on the device {device}; the features take {disk} on \
         disk. A later epoch is {faster:.0} times as fast as one without the cache.

{table}
In the second process no image is computed: {from_disk:.0} % of its rows came from disk. The peaks of \
         memory include the images, libtorch and, in the cached runs, a copy of all features ({copy}) for \
         the comparison.

{memory}",
        device = ample.device,
        images = ample.images,
        distinct = ample.distinct,
        disk = bytes(ample.disk_bytes as f64),
        from_disk = starved.from_disk * 100.0,
        copy = bytes((ample.images * 512 * 4) as f64),
    )
}
