//! [`Fingerprint`] for values that change behind a shared reference: cells, locks and atomic numbers. Each
//! stands for what it contains at the call.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::atomic::{
    AtomicBool, AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16,
    AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst,
};
use std::sync::{Mutex, OnceLock, RwLock};

use super::LOCK_TIMEOUT;
use super::fingerprint::{Fingerprint, Fingerprinter};
use super::std_types::pointed_to;
use crate::sync::{lock_for, read_for};

/// Types that stand for a plain value, which is read at once.
macro_rules! values {
    ($($type:ty $(, $parameter:ident)?: |$cell:ident| $value:expr;)*) => {$(
        impl$(<$parameter: Fingerprint + Copy>)? Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                let $cell = self;
                $value.fingerprint(f);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                let $cell = self;
                $value.append_plain(bytes)
            }
        }
    )*};
}

values! {
    Cell<T>, T: |cell| cell.get();
    AtomicBool: |atomic| atomic.load(SeqCst);
    AtomicI8: |atomic| atomic.load(SeqCst);
    AtomicI16: |atomic| atomic.load(SeqCst);
    AtomicI32: |atomic| atomic.load(SeqCst);
    AtomicI64: |atomic| atomic.load(SeqCst);
    AtomicIsize: |atomic| atomic.load(SeqCst);
    AtomicU8: |atomic| atomic.load(SeqCst);
    AtomicU16: |atomic| atomic.load(SeqCst);
    AtomicU32: |atomic| atomic.load(SeqCst);
    AtomicU64: |atomic| atomic.load(SeqCst);
    AtomicUsize: |atomic| atomic.load(SeqCst);
}

/// Types whose value is read under a lock. Where another holder keeps that, the call bypasses the cache.
macro_rules! locks {
    ($($type:ident $(+ $unsized:tt Sized)?: |$cell:ident| $value:expr;)*) => {$(
        impl<T: Fingerprint $(+ $unsized Sized)?> Fingerprint for $type<T> {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                let $cell = self;
                if let Some(value) = f.lock(|| $value) {
                    pointed_to(&*value, f);
                }
            }
        }
    )*};
}

locks! {
    RefCell + ?Sized: |cell| cell.try_borrow().ok();
    Mutex + ?Sized: |mutex| lock_for(mutex, LOCK_TIMEOUT);
    RwLock + ?Sized: |lock| read_for(lock, LOCK_TIMEOUT);
}

/// Cells that are written once: empty, or with a value.
macro_rules! once {
    ($($type:ident)*) => {$(
        impl<T: Fingerprint> Fingerprint for $type<T> {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                self.get().fingerprint(f);
            }
        }
    )*};
}

once! { OnceCell OnceLock }
