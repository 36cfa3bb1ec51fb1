//! What the threads of a proxy share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fault::Fault;
use super::message::{ProxiedRequest, RequestKind};

pub(super) type Plan = Arc<dyn Fn(&ProxiedRequest) -> Fault + Send + Sync>;

pub(super) struct Shared {
    pub(super) server: SocketAddr,
    plan: Mutex<Plan>,
    counts: Mutex<HashMap<RequestKind, usize>>,
    /// Requests whose answers have not begun, and the most there were at a time.
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    is_stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(server: SocketAddr) -> Shared {
        Shared {
            server,
            plan: Mutex::new(Arc::new(|_| Fault::None)),
            counts: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            is_stopping: AtomicBool::new(false),
        }
    }

    pub(super) fn set_plan(&self, plan: Plan) {
        *lock(&self.plan) = plan;
    }

    /// Counts a request, and returns the fault that it meets.
    pub(super) fn fault(&self, request: &ProxiedRequest) -> Fault {
        *lock(&self.counts).entry(request.kind()).or_default() += 1;
        let plan = lock(&self.plan).clone();
        plan(request)
    }

    pub(super) fn count(&self, kind: RequestKind) -> usize {
        lock(&self.counts).get(&kind).copied().unwrap_or_default()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    pub(super) fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::Relaxed)
    }

    pub(super) fn reset_counts(&self) {
        lock(&self.counts).clear();
        self.most_under_way
            .store(self.under_way(), Ordering::Relaxed);
    }

    pub(super) fn begin(&self) -> UnderWay<'_> {
        let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_under_way.fetch_max(now, Ordering::Relaxed);
        UnderWay(self)
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}

/// A request whose answer has not begun.
pub(super) struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
