//! Random calls, edits, options, drops, evictions and damage, in random order. Each call must return
//! what the forward computes with the present weights and options, must not compute a row that the
//! [`model`] knows to be cached, and must not hit a row that it knows not to be.
//!
//! `PROPTEST_CASES` sets the number of runs.

mod damage;
mod machine;
mod model;
mod steps;

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{TestRunner, contextualize_config};
use torchcache::{ErrorKind, Stats};

use self::damage::{Damage, block, damage};
use self::machine::{COLUMNS, Instance, directory, rows};
use self::model::{Identity, Model, Roomy, Rows};
use self::steps::{Case, DIRECTORIES, POOL, Setting, Step, cases};
use crate::support::same;

/// Runs without `PROPTEST_CASES`.
const CASES: u32 = 128;

/// How often each step and effect occurred in all runs.
type Seen = RefCell<BTreeMap<&'static str, u64>>;

type Checked = Result<(), TestCaseError>;

/// The state of a run. Fields drop in order: the instances before their directories.
struct World<'a> {
    instances: Vec<Instance>,
    model: Model,
    roomy: Roomy,
    /// Whether segments may be mapped at all.
    mapped: bool,
    damaged: bool,
    /// The identity of each module hash.
    hashes: BTreeMap<String, Identity>,
    seen: &'a Seen,
    root: tempfile::TempDir,
}

impl<'a> World<'a> {
    fn new(case: &Case, seen: &'a Seen) -> Self {
        let root = tempfile::tempdir().unwrap();
        let instance = |&(module, directory): &_| {
            let identity = Identity {
                module,
                ..Identity::default()
            };
            Instance::new(root.path(), (identity, directory), Roomy::ALL)
        };
        World {
            instances: case.instances.iter().map(instance).collect(),
            model: Model::default(),
            roomy: Roomy::ALL,
            mapped: case.mapped,
            damaged: false,
            hashes: BTreeMap::new(),
            seen,
            root,
        }
    }

    fn saw(&self, what: &'static str, times: u64) {
        *self.seen.borrow_mut().entry(what).or_default() += times;
    }

    fn step(&mut self, step: &Step) -> Checked {
        match *step {
            Step::Call(one, ref numbers) => self.call(one, numbers)?,
            Step::Trickle(one) => self.trickle(one)?,
            Step::Edit(one, number, in_place) => self.instances[one].edit(number, in_place),
            // Cutting a mapped file ends the process, as documented.
            Step::Set(_, Setting::Mmap(true)) if !self.mapped => return Ok(()),
            Step::Set(one, ref setting) => self.instances[one].set(setting, self.root.path()),
            Step::Bound(roomy) => self.bound(roomy),
            Step::Refresh(one) => self.instances[one].machine.cache.refresh(),
            Step::Clear(one) => {
                self.instances[one].machine.cache.clear();
                self.model.clear(one);
            }
            Step::Remove(one, ref numbers) => self.remove(one, numbers)?,
            Step::Flush(one) => self.flush(one)?,
            Step::Reopen(one, module) => self.reopen(one, module),
            Step::Damage(Damage::Block, number, pick) => self.block(number, pick % 2 == 0)?,
            Step::Damage(kind, number, pick) => {
                if !self.damage(kind, number, pick)? {
                    return Ok(());
                }
            }
        }
        self.saw(step.name(), 1);
        Ok(())
    }

    fn call(&mut self, one: usize, numbers: &[i64]) -> Checked {
        let Instance {
            ref machine,
            identity,
            directory,
            ..
        } = self.instances[one];
        let xs = rows(numbers);
        let before = machine.cache.stats();
        let output = machine.forward(&xs);
        let after = machine.cache.stats();
        let runs = machine.runs.take();
        let given = match output {
            Ok(output) => output,
            Err(error) => {
                // An instance that has used the directory before continues without it.
                let is_new = !self.model.uses(one, directory);
                prop_assert!(is_new && self.model.is_blocked(directory), "{error}");
                prop_assert_eq!(error.kind(), ErrorKind::Directory, "{}", error);
                prop_assert!(runs.is_empty());
                prop_assert!(machine.cache.flush().is_err());
                self.model.set_refused(one, true);
                self.saw("an error that names the directory", 1);
                return Ok(());
            }
        };
        self.model.set_refused(one, false);
        let expected = self.instances[one].expected(&xs);
        prop_assert!(
            same(&given.0, &expected.0) && same(&given.1, &expected.1),
            "{given:?} is not {expected:?}"
        );
        let machine = &self.instances[one].machine;
        if !machine.torchcache_enabled {
            prop_assert_eq!(runs, vec![numbers.to_vec()], "past the cache");
            return Ok(());
        }
        let hash = machine.cache.module_hash().unwrap();
        let known = *self.hashes.entry(hash.clone()).or_insert(identity);
        prop_assert_eq!(known, identity, "one hash for two identities");
        let hashes = self.hashes.values().filter(|&&known| known == identity);
        prop_assert_eq!(hashes.count(), 1, "two hashes for one identity");
        // An instance continues without a blocked directory, for some time after it is restored.
        let away = self.model.was_blocked(directory) && machine.cache.directory().is_none();
        let place = self.instances[one].place();
        self.model.attach(one, place, away, self.roomy);
        self.saw("a call without the directory", u64::from(away));
        if numbers.is_empty() {
            prop_assert_eq!(runs, vec![Vec::<i64>::new()], "past the cache");
            return Ok(());
        }
        let rows = numbers.iter().map(|&number| (identity, number)).collect();
        self.compare(one, &rows, runs, &before, &after)
    }

    fn remove(&mut self, one: usize, numbers: &[i64]) -> Checked {
        let Instance {
            ref machine,
            identity,
            directory,
            ..
        } = self.instances[one];
        let xs = rows(numbers);
        let removed = machine.cache.remove(|| machine.forward(&xs));
        prop_assert!(machine.runs.take().is_empty());
        let failed = removed.as_ref().err().map(|error| error.kind());
        if !machine.torchcache_enabled {
            prop_assert_eq!(failed, Some(ErrorKind::Bypassed));
            return Ok(());
        }
        let is_new = !self.model.uses(one, directory);
        let refused = failed == Some(ErrorKind::Directory) && is_new;
        self.model.set_refused(one, refused);
        if refused {
            prop_assert!(self.model.is_blocked(directory));
            return Ok(());
        }
        if let Some(kind) = failed {
            let is_of_disk = [ErrorKind::Directory, ErrorKind::NotRemoved].contains(&kind);
            prop_assert!(self.damaged && is_of_disk, "{removed:?}");
        }
        let hash = machine.cache.module_hash().unwrap();
        self.hashes.entry(hash).or_insert(identity);
        let away = self.model.was_blocked(directory) && machine.cache.directory().is_none();
        let place = self.instances[one].place();
        self.model.attach(one, place, away, self.roomy);
        let rows = numbers.iter().map(|&number| (identity, number)).collect();
        self.model.remove(one, &rows, failed.is_none());
        Ok(())
    }

    /// Compares the computed rows with the model.
    fn compare(
        &mut self,
        one: usize,
        given: &Rows,
        mut runs: Vec<Vec<i64>>,
        before: &Stats,
        after: &Stats,
    ) -> Checked {
        let more = |count: fn(&Stats) -> u64| count(after) - count(before);
        let misses = more(|stats| stats.misses) as usize;
        let verified = more(|stats| stats.verified) as usize;
        // One forward for the misses, and one to verify.
        let forwards = usize::from(misses > 0) + usize::from(verified > 0);
        let is_square = runs.first().is_some_and(|run| run.len() == COLUMNS);
        if (given.len() == 1 || is_square) && runs.len() > forwards {
            // The first single row, or as many rows as a row has elements: another forward shows the shape.
            runs.remove(usize::from(misses > 0));
        }
        let mut runs = runs.into_iter();
        let mut run = |rows: usize| (rows > 0).then(|| runs.next()).flatten();
        let (mut computed, again) = (run(misses).unwrap_or_default(), run(verified));
        if misses == 1 {
            // New rows that are all equal run as the whole batch.
            computed.dedup();
        }
        prop_assert_eq!(computed.len(), misses);
        prop_assert_eq!(again.unwrap_or_default().len(), verified);
        prop_assert_eq!(runs.next(), None, "another forward");
        prop_assert_eq!(after.mismatched, 0);
        let identity = self.instances[one].identity;
        let computed: Rows = computed.iter().map(|&number| (identity, number)).collect();
        prop_assert_eq!(computed.len(), misses, "each once");
        let found: Rows = given.difference(&computed).copied().collect();
        let (must, may) = self.model.hits(one);
        let lost: Vec<_> = computed.intersection(&must).collect();
        prop_assert!(lost.is_empty(), "computed although held: {lost:?}; {after}");
        let forged: Vec<_> = found.difference(&may).collect();
        prop_assert!(
            forged.is_empty(),
            "found although nowhere: {forged:?}; {after}"
        );
        if !self.damaged {
            prop_assert_eq!(after.faults.total(), 0, "without a fault none is counted");
        }
        let (had_to, could_not) = (given.intersection(&must), given.difference(&may));
        for (what, times) in [
            ("a row that had to be found", had_to.count() as u64),
            ("a row that could not be", could_not.count() as u64),
            ("a row from memory", more(|stats| stats.memory.hits)),
            ("a row from disk", more(|stats| stats.disk.hits)),
            ("a verified row", verified as u64),
            ("a row evicted from memory", after.memory.evicted),
            ("a row evicted from disk", after.disk.evicted),
            ("a fault", after.faults.total()),
        ] {
            self.saw(what, times);
        }
        self.model.record_call(one, given, &computed);
        Ok(())
    }

    fn trickle(&mut self, one: usize) -> Checked {
        (0..POOL).try_for_each(|number| {
            self.call(one, &[number])?;
            self.flush(one)
        })
    }

    fn bound(&mut self, roomy: Roomy) {
        self.roomy = roomy;
        self.instances.iter_mut().for_each(|one| one.bound(roomy));
    }

    fn flush(&mut self, one: usize) -> Checked {
        let flushed = self.instances[one].machine.cache.flush();
        prop_assert!(
            flushed.is_ok() || !self.model.flushes(one),
            "of {one}: {flushed:?}"
        );
        self.model.record_flush(one);
        Ok(())
    }

    fn reopen(&mut self, one: usize, module: i64) {
        let (mut identity, directory) = self.instances[one].place();
        identity.module = module;
        self.instances[one] = Instance::new(self.root.path(), (identity, directory), self.roomy);
        self.model.detach(one);
    }

    /// Writes queued rows first, so that the same steps find the same files.
    fn flush_all(&mut self) -> Checked {
        (0..self.instances.len()).try_for_each(|one| self.flush(one))
    }

    /// Whether there was something to damage.
    fn damage(&mut self, kind: Damage, number: usize, pick: usize) -> Result<bool, TestCaseError> {
        self.flush_all()?;
        let root = directory(self.root.path(), number);
        let Some(hash) = damage(kind, &root, pick, self.mapped) else {
            return Ok(false);
        };
        self.damaged = true;
        match kind {
            // Rows of another identity do not affect the rows of this one.
            Damage::Transplant => self.model.transplant(number),
            _ => self.model.damage((self.hashes[&hash], Some(number))),
        }
        Ok(true)
    }

    fn block(&mut self, number: usize, restore: bool) -> Checked {
        self.flush_all()?;
        self.damaged = true;
        let blocked = block(&directory(self.root.path(), number), restore);
        self.model.block(number, blocked);
        Ok(())
    }

    /// After all steps the library works: with large bounds and usable directories, each row is computed
    /// at most once more, is then a hit from memory, and from disk for the next instance.
    fn end(&mut self) -> Checked {
        for number in 0..DIRECTORIES {
            if self.model.is_blocked(Some(number)) {
                self.block(number, true)?;
            }
        }
        self.bound(Roomy::ALL);
        let all: Vec<i64> = (0..POOL).collect();
        for _ in 0..2 {
            for one in 0..self.instances.len() {
                self.instances[one].machine.torchcache_enabled = true;
                self.call(one, &all)?;
                // The first flush reports rows dropped before.
                self.flush(one)?;
                let all = self.instances[one].machine.cache.flush().is_ok();
                prop_assert!(all || self.model.is_away(one));
            }
        }
        for one in 0..self.instances.len() {
            self.reopen(one, self.instances[one].identity.module);
        }
        (0..self.instances.len()).try_for_each(|one| self.call(one, &all))
    }
}

#[test]
fn random_steps_agree_with_the_model() {
    let config = contextualize_config(ProptestConfig {
        cases: CASES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let runs = config.cases;
    let seen = Seen::default();
    let run = |case: Case| {
        let mut world = World::new(&case, &seen);
        for step in &case.steps {
            world.step(step)?;
        }
        world.end()
    };
    if let Err(failure) = TestRunner::new(config).run(&cases(), run) {
        panic!("{failure}");
    }
    let times = |kind| seen.borrow().get(kind).copied().unwrap_or_default();
    println!("seen {}", times("a fault"));
    if runs >= CASES {
        for kind in steps::KINDS {
            assert!(times(kind) > 0, "no {kind} in {runs} runs: {seen:#?}");
        }
    }
}
