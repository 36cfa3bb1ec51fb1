//! What the runs measured, as Markdown.

use serde::{Deserialize, Serialize};
use torchcache_benches::bars::verdict;
use torchcache_benches::figures::median;
use torchcache_benches::table::{Table, bytes, ratio, time};

use crate::runs::Later;

/// A run without the cache.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) peak_bytes: u64,
}

/// A run with memory for all features.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ample {
    pub(crate) device: String,
    pub(crate) images: u64,
    /// Images that are not the same as another one.
    pub(crate) distinct: u64,
    /// Seconds of each block.
    pub(crate) first_with: Vec<f64>,
    pub(crate) first_without: Vec<f64>,
    pub(crate) later: Later,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) peak_bytes: u64,
}

impl Ample {
    /// How many times as long a block of the first epoch takes as without the cache: half of them less.
    /// Others on the machine slow single blocks down.
    fn median_of_blocks(&self) -> f64 {
        let blocks = self.first_with.iter().zip(&self.first_without);
        middle(blocks.map(|(with, without)| with / without))
    }
}

fn middle(blocks: impl Iterator<Item = f64>) -> f64 {
    median(blocks).expect("an epoch has blocks")
}

/// A second process with memory for a quarter of them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Starved {
    pub(crate) bound: u64,
    pub(crate) first: f64,
    pub(crate) later: Later,
    pub(crate) from_disk: f64,
    pub(crate) peak_bytes: u64,
}

/// The first epoch at most so many times the plain one.
const FIRST_BAR: f64 = 1.05;
/// Later epochs at most so many times the head and the hashing.
const LATER_BAR: f64 = 1.1;

pub(crate) fn markdown(plain: &Plain, ample: &Ample, starved: &Starved) -> String {
    let mut table = Table::new(
        2,
        [
            "run",
            "epoch",
            "seconds",
            "beside",
            "seconds there",
            "ratio",
            "bar",
        ],
    );
    let seconds = |seconds: f64| time(seconds * 1e3);
    let bar = |got: f64, bar: f64| format!("{bar} × {}", verdict(got <= bar));
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
        bar(first, FIRST_BAR),
    ]);
    table.row([
        "memory for all".into(),
        "first, its median block".into(),
        seconds(middle(ample.first_with.iter().copied())),
        "the same".into(),
        seconds(middle(ample.first_without.iter().copied())),
        ratio(ample.median_of_blocks()),
        String::new(),
    ]);
    let head = |later: &Later| later.head + later.hashing;
    let later = ample.later.epoch / head(&ample.later);
    table.row([
        "memory for all".into(),
        "later".into(),
        seconds(ample.later.epoch),
        "the head alone and the hashing".into(),
        seconds(head(&ample.later)),
        ratio(later),
        bar(later, LATER_BAR),
    ]);
    for (epoch, took) in [("first", starved.first), ("later", starved.later.epoch)] {
        table.row([
            "memory for a quarter".into(),
            epoch.into(),
            seconds(took),
            "the head alone and the hashing".into(),
            seconds(head(&starved.later)),
            ratio(took / head(&starved.later)),
            String::new(),
        ]);
    }
    let faster = first_without / ample.later.epoch;
    let mut memory = Table::new(
        1,
        ["run", "peak of memory", "beyond the plain run", "bound"],
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
        "A head is trained on a frozen ResNet-18 (seeded weights, images scaled to 32 x 32) and the
{images} training images of Fashion-MNIST, {distinct} of them distinct, in batches of 64, on the
device {device}. The features are kept in memory and on disk ({disk}). The first epoch takes turns
with the plain one block by block, and what is still to be written at the end of a block counts.
Later epochs take turns with the head alone, which gets its features by an `index_select`; the
fastest of each counts. Both load the images of each batch, as any loop does. The hashing beside them
is what the cache's own clock says, not a measurement of its own. How long the head alone takes
depends on the process, as [below](#where-bars-are-missed-and-what-it-would-take). In one more epoch,
every feature is compared with what was computed. A later epoch is {faster:.0} times faster than one
without the cache.

{table}
The second process has memory for a quarter of the features, and no image is computed in it:
{from_disk:.0} % of its rows came from disk. The peaks are of the host's memory. They include the
images, libtorch, and in the cached runs a copy of all features ({copy}) for the comparison.

{memory}",
        device = ample.device,
        images = ample.images,
        distinct = ample.distinct,
        disk = bytes(ample.disk_bytes as f64),
        from_disk = starved.from_disk * 100.0,
        copy = bytes((ample.images * 512 * 4) as f64),
    )
}
