//! The random steps of the training machine.

use proptest::prelude::*;
use tch::Tensor;

pub(super) const INSTANCES: usize = 2;
/// The rows that are called: few, so that calls repeat them, and most of all those of [`TWO`].
const POOL: [i64; 8] = [0, 1, 1, 64, 200, 200, 398, 399];
/// Two rows, which training steps change.
pub(super) const TWO: [i64; 2] = [1, 200];
/// The large weights among [`super::module::Outer::tensors`]: that of the inner module, and that of the outer.
pub(super) const LARGE: [usize; 2] = [0, 1];
/// The wrapped module's.
pub(super) const WRAPPED: usize = 8;

/// A module of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Outer,
    Inner,
    Wrapped,
}

/// One step. The first number is that of an instance.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// With gradients recorded or not.
    Call(usize, Part, Vec<i64>, bool),
    Train(usize, Training),
    /// A call with `train == true` that changes the statistics of batch norm alone.
    Statistics(usize, Vec<i64>),
    Freeze(usize, bool),
    /// To the tensor of a number.
    Write(usize, usize, Write, f64),
    /// To one element that no call compares, with a report of it.
    Unseen(usize, usize, Report, f64),
    /// Between the two instances.
    Swap(Swap),
    /// The field of a number gets another tensor. With a factor of 1 it has the same elements.
    Replace(usize, usize, f64),
    /// A call after a conversion to half precision, and back.
    Half(usize, Part, Vec<i64>),
    Set(usize, Setting),
    Refresh(usize, Part),
    Clear(usize, Part, Vec<i64>),
    Flush(usize),
    /// The instance is dropped and made again with the same weights.
    Reopen(usize),
    /// The weights are saved.
    Save(usize),
    /// The weights last saved are loaded.
    Load(usize),
    /// A second process with the same weights calls and stores.
    Process(usize, Kept, Vec<i64>),
    /// Each instance in a thread of its own.
    Apart([Vec<Action>; INSTANCES]),
    /// Several threads use one handle, after another weight or none.
    Together(Option<(Write, f64)>, Vec<Vec<Action>>),
}

/// A training step.
#[derive(Debug, Clone)]
pub(super) struct Training {
    pub(super) rows: Vec<i64>,
    pub(super) adam: bool,
    /// Of the table of the inner module alone.
    pub(super) only_table: bool,
    /// By a call with `train == true`, or past the module.
    pub(super) by_call: bool,
    pub(super) zero_grad: bool,
    pub(super) freeze: bool,
}

/// How a tensor is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    Copy,
    /// One row, past the version counter.
    Data,
    SetData,
}

impl Write {
    /// Multiplies a tensor, or one row of it.
    pub(super) fn multiply(self, tensor: &Tensor, row: i64, factor: f64) {
        let mut tensor = tensor.shallow_clone();
        tch::no_grad(|| match self {
            Write::Copy => tensor.copy_(&(&tensor * factor)),
            Write::Data => {
                let mut row = tensor.data().narrow(0, row, 1);
                row.copy_(&(&row * factor));
            }
            Write::SetData => tensor.set_data(&(tensor.detach() * factor)),
        });
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Report {
    RefreshOuter,
    RefreshInner,
    /// Training calls the module before it writes.
    Train,
    /// The write is counted by libtorch.
    Version,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Swap {
    /// The field of a number.
    Field(usize),
    Inner,
    Wrapped,
    Handle,
    InnerHandle,
}

/// A field to set, of the outer module or the inner one.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    Enabled(Part, bool),
    Persistent(Part, bool),
    Directory(Part, usize),
    Verify(Part, bool),
}

/// What the second process does with the module of its last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Keep,
    Reopen,
    Clear,
}

/// What a thread does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Call(Part, Vec<i64>),
    Refresh(Part),
    Clear(Part),
    Flush(Part),
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Step::Call(..) => "call",
            Step::Train(_, Training { adam: true, .. }) => "a step of Adam",
            Step::Train(..) => "a step of SGD",
            Step::Statistics(..) => "statistics",
            Step::Freeze(_, true) => "freeze",
            Step::Freeze(_, false) => "unfreeze",
            Step::Write(_, _, Write::Copy, _) => "copy_",
            Step::Write(_, _, Write::Data, _) => "data",
            Step::Write(_, _, Write::SetData, _) => "set_data",
            Step::Unseen(_, _, Report::Train, _) => "an unseen write in training",
            Step::Unseen(_, _, Report::Version, _) => "a write of one element",
            Step::Unseen(..) => "refresh after an unseen write",
            Step::Swap(Swap::Field(_)) => "swap fields",
            Step::Swap(Swap::Inner | Swap::Wrapped) => "swap modules",
            Step::Swap(_) => "swap handles",
            Step::Replace(..) => "replace a field",
            Step::Half(..) => "half precision",
            Step::Set(_, setting) => match setting {
                Setting::Enabled(..) => "enabled",
                Setting::Persistent(..) => "persistent",
                Setting::Directory(..) => "directory",
                Setting::Verify(..) => "verify",
            },
            Step::Refresh(..) => "refresh",
            Step::Clear(..) => "clear",
            Step::Flush(_) => "flush",
            Step::Reopen(_) => "reopen",
            Step::Save(_) => "save",
            Step::Load(_) => "load",
            Step::Process(..) => "a second process",
            Step::Apart(_) => "a thread for each instance",
            Step::Together(..) => "threads of one handle",
        }
    }
}

/// Everything that must happen in at least one run: steps and their effects.
pub(super) const KINDS: [&str; 39] = [
    "call",
    "a step of Adam",
    "a step of SGD",
    "statistics",
    "freeze",
    "unfreeze",
    "copy_",
    "data",
    "set_data",
    "an unseen write in training",
    "a write of one element",
    "refresh after an unseen write",
    "swap fields",
    "swap modules",
    "swap handles",
    "replace a field",
    "half precision",
    "enabled",
    "persistent",
    "directory",
    "verify",
    "refresh",
    "clear",
    "flush",
    "reopen",
    "save",
    "load",
    "a second process",
    "a thread for each instance",
    "threads of one handle",
    "a refused call",
    "a row that had to be found",
    "a row that could not be",
    "a row from memory",
    "a row from disk",
    "a verified row",
    "a row that the second process had to find",
    "a row that threads found",
    "a clear during a call",
];

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..40)
}

fn rows(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(prop::sample::select(POOL.to_vec()), count)
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        3 => Just(Part::Outer),
        1 => Just(Part::Inner),
        1 => Just(Part::Wrapped),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    prop::sample::select(vec![Write::Copy, Write::Data, Write::SetData])
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..INSTANCES;
    let tensor = prop_oneof![prop::sample::select(LARGE.to_vec()), 0..=WRAPPED];
    let factor = prop::sample::select(vec![0.5, 0.75, 1.25]);
    let large = prop::sample::select(LARGE.to_vec());
    let reports = vec![
        Report::RefreshOuter,
        Report::RefreshInner,
        Report::Train,
        Report::Version,
    ];
    let swaps = prop_oneof![
        3 => (0..WRAPPED).prop_map(Swap::Field),
        1 => Just(Swap::Inner),
        1 => Just(Swap::Wrapped),
        1 => Just(Swap::Handle),
        1 => Just(Swap::InnerHandle),
    ];
    let kept = prop::sample::select(vec![Kept::Keep, Kept::Reopen, Kept::Reopen, Kept::Clear]);
    let changes = vec![0.75, 1.0, 1.25];
    let threads = prop::collection::vec(actions(), 2..4);
    prop_oneof![
        24 => (one.clone(), part(), rows(0..7), prop::bool::weighted(0.3))
            .prop_map(|(one, part, rows, gradients)| Step::Call(one, part, rows, gradients)),
        5 => (one.clone(), training()).prop_map(|(one, training)| Step::Train(one, training)),
        2 => (one.clone(), rows(1..4)).prop_map(|(one, rows)| Step::Statistics(one, rows)),
        3 => (one.clone(), any::<bool>()).prop_map(|(one, frozen)| Step::Freeze(one, frozen)),
        5 => (one.clone(), tensor, write(), factor.clone())
            .prop_map(|(one, tensor, how, factor)| Step::Write(one, tensor, how, factor)),
        5 => (one.clone(), large, prop::sample::select(reports), factor.clone())
            .prop_map(|(one, tensor, report, factor)| Step::Unseen(one, tensor, report, factor)),
        4 => swaps.prop_map(Step::Swap),
        3 => (one.clone(), 0..WRAPPED, prop::sample::select(changes))
            .prop_map(|(one, field, factor)| Step::Replace(one, field, factor)),
        2 => (one.clone(), part(), rows(1..4))
            .prop_map(|(one, part, rows)| Step::Half(one, part, rows)),
        5 => (one.clone(), setting()).prop_map(|(one, setting)| Step::Set(one, setting)),
        2 => (one.clone(), part()).prop_map(|(one, part)| Step::Refresh(one, part)),
        2 => (one.clone(), part(), rows(1..4))
            .prop_map(|(one, part, rows)| Step::Clear(one, part, rows)),
        2 => one.clone().prop_map(Step::Flush),
        2 => one.clone().prop_map(Step::Reopen),
        1 => one.clone().prop_map(Step::Save),
        2 => one.clone().prop_map(Step::Load),
        2 => (one, kept, rows(1..5)).prop_map(|(one, kept, rows)| Step::Process(one, kept, rows)),
        2 => [actions(), actions()].prop_map(Step::Apart),
        2 => (prop::option::of((write(), factor)), threads)
            .prop_map(|(change, threads)| Step::Together(change, threads)),
    ]
}

fn training() -> impl Strategy<Value = Training> {
    let flag = any::<bool>;
    let flags = (flag(), flag(), flag(), flag(), flag());
    (rows(0..3), flags).prop_map(|(rows, (adam, only_table, by_call, zero_grad, freeze))| {
        Training {
            rows,
            adam,
            only_table,
            by_call,
            zero_grad,
            freeze,
        }
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    let part = prop::sample::select(vec![Part::Outer, Part::Inner]);
    prop_oneof![
        (part.clone(), prop::bool::weighted(0.7)).prop_map(|(part, on)| Setting::Enabled(part, on)),
        (part.clone(), prop::bool::weighted(0.7))
            .prop_map(|(part, on)| Setting::Persistent(part, on)),
        (part.clone(), 0..2usize).prop_map(|(part, number)| Setting::Directory(part, number)),
        (part, any::<bool>()).prop_map(|(part, on)| Setting::Verify(part, on)),
    ]
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (part(), rows(1..5)).prop_map(|(part, rows)| Action::Call(part, rows)),
        1 => part().prop_map(Action::Refresh),
        1 => part().prop_map(Action::Clear),
        1 => part().prop_map(Action::Flush),
    ];
    prop::collection::vec(action, 1..5)
}
