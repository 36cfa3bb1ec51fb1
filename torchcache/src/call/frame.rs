//! [`Frame`]: which cached functions the body of a cached call calls on its thread. Its rows depend on
//! their code and options, which no macro can see: they are in other impls, in inner modules, or behind helpers.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::cache::handle::Attached;
use crate::cache::methods::{CodeDigest, Method};
use crate::cache::overrides::Overrides;
use crate::cache::target::Target;
use crate::identity::options_digest;

thread_local! {
    /// The functions called so far in each of the calls that this thread is in.
    static CALLED: RefCell<Vec<BTreeSet<CodeDigest>>> = const { RefCell::new(Vec::new()) };
}

/// Does nothing while the thread ends.
fn with_called<R>(work: impl FnOnce(&mut Vec<BTreeSet<CodeDigest>>) -> R) -> Option<R> {
    CALLED
        .try_with(|called| work(&mut called.borrow_mut()))
        .ok()
}

/// How many cached calls this thread is in.
pub(super) fn depth() -> usize {
    with_called(|called| called.len()).unwrap_or_default()
}

/// The digest of the options of `target`, as they are now.
fn options(target: &dyn Target) -> Option<CodeDigest> {
    let mut options = target.options();
    target.overrides(&mut Overrides::apply(&mut options));
    options_digest(&target.row_name(), options.unchecked())
}

/// A cached call, from its start to its end.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) method: &'a Method,
    /// Of a call inside another one, the digest of its options.
    options: Option<CodeDigest>,
    attached: OnceCell<Arc<Attached>>,
    /// The functions of modules among the plain arguments.
    of_arguments: &'a BTreeSet<CodeDigest>,
    on_this_thread: PhantomData<*const ()>,
}

impl<'a> Frame<'a> {
    /// Begins a call of `method` of `target`. `of_arguments`: the functions of modules among its plain arguments.
    pub(crate) fn enter(
        target: &dyn Target,
        method: &'a Method,
        of_arguments: &'a BTreeSet<CodeDigest>,
    ) -> Self {
        let is_inside = with_called(|called| !called.is_empty()) == Some(true);
        let options = is_inside.then(|| options(target)).flatten();
        with_called(|called| called.push(BTreeSet::new()));
        Frame {
            method,
            options,
            attached: OnceCell::new(),
            of_arguments,
            on_this_thread: PhantomData,
        }
    }

    /// The call is served by the cache of `attached`.
    pub(crate) fn attached_to(&self, attached: &Arc<Attached>) {
        let _ = self.attached.set(attached.clone());
    }

    /// Adds the functions called so far to those that the method is known to call, except for those that are
    /// `hashed`.
    pub(crate) fn note_callees(&self, hashed: [&BTreeSet<CodeDigest>; 2]) {
        with_called(|called| {
            if let Some(called) = called.last() {
                let is_new = |callee: &&CodeDigest| !hashed.iter().any(|it| it.contains(*callee));
                self.method.add_callees(called.iter().filter(is_new));
            }
        });
    }
}

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        with_called(|called| {
            let inner = called.pop().unwrap_or_default();
            if let Some(outer) = called.last_mut() {
                outer.extend(inner);
                self.method.add_code_to(outer);
                outer.extend(self.options);
                outer.extend(self.of_arguments);
                // A hit calls nothing, and its rows depend on these as well.
                let attached = self.attached.get();
                if let Some(cache) = attached.and_then(|attached| attached.enabled_cache()) {
                    outer.extend(&cache.identity().functions);
                }
            }
        });
    }
}
