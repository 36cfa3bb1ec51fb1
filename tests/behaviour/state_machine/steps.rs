//! The random steps of the state machine test.

use proptest::prelude::*;
use torchcache::Eviction;

use super::damage::Damage;
use super::model::{Dtype, Roomy};

pub(super) const INSTANCES: usize = 3;
pub(super) const DIRECTORIES: usize = 2;
/// Distinct rows: few, so that calls repeat them.
pub(super) const POOL: i64 = 12;
pub(super) const WEIGHTS: [[f32; 4]; 3] = [
    [1.0, 2.0, 3.0, 4.0],
    [1.0, 2.0, 3.0, 5.0],
    // With it, the outputs of the largest row still fit into `Half`.
    [0.1, -0.2, 7.0, 1e-3],
];

/// One step.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Call(usize, Vec<i64>),
    /// Calls with one row each, flushed in between: enough segments for a compaction.
    Trickle(usize),
    /// The weights become those of a number, in place or as another tensor.
    Edit(usize, usize, bool),
    Set(usize, Setting),
    Bound(Roomy),
    Refresh(usize),
    Clear(usize),
    Remove(usize, Vec<i64>),
    Flush(usize),
    /// An instance is dropped and replaced by a new one.
    Reopen(usize, i64),
    /// To a directory; the last number selects segment and position.
    Damage(Damage, usize, usize),
}

/// A field to set.
#[derive(Debug, Clone)]
pub(super) enum Setting {
    Enabled(bool),
    Directory(Option<usize>),
    Eviction(Eviction),
    Compression(bool),
    Mmap(bool),
    Dtype(Option<Dtype>),
    Version(usize),
    Verify(f64),
}

impl Step {
    /// The kind of step.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Step::Call(..) => "call",
            Step::Trickle(_) => "trickle",
            Step::Edit(_, _, true) => "edit in place",
            Step::Edit(_, _, false) => "replace the weights",
            Step::Set(_, setting) => match setting {
                Setting::Enabled(_) => "enabled",
                Setting::Directory(_) => "directory",
                Setting::Eviction(_) => "eviction",
                Setting::Compression(_) => "compression",
                Setting::Mmap(_) => "mmap",
                Setting::Dtype(_) => "cache_dtype",
                Setting::Version(_) => "version",
                Setting::Verify(_) => "verify",
            },
            Step::Bound(_) => "bound",
            Step::Refresh(_) => "refresh",
            Step::Clear(_) => "clear",
            Step::Remove(..) => "remove",
            Step::Flush(_) => "flush",
            Step::Reopen(..) => "reopen",
            Step::Damage(damage, ..) => match damage {
                Damage::Flip => "flip a byte",
                Damage::Cut => "cut a segment",
                Damage::Remove => "remove a segment",
                Damage::RemoveDirectory => "remove a directory",
                Damage::Transplant => "copy a segment elsewhere",
                Damage::Block => "put a file in the way",
            },
        }
    }
}

/// Everything that must happen in at least one run: steps and their effects.
pub(super) const KINDS: [&str; 34] = [
    "call",
    "trickle",
    "edit in place",
    "replace the weights",
    "enabled",
    "directory",
    "eviction",
    "compression",
    "mmap",
    "cache_dtype",
    "version",
    "verify",
    "bound",
    "refresh",
    "clear",
    "remove",
    "flush",
    "reopen",
    "flip a byte",
    "cut a segment",
    "remove a segment",
    "remove a directory",
    "copy a segment elsewhere",
    "put a file in the way",
    "an error that names the directory",
    "a call without the directory",
    "a row that had to be found",
    "a row that could not be",
    "a row from memory",
    "a row from disk",
    "a verified row",
    "a row evicted from memory",
    "a row evicted from disk",
    "a fault",
];

/// The instances of a run and its steps.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// The module and the directory of each instance.
    pub(super) instances: Vec<(i64, Option<usize>)>,
    /// Whether segments may be mapped at all.
    pub(super) mapped: bool,
    pub(super) steps: Vec<Step>,
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let directory = || prop::option::weighted(0.8, 0..DIRECTORIES);
    let instances = prop::collection::vec((0i64..2, directory()), INSTANCES);
    let steps = prop::collection::vec(steps(), 1..60);
    (instances, any::<bool>(), steps).prop_map(|(instances, mapped, steps)| Case {
        instances,
        mapped,
        steps,
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let one = 0..INSTANCES;
    let rows = prop::collection::vec(0..POOL, 0..8);
    let damage = prop::sample::select(vec![
        Damage::Flip,
        Damage::Cut,
        Damage::Remove,
        Damage::RemoveDirectory,
        Damage::Transplant,
        Damage::Transplant, // twice, because it needs a second identity in the directory
        Damage::Block,
    ]);
    let roomy = prop::bool::weighted(0.7);
    prop_oneof![
        24 => (one.clone(), rows.clone()).prop_map(|(one, rows)| Step::Call(one, rows)),
        2 => (one.clone(), rows).prop_map(|(one, rows)| Step::Remove(one, rows)),
        4 => (one.clone(), 0..WEIGHTS.len(), any::<bool>())
            .prop_map(|(one, weight, in_place)| Step::Edit(one, weight, in_place)),
        6 => (one.clone(), settings()).prop_map(|(one, setting)| Step::Set(one, setting)),
        2 => (roomy, roomy).prop_map(|(memory, disk)| Step::Bound(Roomy { memory, disk })),
        1 => one.clone().prop_map(Step::Trickle),
        1 => one.clone().prop_map(Step::Refresh),
        1 => one.clone().prop_map(Step::Clear),
        2 => one.clone().prop_map(Step::Flush),
        4 => (one, 0i64..2).prop_map(|(one, module)| Step::Reopen(one, module)),
        4 => (damage, 0..DIRECTORIES, 0usize..1000)
            .prop_map(|(damage, directory, pick)| Step::Damage(damage, directory, pick)),
    ]
}

fn settings() -> impl Strategy<Value = Setting> {
    use Setting::{Compression, Directory, Dtype, Enabled, Mmap, Verify, Version};
    let dtypes = vec![None, Some(self::Dtype::Half), Some(self::Dtype::BFloat16)];
    let policies = vec![Eviction::Lru, Eviction::Never, Eviction::Auto];
    prop_oneof![
        prop::bool::weighted(0.7).prop_map(Enabled),
        prop::option::of(0..DIRECTORIES).prop_map(Directory),
        prop::sample::select(policies).prop_map(Setting::Eviction),
        any::<bool>().prop_map(Compression),
        any::<bool>().prop_map(Mmap),
        prop::sample::select(dtypes).prop_map(Dtype),
        (0usize..2).prop_map(Version),
        prop::sample::select(vec![0.0, 0.5, 1.0]).prop_map(Verify),
    ]
}
