//! The state of a run, and its steps.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::module::{Outer, Runs, input};
use proptest::prelude::*;
use tch::nn::{ModuleT, OptimizerConfig};
use tch::{Device, Kind, Tensor, nn};
use torchcache::TorchCache;

use super::process::Process;
use super::steps::{
    Action, INSTANCES, Kept, LARGE, Part, Report, Setting, Step, Swap, TWO, Training, WRAPPED,
    Write,
};
use super::threads::Shared;
use crate::support::{panic_of, same};

/// How often each step and effect occurred in all runs.
pub(super) type Seen = RefCell<BTreeMap<&'static str, u64>>;

/// A column of the large weights of which no call compares the element in the second row of [`TWO`].
const UNSEEN: i64 = 17;

type Checked = Result<(), TestCaseError>;

/// Rows that a part of an instance must find, and whether another process must as well.
type Known = BTreeMap<(usize, Part), BTreeMap<i64, bool>>;

/// Fields drop in order: the instances before their directories.
pub(super) struct World<'a> {
    instances: Vec<Instance>,
    shared: Shared,
    known: Known,
    /// Whether another process may have queued rows.
    other_process: bool,
    /// Whether it cleared directories. Rows that this process found since may be in memory alone, or in
    /// files that were open.
    cleared_by_other: bool,
    process: &'a RefCell<Process>,
    seen: &'a Seen,
    root: tempfile::TempDir,
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        if self.other_process && !std::thread::panicking() {
            self.process.borrow_mut().end();
        }
    }
}

/// An instance, the stores that its weights were made in, and their optimizers.
struct Instance {
    outer: Outer,
    stores: [nn::VarStore; 2],
    sgd: [nn::Optimizer; 2],
    adam: [nn::Optimizer; 2],
}

impl Instance {
    fn new(directory: PathBuf) -> Self {
        let mut stores = [(); 2].map(|()| nn::VarStore::new(Device::Cpu));
        let outer = Outer::new(&stores[0], &stores[1], &directory);
        let sgd = stores
            .each_ref()
            .map(|vs| nn::Sgd::default().build(vs, 0.5).unwrap());
        let adam = stores
            .each_ref()
            .map(|vs| nn::Adam::default().build(vs, 0.01).unwrap());
        stores.iter_mut().for_each(nn::VarStore::freeze);
        Instance {
            outer,
            stores,
            sgd,
            adam,
        }
    }

    fn handle(&self, part: Part) -> &TorchCache {
        match part {
            Part::Outer => &self.outer.torchcache,
            Part::Inner => &self.outer.inner.torchcache,
            Part::Wrapped => self.outer.wrapped.cache(),
        }
    }

    fn runs(&self, part: Part) -> &Runs {
        match part {
            Part::Outer => &self.outer.runs,
            Part::Inner => &self.outer.inner.runs,
            Part::Wrapped => &self.outer.wrapped_runs,
        }
    }

    fn is_enabled(&self, part: Part) -> bool {
        match part {
            Part::Outer => self.outer.torchcache_enabled,
            Part::Inner => self.outer.inner.torchcache_enabled,
            Part::Wrapped => true,
        }
    }

    fn is_trainable(&self, part: Part) -> bool {
        let of_part = |number: usize| match part {
            Part::Outer => true,
            Part::Inner => part_of(number) == Part::Inner,
            Part::Wrapped => number == WRAPPED,
        };
        let mut tensors = self.outer.tensors().into_iter().enumerate();
        // The wrapped module watches its store.
        tensors.any(|(number, tensor)| of_part(number) && tensor.requires_grad())
    }

    fn forward(&self, part: Part, xs: &Tensor) -> Tensor {
        match part {
            Part::Outer => self.outer.forward_t(xs, false),
            Part::Inner => self.outer.inner.forward_t(xs, false),
            Part::Wrapped => self.outer.wrapped.forward(xs),
        }
    }

    /// The output without a cache.
    fn plain(&self, part: Part, xs: &Tensor) -> Tensor {
        tch::no_grad(|| match part {
            Part::Outer => self.outer.plain(xs, false),
            Part::Inner => self.outer.inner.plain(xs, false),
            Part::Wrapped => self.outer.wrapped.module().forward_t(xs, false),
        })
    }

    fn act(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Call(part, rows) => {
                let xs = input(rows);
                let (given, expected) = (self.forward(*part, &xs), self.plain(*part, &xs));
                if !same(&given, &expected) {
                    return Err(format!("in a thread: {given:?} is not {expected:?}"));
                }
            }
            Action::Refresh(part) => self.handle(*part).refresh(),
            Action::Clear(part) => self.handle(*part).clear(),
            Action::Flush(part) => {
                let flushed = self.handle(*part).flush();
                flushed.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// The part that the tensor of a number belongs to.
fn part_of(number: usize) -> Part {
    match number {
        0 | 2..=6 => Part::Inner,
        WRAPPED => Part::Wrapped,
        _ => Part::Outer,
    }
}

impl<'a> World<'a> {
    pub(super) fn new(process: &'a RefCell<Process>, seen: &'a Seen) -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("0");
        let instances = [(); INSTANCES].map(|()| Instance::new(directory.clone()));
        let world = World {
            shared: Shared::new(&directory),
            instances: instances.into(),
            known: Known::new(),
            other_process: false,
            cleared_by_other: false,
            process,
            seen,
            root,
        };
        world.save(0);
        world.instances[1].outer.load(&world.saved());
        world
    }

    fn saved(&self) -> PathBuf {
        self.root.path().join("saved.ot")
    }

    fn save(&self, one: usize) {
        self.instances[one].outer.save(&self.saved());
    }

    fn saw(&self, what: &'static str, times: u64) {
        *self.seen.borrow_mut().entry(what).or_default() += times;
    }

    pub(super) fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Call(one, part, ref rows, gradients) => self.call(one, part, rows, gradients)?,
            Step::Train(one, ref training) => self.train(one, training)?,
            Step::Statistics(one, ref rows) => self.statistics(one, rows)?,
            Step::Freeze(one, true) => self.freeze(one),
            Step::Freeze(one, false) => self.unfreeze(one),
            Step::Write(one, number, how, factor) => self.write(one, number, how, factor)?,
            Step::Unseen(one, number, report, factor) => {
                self.write_unseen(one, number, report, factor)?;
            }
            Step::Swap(swap) => self.swap(swap),
            Step::Replace(one, number, factor) => self.replace(one, number, factor),
            Step::Half(one, part, ref rows) => self.half(one, part, rows)?,
            Step::Set(one, setting) => self.set(one, setting),
            Step::Refresh(one, part) => self.instances[one].handle(part).refresh(),
            Step::Clear(one, part, ref rows) => self.clear(one, part, rows)?,
            Step::Flush(one) => self.flush(one)?,
            Step::Reopen(one) => self.reopen(one),
            Step::Save(one) => self.save(one),
            Step::Load(one) => {
                self.instances[one].outer.load(&self.saved());
                self.changed_all(one);
            }
            Step::Process(one, kept, ref rows) => self.process(one, kept, rows)?,
            Step::Apart(ref actions) => self.apart(actions)?,
            Step::Together(change, ref threads) => {
                if let Some((how, factor)) = change {
                    self.shared.change(how, factor);
                }
                let hits = self.shared.use_together(threads);
                self.saw(
                    "a row that threads found",
                    hits.map_err(TestCaseError::fail)?,
                );
                let cleared = self.shared.clear_during_a_call();
                cleared.map_err(TestCaseError::fail)?;
                self.saw("a clear during a call", 1);
            }
        }
        self.saw(step.name(), 1);
        Ok(())
    }

    /// What a weight of `part` changes.
    fn changed(&mut self, one: usize, part: Part) {
        self.known.remove(&(one, part));
        self.known.remove(&(one, Part::Outer));
    }

    fn changed_all(&mut self, one: usize) {
        self.known.retain(|(instance, _), _| *instance != one);
    }

    /// Calls, and compares output and runs with the model.
    fn call(&mut self, one: usize, part: Part, rows: &[i64], gradients: bool) -> Checked {
        let instance = &self.instances[one];
        let (xs, handle) = (input(rows), instance.handle(part));
        if gradients && instance.is_enabled(part) && instance.is_trainable(part) {
            let message = panic_of(|| instance.forward(part, &xs));
            prop_assert!(message.contains("requires grad"), "{message}");
            self.saw("a refused call", 1);
            return Ok(());
        }
        let _guard = instance.is_trainable(Part::Outer).then(tch::no_grad_guard);
        instance.runs(part).take();
        let before = handle.stats();
        let given = instance.forward(part, &xs);
        let stats = handle.stats().since(&before);
        let runs = instance.runs(part).take();
        let expected = instance.plain(part, &xs);
        prop_assert!(
            same(&given, &expected),
            "{part:?} of {one}: {given:?} is not {expected:?}"
        );
        if !instance.is_enabled(part) || rows.is_empty() {
            prop_assert_eq!(runs, vec![rows.to_vec()], "past the cache");
            return Ok(());
        }
        prop_assert_eq!((stats.bypassed, stats.mismatched), (0, 0));
        let forwards = usize::from(stats.misses > 0) + usize::from(stats.verified > 0);
        // The first call of one row runs the forward once more, to see the shape of its output.
        let most = forwards + usize::from(rows.len() == 1);
        prop_assert!(
            (forwards..=most).contains(&runs.len()),
            "{} instead of {forwards} forwards of {part:?}",
            runs.len()
        );
        let computed = runs.first().filter(|_| stats.misses > 0);
        let computed: BTreeSet<i64> = computed.into_iter().flatten().copied().collect();
        prop_assert_eq!(computed.len() as u64, stats.misses, "each once");
        let known = self.known.entry((one, part)).or_default();
        let lost: Vec<_> = computed
            .iter()
            .filter(|row| known.contains_key(row))
            .collect();
        prop_assert!(lost.is_empty(), "{part:?} of {one} computed {lost:?} again");
        let had_to = rows.iter().filter(|row| known.contains_key(row)).count();
        for row in rows {
            let is_on_disk = !self.cleared_by_other || computed.contains(row);
            known.entry(*row).or_insert(is_on_disk);
        }
        for (what, times) in [
            ("a row that had to be found", had_to as u64),
            ("a row that could not be", stats.misses),
            ("a row from memory", stats.memory.hits),
            ("a row from disk", stats.disk.hits),
            ("a verified row", stats.verified),
        ] {
            self.saw(what, times);
        }
        Ok(())
    }

    fn freeze(&mut self, one: usize) {
        self.instances[one]
            .stores
            .iter_mut()
            .for_each(nn::VarStore::freeze);
    }

    fn unfreeze(&mut self, one: usize) {
        self.instances[one]
            .stores
            .iter_mut()
            .for_each(nn::VarStore::unfreeze);
    }

    fn train(&mut self, one: usize, training: &Training) -> Checked {
        self.unfreeze(one);
        if training.only_table {
            let tensors = self.instances[one].outer.tensors();
            for tensor in &tensors[1..] {
                let _ = tensor.set_requires_grad(false);
            }
        }
        let xs = input(&[&TWO[..], &training.rows].concat());
        let instance = &self.instances[one];
        let output = match training.by_call {
            true => self.call_training(one, &xs)?,
            false => instance.outer.plain(&xs, false),
        };
        let loss = output.square().mean(Kind::Float);
        if loss.requires_grad() {
            loss.backward();
        }
        let Instance { sgd, adam, .. } = &mut self.instances[one];
        for optimizer in if training.adam { adam } else { sgd } {
            optimizer.step();
            if training.zero_grad {
                optimizer.zero_grad();
            }
        }
        if training.freeze {
            self.freeze(one);
        }
        // Its stores may hold tensors that were swapped.
        (0..INSTANCES).for_each(|one| self.changed_all(one));
        Ok(())
    }

    fn statistics(&mut self, one: usize, rows: &[i64]) -> Checked {
        let xs = input(&[&TWO[..], rows].concat());
        tch::no_grad(|| self.call_training(one, &xs))?;
        self.changed(one, Part::Inner);
        Ok(())
    }

    /// The output of a call with `train == true`.
    fn call_training(&self, one: usize, xs: &Tensor) -> Result<Tensor, TestCaseError> {
        let outer = &self.instances[one].outer;
        let before = outer.torchcache.stats();
        let given = outer.forward_t(xs, true);
        let expected = outer.in_training(xs);
        prop_assert!(
            same(&given.detach(), &expected.detach()),
            "in training, {given:?} is not {expected:?}"
        );
        let stats = outer.torchcache.stats().since(&before);
        prop_assert_eq!((stats.bypassed, stats.rows), (1, 0));
        Ok(given)
    }

    fn write(&mut self, one: usize, number: usize, how: Write, factor: f64) -> Checked {
        self.call_both(one)?;
        let tensor = self.instances[one].outer.tensors()[number];
        how.multiply(tensor, TWO[0], factor);
        self.changed(one, part_of(number));
        self.call_both(one)
    }

    /// Writes one element that no call compares, which rows of both modules were computed from, and
    /// reports it.
    fn write_unseen(&mut self, one: usize, number: usize, report: Report, factor: f64) -> Checked {
        self.call_both(one)?;
        let outer = &self.instances[one].outer;
        if let Report::Train = report {
            // The statistics are put back, so that the call alone reports the write.
            let norm = &outer.inner.norm;
            let statistics = [&norm.running_mean, &norm.running_var];
            let before = statistics.map(Tensor::copy);
            tch::no_grad(|| self.call_training(one, &input(&TWO)))?;
            for (tensor, before) in statistics.into_iter().zip(before) {
                tensor.data().copy_(&before);
            }
        }
        let tensor = outer.tensors()[number];
        let written = match report {
            Report::Version => tensor.detach(),
            _ => tensor.data(),
        };
        let mut element = written.narrow(0, TWO[1], 1).narrow(1, UNSEEN, 1);
        element.copy_(&(&element * factor));
        match report {
            Report::Train | Report::Version => {}
            Report::RefreshInner if number == LARGE[0] => outer.inner.torchcache.refresh(),
            Report::RefreshInner | Report::RefreshOuter => {
                outer.torchcache.refresh();
                if !outer.torchcache_enabled {
                    // Only an attach of the outer module reaches the inner one.
                    outer.inner.torchcache.refresh();
                }
            }
        }
        self.changed(one, part_of(number));
        self.call_both(one)
    }

    /// Calls the outer module, and then the inner one.
    fn call_both(&mut self, one: usize) -> Checked {
        let mut parts = [Part::Outer, Part::Inner].into_iter();
        parts.try_for_each(|part| self.call(one, part, &TWO, false))
    }

    fn swap(&mut self, swap: Swap) {
        let [one, two] = self.instances.as_mut_slice() else {
            unreachable!("there are two");
        };
        let (one, two) = (&mut one.outer, &mut two.outer);
        match swap {
            Swap::Field(number) => {
                std::mem::swap(one.fields()[number], two.fields()[number]);
            }
            Swap::Inner => std::mem::swap(&mut one.inner, &mut two.inner),
            Swap::Wrapped => {
                std::mem::swap(&mut one.wrapped, &mut two.wrapped);
                std::mem::swap(&mut one.wrapped_weight, &mut two.wrapped_weight);
                std::mem::swap(&mut one.wrapped_runs, &mut two.wrapped_runs);
            }
            Swap::Handle => std::mem::swap(&mut one.torchcache, &mut two.torchcache),
            Swap::InnerHandle => {
                std::mem::swap(&mut one.inner.torchcache, &mut two.inner.torchcache);
            }
        }
        self.known.clear();
    }

    fn replace(&mut self, one: usize, number: usize, factor: f64) {
        let fields = self.instances[one].outer.fields();
        *fields[number] = tch::no_grad(|| (&*fields[number] * factor).contiguous());
        if factor != 1.0 {
            self.changed(one, part_of(number));
        }
    }

    fn half(&mut self, one: usize, part: Part, rows: &[i64]) -> Checked {
        self.convert(one, Kind::Half);
        self.call(one, part, rows, false)?;
        self.convert(one, Kind::Float);
        Ok(())
    }

    /// As `VarStore::half` does, also for fields that were replaced.
    fn convert(&mut self, one: usize, kind: Kind) {
        for tensor in self.instances[one].outer.tensors() {
            tensor
                .shallow_clone()
                .set_data(&tensor.detach().to_kind(kind));
        }
        self.changed_all(one);
    }

    fn set(&mut self, one: usize, setting: Setting) {
        let directory = |number: usize| self.root.path().join(number.to_string());
        let outer = &mut self.instances[one].outer;
        macro_rules! field {
            ($part:ident, $field:ident) => {
                match $part {
                    Part::Inner => &mut outer.inner.$field,
                    _ => &mut outer.$field,
                }
            };
        }
        match setting {
            Setting::Enabled(part, on) => *field!(part, torchcache_enabled) = on,
            Setting::Verify(part, on) => {
                *field!(part, torchcache_verify) = f64::from(u8::from(on));
            }
            Setting::Persistent(part, on) => {
                *field!(part, torchcache_persistent) = on;
                self.known.remove(&(one, part));
            }
            Setting::Directory(part, number) => {
                *field!(part, torchcache_persistent_cache_dir) = directory(number);
                self.known.remove(&(one, part));
            }
        }
    }

    fn clear(&mut self, one: usize, part: Part, rows: &[i64]) -> Checked {
        self.call(one, part, rows, false)?;
        self.instances[one].handle(part).clear();
        self.known.retain(|(_, cleared), _| *cleared != part);
        let misses = |world: &Self| world.instances[one].handle(part).stats().misses;
        let before = misses(self);
        self.call(one, part, rows, false)?;
        let distinct: BTreeSet<_> = rows.iter().collect();
        if self.instances[one].is_enabled(part) && !self.other_process {
            prop_assert_eq!(
                misses(self) - before,
                distinct.len() as u64,
                "after a clear"
            );
        }
        Ok(())
    }

    fn flush(&self, one: usize) -> Checked {
        for part in [Part::Outer, Part::Inner, Part::Wrapped] {
            let flushed = self.instances[one].handle(part).flush();
            prop_assert!(flushed.is_ok(), "{part:?}: {flushed:?}");
        }
        Ok(())
    }

    fn reopen(&mut self, one: usize) {
        let weights = self.root.path().join("reopened.ot");
        let old = &self.instances[one].outer;
        old.save(&weights);
        let mut new = Instance::new(old.torchcache_persistent_cache_dir.clone());
        new.outer.load(&weights);
        macro_rules! keep {
            ($($field:ident)*) => {$(
                new.outer.$field = old.$field.clone();
                new.outer.inner.$field = old.inner.$field.clone();
            )*};
        }
        keep!(torchcache_enabled torchcache_persistent torchcache_persistent_cache_dir torchcache_verify);
        for (part, is_kept) in [
            (Part::Outer, old.torchcache_persistent),
            (Part::Inner, old.inner.torchcache_persistent),
            // It may have been swapped, and then has rows in another directory.
            (Part::Wrapped, false),
        ] {
            if !is_kept {
                self.known.remove(&(one, part));
            }
        }
        // Rows in memory alone go with their last instance.
        for (_, rows) in self.known.iter_mut().filter(|((of, _), _)| *of == one) {
            rows.retain(|_, is_on_disk| *is_on_disk);
        }
        self.instances[one] = new;
    }

    fn process(&mut self, one: usize, kept: Kept, rows: &[i64]) -> Checked {
        if kept == Kept::Reopen {
            self.call(one, Part::Outer, rows, false)?;
        }
        self.flush(one)?;
        self.other_process = true;
        let weights = self.root.path().join("process.ot");
        let outer = &self.instances[one].outer;
        outer.save(&weights);
        let directory = &outer.torchcache_persistent_cache_dir;
        let called = self
            .process
            .borrow_mut()
            .call(kept, directory, &weights, rows);
        let (given, hits) = called;
        let expected = self.instances[one].plain(Part::Outer, &input(rows));
        prop_assert!(
            same(&given, &expected),
            "in another process: {given:?} is not {expected:?}"
        );
        let known = self.known.get(&(one, Part::Outer));
        let had_to = |row: &&i64| known.is_some_and(|known| known.get(row) == Some(&true));
        match kept {
            Kept::Clear => {
                self.known.clear();
                self.cleared_by_other = true;
            }
            Kept::Reopen if outer.torchcache_persistent => {
                let had_to = rows.iter().filter(had_to).count() as u64;
                prop_assert!(hits >= had_to, "{hits} of {had_to} in another process");
                self.saw("a row that the second process had to find", had_to);
            }
            _ => {}
        }
        Ok(())
    }

    fn apart(&mut self, actions: &[Vec<Action>; INSTANCES]) -> Checked {
        let results = std::thread::scope(|scope| {
            let threads = self
                .instances
                .iter_mut()
                .zip(actions)
                .map(|(instance, actions)| {
                    scope.spawn(move || {
                        let _guard = tch::no_grad_guard();
                        actions.iter().try_for_each(|action| instance.act(action))
                    })
                });
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        });
        results.map_err(TestCaseError::fail)?;
        let cleared = actions.iter().flatten().filter_map(|action| match action {
            Action::Clear(part) => Some(*part),
            _ => None,
        });
        for part in cleared {
            self.known.retain(|(_, known), _| *known != part);
        }
        Ok(())
    }

    /// After all steps, each row is computed at most once more.
    pub(super) fn end(&mut self) -> Checked {
        for one in 0..INSTANCES {
            for part in [Part::Outer, Part::Inner, Part::Wrapped] {
                for _ in 0..2 {
                    self.call(one, part, &TWO, false)?;
                }
            }
        }
        Ok(())
    }
}
