//! Events of the log, emitted where no lock of this crate is held: a subscriber is code of the program,
//! and may call any store.
//!
//! Each lock under which an event can occur is held within a [`Deferring`], and the thread emits its
//! events when the last of these locks is released. Under the other locks, which are held for memory
//! operations only, no event occurs.
//!
//! Public because torchcache hashes tensors under locks of the program.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::sync::thread_local;

type Event = Box<dyn FnOnce()>;

// Neither has a destructor, so events also wait while the thread-local values of a thread are dropped.
thread_local! {
    /// How many values of `Deferred` this thread has.
    static DEFERRALS: Cell<usize> = const { Cell::new(0) };
    /// The events that wait for their end; empty where there are none of them.
    static WAITING: Cell<ManuallyDrop<Vec<Event>>> = const { Cell::new(ManuallyDrop::new(Vec::new())) };
}

/// Emits an event, or has it wait until this thread holds no lock under which events can occur.
pub fn emit(event: impl FnOnce() + 'static) {
    if DEFERRALS.with(Cell::get) == 0 {
        return event();
    }
    WAITING.with(|waiting| {
        let mut events = waiting.take();
        events.push(Box::new(event));
        waiting.set(events);
    });
}

/// Has the events of this thread wait until it is dropped.
#[derive(Debug)]
pub struct Deferred {
    /// It counts for the thread that made it.
    _not_send: PhantomData<*const ()>,
}

impl Deferred {
    /// Has the events wait from now on.
    #[cfg_attr(
        feature = "unstable",
        expect(
            clippy::new_without_default,
            reason = "a value that is made in passing would defer nothing"
        )
    )]
    pub fn new() -> Deferred {
        DEFERRALS.with(|deferrals| deferrals.set(deferrals.get() + 1));
        Deferred {
            _not_send: PhantomData,
        }
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        let left = DEFERRALS.with(|deferrals| {
            deferrals.set(deferrals.get() - 1);
            deferrals.get()
        });
        if left == 0 {
            emit_all(ManuallyDrop::into_inner(WAITING.with(Cell::take)));
        }
    }
}

/// A subscriber that panics at an event gets the others as well. Its panic goes on, unless one does
/// already: two would end the process.
fn emit_all(events: Vec<Event>) {
    let emitted = events
        .into_iter()
        .map(|event| catch_unwind(AssertUnwindSafe(event)));
    let panics: Vec<_> = emitted.filter_map(Result::err).collect();
    if let Some(panic) = panics.into_iter().next()
        && !std::thread::panicking()
    {
        resume_unwind(panic);
    }
}

/// The guard of a lock under which events can occur.
#[derive(Debug)]
pub struct Deferring<G> {
    // The lock is released first.
    guard: G,
    _deferred: Deferred,
}

impl<G> Deferring<G> {
    /// Has the events of this thread wait until the guard is dropped.
    pub fn new(guard: G) -> Deferring<G> {
        Deferring {
            guard,
            _deferred: Deferred::new(),
        }
    }
}

impl<G: Deref> Deref for Deferring<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Deferring<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn events_wait_for_the_last_lock_and_keep_their_order() {
        let [outer, inner] = [(); 2].map(|()| Rc::new(Mutex::new(())));
        let log = Rc::new(RefCell::new(Vec::new()));
        let event = |number: u32| {
            let (outer, inner, log) = (outer.clone(), inner.clone(), log.clone());
            move || {
                assert!(outer.try_lock().is_ok() && inner.try_lock().is_ok());
                log.borrow_mut().push(number);
                // As a call of the subscriber does.
                let again = Deferring::new(outer.lock());
                let log = log.clone();
                emit(move || log.borrow_mut().push(10 * number));
                drop(again);
            }
        };
        emit(event(1));
        assert_eq!(*log.borrow(), [1, 10]);
        let first = Deferring::new(outer.lock().unwrap());
        emit(event(2));
        let second = Deferring::new(inner.lock().unwrap());
        emit(event(3));
        drop(second);
        assert_eq!(*log.borrow(), [1, 10], "the first lock is held");
        emit(event(4));
        drop(first);
        assert_eq!(*log.borrow(), [1, 10, 2, 20, 3, 30, 4, 40]);
    }

    #[test]
    fn a_panic_at_an_event_leaves_the_others() {
        let log = Rc::new(Cell::new(0));
        let run = |panics: bool| {
            let log = log.clone();
            catch_unwind(AssertUnwindSafe(move || {
                let _deferred = Deferred::new();
                emit(|| panic!("at the first event"));
                emit(move || log.set(log.get() + 1));
                assert!(!panics, "under the lock");
            }))
        };
        for panics in [false, true] {
            let panic = run(panics).expect_err("it goes on");
            let text = panic.downcast_ref::<&str>().expect("a text");
            assert_eq!(text.contains("lock"), panics, "{text}");
        }
        assert_eq!(log.get(), 2);
        emit(move || log.set(3));
    }
}
