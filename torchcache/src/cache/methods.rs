//! [`Method`]: what a handle knows of one of the functions that it serves.

use std::collections::BTreeSet;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, RwLock};

use super::cuts::CutHistory;
use super::fetch_costs::FetchCosts;
use super::placements::Placements;
use super::shapes::OutputShapes;
use super::stats::Counters;
use crate::attempts::Attempts;
use crate::function::Function;
use crate::schema::TensorSchema;
use crate::sync::{read, write};

/// The digest of a function's code and full name.
pub(crate) type CodeDigest = [u8; 32];

/// The functions that a handle has served so far: those of its module, or the one that it belongs to.
#[derive(Debug)]
pub(crate) struct Methods(RwLock<Vec<(&'static Function, Arc<Method>)>>);

/// One of these functions.
#[derive(Debug)]
pub(crate) struct Method {
    pub(crate) function: &'static Function,
    /// Of the function alone.
    pub(crate) digest: CodeDigest,
    /// The same with the module that it is of, which tells it apart from those of other modules.
    code: CodeDigest,
    /// Those of methods of one name are one.
    pub(crate) counters: Arc<Counters>,
    pub(crate) cuts: CutHistory,
    /// How often other calls had the rows that calls waited for.
    pub(crate) waits: Attempts,
    /// How long fetches from the remote and forwards took.
    pub(crate) fetch_costs: FetchCosts,
    pub(crate) placements: Placements,
    pub(crate) shapes: OutputShapes,
    /// What the first call of it returned.
    pub(crate) returned: OnceLock<Arc<TensorSchema>>,
    /// The code of the cached functions that its body is known to call, and of those that these call; and of the
    /// modules that they are of, the digest of their options.
    callees: RwLock<BTreeSet<CodeDigest>>,
    /// Whether a call has shown them, by its body or by rows that were stored after it ran.
    knows_callees: AtomicBool,
}

impl Methods {
    pub(crate) const fn new() -> Self {
        Methods(RwLock::new(Vec::new()))
    }

    /// The method that `function` is. `module`: the name that tells the module apart from others.
    pub(crate) fn get(
        &self,
        module: impl FnOnce() -> String,
        function: &'static Function,
    ) -> Arc<Method> {
        let find = |known: &[(&'static Function, Arc<Method>)]| {
            let found = known.iter().find(|(it, _)| ptr::eq(*it, function));
            found.map(|(_, method)| method.clone())
        };
        if let Some(method) = find(&read(&self.0)) {
            return method;
        }
        let method = Method::new(&module(), function);
        let mut known = write(&self.0);
        // A program may contain several copies of one constant.
        let is_same = |other: &Method| {
            other.code == method.code
                && other.function.implementation_id() == function.implementation_id()
        };
        let same = known.iter().find(|(_, other)| is_same(other));
        let method = match same {
            Some((_, same)) => same.clone(),
            None => {
                let mut named = known.iter().map(|(_, other)| other);
                let named = named.find(|other| other.function.name == function.name);
                let counters = named.map(|other| other.counters.clone());
                Arc::new(Method {
                    counters: counters.unwrap_or(method.counters),
                    ..method
                })
            }
        };
        known.push((function, method.clone()));
        method
    }

    /// The counters of each name.
    pub(crate) fn counters(&self) -> Vec<(&'static str, Arc<Counters>)> {
        let mut counters: Vec<(&str, Arc<Counters>)> = Vec::new();
        for (function, method) in read(&self.0).iter() {
            if counters.iter().all(|(name, _)| *name != function.name) {
                counters.push((function.name, method.counters.clone()));
            }
        }
        counters
    }
}

impl Method {
    fn new(module: &str, function: &'static Function) -> Self {
        let callees = function.all_callees().into_iter();
        let callees = callees.map(|callee| callee.code_in(module));
        Method {
            function,
            digest: function.digest(),
            code: function.code_in(module),
            counters: Arc::new(Counters::new()),
            cuts: CutHistory::new(),
            waits: Attempts::new(),
            fetch_costs: FetchCosts::new(),
            placements: Placements::default(),
            shapes: OutputShapes::new(),
            returned: OnceLock::new(),
            callees: RwLock::new(callees.collect()),
            knows_callees: AtomicBool::new(false),
        }
    }

    /// A digest of the code that a row of it depends on, except for that of the functions `hashed`, which the keys have
    /// by the module hash and by plain arguments. `options`: the digest of its own, which the keys have as well.
    pub(crate) fn row_code(
        &self,
        hashed: [&BTreeSet<CodeDigest>; 2],
        options: Option<CodeDigest>,
    ) -> CodeDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        for callee in read(&self.callees).iter() {
            let is_hashed = hashed.iter().any(|functions| functions.contains(callee));
            if !is_hashed && *callee != self.code && Some(*callee) != options {
                hasher.update(callee);
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// Adds functions that the body called.
    pub(crate) fn add_callees<'c>(&self, called: impl Iterator<Item = &'c CodeDigest> + Clone) {
        let is_known = {
            let callees = read(&self.callees);
            called.clone().all(|callee| callees.contains(callee))
        };
        if !is_known {
            write(&self.callees).extend(called);
        }
    }

    /// A call has shown which functions the body calls.
    pub(crate) fn note_callees_known(&self) {
        // A store is shared between the processors, even of the same value.
        if !self.knows_callees() {
            self.knows_callees.store(true, Relaxed);
        }
    }

    pub(crate) fn knows_callees(&self) -> bool {
        self.knows_callees.load(Relaxed)
    }

    /// How many functions its body is known to call.
    pub(crate) fn callee_count(&self) -> usize {
        read(&self.callees).len()
    }

    /// Its code, and that of all functions that it is known to call. What stands for the code of a wrapped module
    /// is in its own identity, and in those around it.
    pub(crate) fn add_code_to(&self, called: &mut BTreeSet<CodeDigest>) {
        if !self.function.is_unknown() {
            called.insert(self.code);
        }
        called.extend(read(&self.callees).iter());
    }
}
