//! One handle that several threads use.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::module::{Runs, input};
use tch::Tensor;
use tch::nn::Module;
use torchcache::{Fingerprint, Fingerprinter, TorchCache, torchcache};

use super::steps::{Action, Write};
use crate::support::same;

/// A weight that threads share.
#[derive(Debug)]
struct Weight(Mutex<Tensor>);

impl Weight {
    fn read(&self) -> Tensor {
        self.0.lock().unwrap().shallow_clone()
    }
}

impl Fingerprint for Weight {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.field("weight", &self.read());
    }
}

#[torchcache(persistent = true)]
#[derive(Debug)]
pub(super) struct Shared {
    weight: Weight,
    #[torchcache(skip)]
    runs: Runs,
    /// The next run says that it began, and waits.
    #[torchcache(skip)]
    gate: Mutex<Option<(SyncSender<()>, Receiver<()>)>>,
    torchcache_persistent_cache_dir: PathBuf,
    torchcache: TorchCache,
}

#[torchcache]
impl Module for Shared {
    fn forward(&self, xs: &Tensor) -> Tensor {
        self.runs.note(xs);
        let gate = self.gate.lock().unwrap().take();
        if let Some((began, go_on)) = gate {
            began.send(()).expect("a receiver");
            go_on.recv().expect("a sender");
        }
        self.plain(xs)
    }
}

impl Shared {
    pub(super) fn new(directory: &Path) -> Self {
        Shared {
            weight: Weight(Mutex::new(Tensor::from_slice(&[1.5f32, -2.5]))),
            runs: Runs::default(),
            gate: Mutex::new(None),
            torchcache_persistent_cache_dir: directory.to_owned(),
            torchcache: TorchCache::default(),
        }
    }

    fn plain(&self, xs: &Tensor) -> Tensor {
        xs * self.weight.read()
    }

    /// Writes the weight, or replaces it.
    pub(super) fn change(&self, how: Write, factor: f64) {
        how.multiply(&self.weight.read(), 0, factor);
    }

    /// Runs each list in a thread of its own. Returns the hits of a call afterwards.
    ///
    /// # Errors
    ///
    /// What an output differs from.
    pub(super) fn use_together(&self, threads: &[Vec<Action>]) -> Result<u64, String> {
        std::thread::scope(|scope| {
            let spawned = threads.iter().map(|actions| {
                scope.spawn(|| actions.iter().try_for_each(|action| self.act(action)))
            });
            let spawned: Vec<_> = spawned.collect();
            spawned
                .into_iter()
                .try_for_each(|thread| thread.join().expect("no panic"))
        })?;
        let rows = [0, 64];
        self.call(&rows)?;
        self.runs.take();
        let hits = self.torchcache.stats().hits();
        self.call(&rows)?;
        match self.runs.take().len() {
            0 => Ok(self.torchcache.stats().hits() - hits),
            _ => Err("the forward ran again".into()),
        }
    }

    /// Clears while a forward runs: its row is not kept.
    ///
    /// # Errors
    ///
    /// That the row was found.
    pub(super) fn clear_during_a_call(&self) -> Result<(), String> {
        let rows = [1];
        self.torchcache.clear();
        let (began, has_begun) = sync_channel(1);
        let (go_on, may_go_on) = sync_channel(1);
        *self.gate.lock().unwrap() = Some((began, may_go_on));
        std::thread::scope(|scope| {
            let call = scope.spawn(|| self.call(&rows));
            has_begun.recv().expect("the forward runs");
            self.torchcache.clear();
            go_on.send(()).expect("a receiver");
            call.join().expect("no panic")
        })?;
        self.runs.take();
        self.call(&rows)?;
        match self.runs.take().len() {
            1 => Ok(()),
            _ => Err("a row of a call before the clear was kept".into()),
        }
    }

    fn act(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Call(_, rows) => self.call(rows)?,
            Action::Refresh(_) => self.torchcache.refresh(),
            Action::Clear(_) => self.torchcache.clear(),
            Action::Flush(_) => self.torchcache.flush().map_err(|error| error.to_string())?,
        }
        Ok(())
    }

    fn call(&self, rows: &[i64]) -> Result<(), String> {
        let xs = input(rows);
        let (given, expected) = (self.forward(&xs), self.plain(&xs));
        match same(&given, &expected) {
            true => Ok(()),
            false => Err(format!("shared by threads: {given:?} is not {expected:?}")),
        }
    }
}
