//! Threads that upload rows: what wakes them, and the end of the process, which asks all that have pending rows to upload
//! these and waits for them together. It joins none: a request may hang for longer.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long the end of the process waits for all uploads, at most.
const END_TIMEOUT: Duration = Duration::from_secs(10);

static UPLOADERS: Mutex<Vec<Weak<Uploader>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What rows are uploaded from.
pub(crate) trait UploadWork: Debug + Send + Sync {
    /// Whether something can be put before the process ends. Called by its end; takes no time.
    fn has_work(&self) -> bool;
}

/// What a thread that uploads rows of a store, and those that wait for it, share.
#[derive(Debug)]
pub(crate) struct Uploader {
    /// The directory of the store.
    dir: PathBuf,
    work: Weak<dyn UploadWork>,
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
    pub(crate) fn new(dir: &Path, work: Weak<dyn UploadWork>) -> Arc<Uploader> {
        let uploader = Arc::new(Uploader {
            dir: dir.to_owned(),
            work,
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

    /// Whether everything is to be uploaded: what else the thread does has to wait.
    pub(crate) fn is_end_requested(&self) -> bool {
        lock(&self.state).end.is_some()
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

/// Has pending rows of the stores in these directories uploaded, or of all stores, and waits for that: until ten seconds after
/// `since`. Returns how long it waited.
pub(super) fn finish(dirs: Option<&[PathBuf]>, since: Instant) -> Duration {
    let (begin, until) = (Instant::now(), since + END_TIMEOUT);
    let mut uploaders: Vec<_> = lock(&UPLOADERS).iter().filter_map(Weak::upgrade).collect();
    uploaders.retain(|uploader| {
        let is_in = |dirs: &[PathBuf]| dirs.iter().any(|dir| uploader.dir.starts_with(dir));
        let has_work = || uploader.work.upgrade().is_some_and(|it| it.has_work());
        dirs.is_none_or(is_in) && has_work()
    });
    if begin < until {
        uploaders
            .iter()
            .for_each(|uploader| uploader.request(until));
        uploaders.iter().for_each(|uploader| uploader.wait(until));
    }
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Work(bool);

    impl UploadWork for Work {
        fn has_work(&self) -> bool {
            self.0
        }
    }

    #[test]
    fn the_end_waits_for_threads_with_work_only() {
        let dir = PathBuf::from("/the/store/of/this/test");
        let (idle, busy) = (Arc::new(Work(false)), Arc::new(Work(true)));
        let weak = |work: &Arc<Work>| -> Weak<dyn UploadWork> { Arc::downgrade(work) as _ };
        // Both are in a long turn.
        let in_turn = Uploader::new(&dir.join("idle"), weak(&idle));
        let uploading = Uploader::new(&dir.join("busy"), weak(&busy));
        let waited = finish(Some(&[dir.join("idle")]), Instant::now());
        assert!(waited < END_TIMEOUT / 2, "{waited:?}");
        assert!(!in_turn.is_end_requested());
        let left = Duration::from_millis(100);
        let since = Instant::now() - (END_TIMEOUT - left);
        let waited = finish(Some(&[dir]), since);
        assert!(waited >= left / 2, "{waited:?}");
        assert!(uploading.is_end_requested() && !in_turn.is_end_requested());
    }
}
