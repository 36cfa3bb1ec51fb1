//! What stores warn of, by the directory that they warn of: each kind of fault once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How many warnings there were, by the name of the fault.
pub(crate) type Warnings = BTreeMap<String, u64>;

/// What was heard of each directory that somebody listens to.
static HEARD: Mutex<BTreeMap<PathBuf, Warnings>> = Mutex::new(BTreeMap::new());

fn heard() -> MutexGuard<'static, BTreeMap<PathBuf, Warnings>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens to the warnings of whatever stores this process has in a directory and below it. It has
/// to be one that nobody else uses meanwhile.
#[derive(Debug)]
pub(crate) struct Listener(PathBuf);

impl Listener {
    /// Begins to listen. The log of the whole process is this one's from then on, since the writer
    /// of a store is a thread of its own.
    ///
    /// # Errors
    /// That the process has another log already.
    pub(crate) fn to(dir: &Path) -> Result<Listener, String> {
        static IS_OURS: OnceLock<bool> = OnceLock::new();
        if !*IS_OURS.get_or_init(|| tracing::subscriber::set_global_default(Log).is_ok()) {
            return Err("the log of this process is somebody else's".into());
        }
        heard().insert(dir.to_owned(), Warnings::new());
        Ok(Listener(dir.to_owned()))
    }

    /// What was heard since the last time.
    pub(crate) fn heard(&self) -> Warnings {
        heard()
            .get_mut(&self.0)
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        heard().remove(&self.0);
    }
}

/// The log.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut warning = Warning::default();
        event.record(&mut warning);
        // The sums that a store tells when it is closed name no path, but the directory.
        let (Some(fault), Some(path)) = (warning.fault, warning.path) else {
            return;
        };
        let mut heard = heard();
        let listening = heard.iter_mut().find(|(dir, _)| path.starts_with(dir));
        if let Some((_, warnings)) = listening {
            *warnings.entry(fault).or_default() += 1;
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What a store says of the first fault of a kind.
#[derive(Default)]
struct Warning {
    fault: Option<String>,
    path: Option<PathBuf>,
}

impl Visit for Warning {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "path" {
            self.path = Some(format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "fault" {
            self.fault = Some(value.to_owned());
        }
    }
}
