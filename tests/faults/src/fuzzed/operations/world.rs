//! The directory, the processes that use it, and what they may count on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use torchcache_store::fs::{Directory, FileSystem};
use torchcache_store::{FlushError, Store};

use super::input::{Harm, Operation, RowPattern, Rules, Settings};
use super::life::{Life, Power};
use super::model::{KEYS, Numbers, Values};
use crate::sim::Sim;

pub(super) const DIR: &str = "/cache";

/// What a process begins with.
const SETTINGS: Settings = Settings {
    is_compressed: false,
    mmap: false,
    evict: true,
    limit: 31,
    queue: 15,
    target: 7,
};

pub(super) struct World {
    pub(super) rules: Rules,
    pub(super) sim: Sim,
    pub(super) power: Arc<Power>,
    pub(super) processes: [Process; 2],
    pub(super) values: Values,
    /// Rows that a process finds when it opens the directory.
    kept: Numbers,
    /// Rows that are there even after a power cut.
    durable: Numbers,
    /// Rows that a damaged file may hold, and hide sound ones of.
    tainted: Numbers,
    /// Rows that were removed and not put since.
    removed: Numbers,
}

/// A process that uses the directory, or did.
pub(super) struct Process {
    pub(super) store: Option<Store>,
    settings: Settings,
    pub(super) life: Arc<Life>,
    /// Rows that it finds.
    pub(super) known: Numbers,
    /// Rows that it took since it last flushed.
    pub(super) taken: Numbers,
    /// How many it took since it opened the directory; unknown after a clear.
    pub(super) count: Option<u64>,
}

impl World {
    pub(super) fn new(rules: Rules) -> World {
        let power = Arc::new(Power::default());
        let process = || Process {
            store: None,
            settings: SETTINGS,
            life: Life::new(&power),
            known: Numbers::new(),
            taken: Numbers::new(),
            count: Some(0),
        };
        World {
            rules,
            sim: Sim::new(),
            processes: [process(), process()],
            power,
            values: Values::default(),
            kept: Numbers::new(),
            durable: Numbers::new(),
            tainted: Numbers::new(),
            removed: Numbers::new(),
        }
    }

    pub(super) fn play<'o>(mut self, operations: impl Iterator<Item = &'o Operation>) {
        self.reopen_all();
        for operation in operations {
            self.step(*operation);
            if !self.power.is_on() {
                self.restart_all();
            }
        }
        // In the end no call fails, and every process finds the kept rows.
        self.processes
            .iter()
            .for_each(|process| process.life.set_failure(None));
        self.reopen_all();
        for one in self.all() {
            self.check_rows(one, 0..KEYS);
        }
        if !self.rules.is_limited && !self.rules.is_damaged {
            let rows = RowPattern {
                from: 3,
                count: 5,
                step: 1,
                variant: 1,
            };
            self.put(0, rows);
            self.flush(0);
            self.processes[0].known.extend(rows.numbers());
            self.check_rows(0, rows.numbers().into_iter());
        }
    }

    fn all(&self) -> std::ops::Range<usize> {
        0..1 + usize::from(self.rules.is_shared)
    }

    fn step(&mut self, operation: Operation) {
        let one = |second: bool| usize::from(second && self.rules.is_shared);
        match operation {
            Operation::Put(second, rows) => self.put(one(second), rows),
            Operation::Flush(second) => self.flush(one(second)),
            Operation::CheckRows(second) => self.check_rows(one(second), 0..KEYS),
            Operation::Clear(second) => self.clear(one(second)),
            Operation::Remove(second, rows) => self.remove_rows(one(second), rows),
            Operation::Refresh(second) => self.refresh(one(second)),
            Operation::Reopen(second, settings) => {
                let one = one(second);
                self.processes[one].settings = settings;
                self.reopen(one);
            }
            Operation::Configure(second, settings) => {
                let process = &mut self.processes[one(second)];
                process.settings = settings;
                if let Some(store) = &process.store {
                    store.reconfigure(settings.config(self.rules));
                }
            }
            Operation::Fail(second, failure) if self.rules.is_failing => {
                self.processes[one(second)].life.set_failure(Some(failure));
            }
            Operation::CutPower(seed) => self.power.cut(&self.sim, seed),
            // Above a limit, a copy stays until something is written.
            Operation::Double(file) if !self.rules.is_limited => self.double(file),
            Operation::Single(file) => self.single(file),
            Operation::Harm(file, harm) if self.rules.is_damaged => self.harm(file, harm),
            _ => {}
        }
    }

    fn put(&mut self, one: usize, rows: RowPattern) {
        let exact = self.is_exact();
        let World {
            rules,
            processes,
            values,
            tainted,
            removed,
            ..
        } = self;
        let process = &mut processes[one];
        let Some(store) = &process.store else { return };
        let (numbers, variant) = (rows.numbers(), rows.variant());
        removed.retain(|number| !numbers.contains(number));
        let winners = store.put(rows.batch());
        let present: Vec<usize> = winners.iter().map(|(at, _)| *at).collect();
        drop(winners);
        assert!(present.is_sorted() && present.iter().all(|at| *at < numbers.len()));
        for (at, number) in numbers.iter().enumerate() {
            let is_present = present.contains(&at);
            if exact {
                assert_eq!(is_present, process.known.contains(number), "row {number}");
            }
            if is_present {
                continue;
            }
            match exact {
                true => values.must_be(*number, variant),
                false => values.may_be(*number, variant),
            }
            process.count = process.count.map(|count| count + 1);
            if !rules.is_limited && !tainted.contains(number) {
                process.known.insert(*number);
                process.taken.insert(*number);
            }
        }
        self.check_rows(one, numbers.into_iter());
    }

    fn flush(&mut self, one: usize) {
        let process = &mut self.processes[one];
        let Some(store) = &process.store else { return };
        let flushed = store.flush();
        let taken = std::mem::take(&mut process.taken);
        if !self.power.is_on() {
            return;
        }
        let is_sound = process.life.is_sound();
        match flushed {
            Ok(()) => self.keep(taken, is_sound),
            Err(FlushError::Lost { rows, .. }) if !is_sound => assert!(rows > 0),
            Err(error) => panic!("{error}"),
        }
        self.check_idle(one);
    }

    /// Rows are on disk.
    fn keep(&mut self, rows: Numbers, is_sound: bool) {
        if is_sound {
            self.durable.extend(&rows);
        }
        self.kept.extend(rows);
    }

    fn clear(&mut self, one: usize) {
        let Some(store) = &self.processes[one].store else {
            return;
        };
        store.clear();
        self.kept.clear();
        self.durable.clear();
        for process in &mut self.processes {
            process.known.clear();
            process.taken.clear();
            process.count = None;
        }
        let others = self
            .processes
            .iter()
            .filter(|process| process.store.is_some())
            .count()
            - 1;
        // Another process may have rows of its own to write, and open files.
        if others == 0 && self.power.is_on() && self.processes[one].life.is_sound() {
            self.values = Values::default();
            self.tainted.clear();
        }
        self.check_rows(one, 0..KEYS);
    }

    fn remove_rows(&mut self, one: usize, rows: RowPattern) {
        let Some(store) = &self.processes[one].store else {
            return;
        };
        let removed = store.remove(&rows.keys());
        let numbers = rows.numbers();
        self.kept.retain(|number| !numbers.contains(number));
        self.durable.retain(|number| !numbers.contains(number));
        for process in &mut self.processes {
            process.known.retain(|number| !numbers.contains(number));
            process.taken.retain(|number| !numbers.contains(number));
            process.count = None;
        }
        match removed {
            // Another process may have them queued.
            Ok(()) if !self.rules.is_shared => {
                let store = self.processes[one].store.as_ref().expect("it is open");
                let there = self.values.read_checked(store, numbers.iter().copied());
                assert!(there.is_empty(), "{there:?} were removed");
                self.removed.extend(numbers);
            }
            Ok(()) => {}
            Err(error) => assert!(
                self.rules.is_damaged
                    || !self.processes[one].life.is_sound()
                    || !self.power.is_on(),
                "{error:?}"
            ),
        }
    }

    fn refresh(&mut self, one: usize) {
        let Some(store) = &self.processes[one].store else {
            return;
        };
        store.refresh();
        self.processes[one].known.extend(&self.kept);
        self.check_rows(one, 0..KEYS);
        if self.is_exact() {
            self.check_files(one);
        }
    }

    fn reopen_all(&mut self) {
        self.all().for_each(|one| self.reopen(one));
    }

    /// Ends a process, which writes its queue, and starts it again.
    fn reopen(&mut self, one: usize) {
        let process = &mut self.processes[one];
        drop(process.store.take());
        let taken = std::mem::take(&mut process.taken);
        let (was_sound, left) = (process.life.is_sound(), process.life.left());
        if was_sound && self.power.is_on() {
            self.keep(taken, true);
        }
        let process = &mut self.processes[one];
        process.life = Life::new(&self.power);
        process.life.set_failure(left);
        let config = process.settings.config(self.rules);
        let store = Store::open_on(process.life.file_system(&self.sim), DIR, config);
        process.known = self.kept.clone();
        process.count = Some(0);
        match store {
            Ok(store) => process.store = Some(store),
            Err(error) => assert!(!process.life.is_sound() || !self.power.is_on(), "{error}"),
        }
        self.check_rows(one, 0..KEYS);
        if self.is_exact() {
            self.check_files(one);
        }
    }

    /// Starts every process again after a power cut. Rows that were not flushed may be gone.
    fn restart_all(&mut self) {
        for process in &mut self.processes {
            drop(process.store.take());
            process.taken.clear();
            process.life.set_failure(None);
        }
        self.power = Arc::new(Power::default());
        self.kept = self.durable.clone();
        for process in &mut self.processes {
            process.life = Life::new(&self.power);
        }
        if self.is_exact() {
            // Rows that are on disk now stay.
            let store =
                Store::open_on(Arc::new(self.sim.clone()), DIR, SETTINGS.config(self.rules));
            let there = self.values.read_checked(&store.expect("it opens"), 0..KEYS);
            assert!(there.is_superset(&self.kept), "lost in the power cut");
            assert!(there.is_disjoint(&self.removed), "removed rows came back");
            (self.kept, self.durable) = (there.clone(), there);
        }
        self.reopen_all();
    }

    fn double(&self, file: u8) {
        if let Some(path) = pick(&self.segments(), file) {
            let bytes = self.sim.bytes(path);
            if bytes.is_empty() {
                return; // it was compacted a moment ago
            }
            self.sim.add(&twin(path), bytes);
            self.dir().sync().expect("the medium is in order");
        }
    }

    fn single(&self, file: u8) {
        let mut files = self.segments();
        let all = files.clone();
        files.retain(|path| all.contains(&twin(path)));
        if let Some(path) = pick(&files, file) {
            self.remove(path);
            self.dir().sync().expect("the medium is in order");
        }
    }

    fn dir(&self) -> Arc<dyn Directory> {
        let dir = self.sim.open_dir(Path::new(DIR), false);
        dir.expect("the medium is in order")
    }

    /// Removes a file, if its writer was not faster.
    fn remove(&self, path: &Path) {
        let _ = self.dir().remove(path.file_name().unwrap_or_default());
    }

    fn harm(&mut self, file: u8, harm: Harm) {
        // A file that is being written is left alone: removing it loses rows.
        let files = self.segments();
        let Some(path) = pick(&files, file) else {
            return;
        };
        match harm {
            Harm::Flip(at, by) => self.sim.damage(path, |bytes| {
                let at = usize::from(at) % bytes.len().max(1);
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= by);
            }),
            Harm::Cut(at) => self.sim.damage(path, |bytes| {
                let len = bytes.len();
                bytes.truncate(usize::from(at) % (len + 1));
            }),
            Harm::Remove => self.remove(path),
        }
        self.kept.clear();
        self.durable.clear();
        for process in &mut self.processes {
            process.known.clear();
            process.taken.clear();
        }
        self.tainted = (0..KEYS).collect();
    }
}

fn pick(files: &[PathBuf], number: u8) -> Option<&PathBuf> {
    files.get(usize::from(number) % files.len().max(1))
}

/// What a copy of a file is called.
fn twin(path: &Path) -> PathBuf {
    let name = path.file_stem().unwrap_or_default().display();
    path.with_file_name(format!("{name}-again.tcs"))
}
