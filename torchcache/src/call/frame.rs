//! [`Frame`]: which cached functions the body of a cached call calls on its thread. Its rows depend on
//! their code, which no macro can see: they are in other impls, in inner modules, or behind helpers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::marker::PhantomData;

use crate::cache::methods::{CodeDigest, Method};

thread_local! {
    /// The functions called so far in each of the calls that this thread is in.
    static CALLED: RefCell<Vec<BTreeSet<CodeDigest>>> = const { RefCell::new(Vec::new()) };
}

/// Does nothing while the thread ends.
fn with_called(work: impl FnOnce(&mut Vec<BTreeSet<CodeDigest>>)) {
    let _ = CALLED.try_with(|called| work(&mut called.borrow_mut()));
}

/// A cached call, from its start to its end.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) method: &'a Method,
    on_this_thread: PhantomData<*const ()>,
}

impl<'a> Frame<'a> {
    /// Begins a call of `method`.
    pub(crate) fn enter(method: &'a Method) -> Self {
        with_called(|called| called.push(BTreeSet::new()));
        Frame {
            method,
            on_this_thread: PhantomData,
        }
    }

    /// Adds the functions called so far to those that the method is known to call.
    pub(crate) fn note_callees(&self) {
        with_called(|called| {
            if let Some(called) = called.last() {
                self.method.add_callees(called);
            }
        });
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        self.note_callees();
        with_called(|called| {
            called.pop();
            // What stands for the code of a wrapped module is in its own identity, and in those around it.
            if let Some(outer) = called.last_mut()
                && !self.method.function.is_unknown()
            {
                self.method.add_code_to(outer);
            }
        });
    }
}
