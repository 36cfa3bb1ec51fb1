//! Threads that upload rows: what wakes them, and the end of the process, which asks all of them to upload all pending rows
//! and waits for them together. It joins none: a request may hang for longer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long the end of the process waits for all uploads, at most.
const END_TIMEOUT: Duration = Duration::from_secs(10);

static UPLOADERS: Mutex<Vec<Weak<Uploader>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread that uploads rows of a store, and those that wait for it, share.
#[derive(Debug)]
pub(crate) struct Uploader {
    /// The directory of the store.
    dir: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_woken: bool,
    /// Until when everything is to be uploaded.
    end: Option<Instant>,
    /// The thread has ended.
    is_over: bool,
}

impl Uploader {
    /// That of a thread which is about to start.
    pub(crate) fn new(dir: &Path) -> Arc<Uploader> {
        let uploader = Arc::new(Uploader {
            dir: dir.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut uploaders = lock(&UPLOADERS);
        uploaders.retain(|it| it.strong_count() > 0);
        uploaders.push(Arc::downgrade(&uploader));
        uploader
    }

    /// Has the thread take its next turn at once.
    pub(crate) fn wake(&self) {
        lock(&self.state).is_woken = true;
        self.changed.notify_all();
    }

    /// Waits for the next turn, for so long at most. Returns until when everything is to be uploaded, if that was asked
    /// for; [`end_turn`](Self::end_turn) ends this.
    pub(crate) fn next_turn(&self, pause: Duration) -> Option<Instant> {
        let is_idle = |state: &mut State| !state.is_woken && state.end.is_none();
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.state), pause, is_idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.is_woken = false;
        state.end
    }

    /// What could be uploaded is.
    pub(crate) fn end_turn(&self) {
        lock(&self.state).end = None;
        self.changed.notify_all();
    }

    /// The thread ends.
    pub(crate) fn end(&self) {
        lock(&self.state).is_over = true;
        self.changed.notify_all();
    }

    fn request(&self, until: Instant) {
        let mut state = lock(&self.state);
        if !state.is_over {
            state.end = Some(until);
            self.changed.notify_all();
        }
    }

    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let is_busy = |state: &mut State| state.end.is_some() && !state.is_over;
        drop(
            self.changed
                .wait_timeout_while(lock(&self.state), left, is_busy),
        );
    }
}

/// Has rows of the stores in these directories uploaded, or of all stores, and waits for that: until ten seconds after
/// `since`. Returns how long it waited.
pub(super) fn finish(dirs: Option<&[PathBuf]>, since: Instant) -> Duration {
    let (begin, until) = (Instant::now(), since + END_TIMEOUT);
    let mut uploaders: Vec<_> = lock(&UPLOADERS).iter().filter_map(Weak::upgrade).collect();
    uploaders.retain(|uploader| {
        let is_in = |dirs: &[PathBuf]| dirs.iter().any(|dir| uploader.dir.starts_with(dir));
        dirs.is_none_or(is_in)
    });
    if begin < until {
        uploaders
            .iter()
            .for_each(|uploader| uploader.request(until));
        uploaders.iter().for_each(|uploader| uploader.wait(until));
    }
    begin.elapsed()
}
