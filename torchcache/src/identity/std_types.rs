//! [`Fingerprint`] for plain types and collections.

use std::borrow::Cow;
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::ffi::{OsStr, OsString};
use std::num::{NonZero, Saturating, Wrapping};
use std::ops::{
    Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive,
};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Reduction};

use super::fingerprint::{Fingerprint, Fingerprinter};
use crate::schema::kind;

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.plain(stringify!($type), &self.to_le_bytes(), self);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                bytes.extend(self.to_le_bytes());
                true
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

macro_rules! non_zero_numbers {
    ($($type:ty)*) => {$(
        impl Fingerprint for NonZero<$type> {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                self.get().fingerprint(f);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                self.get().append_plain(bytes)
            }
        }
    )*};
}

non_zero_numbers!(u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);

/// Types of one value: the name that enters the hash, and the bytes.
macro_rules! plain {
    ($($type:ident: |$value:ident| $bytes:expr;)*) => {$(
        impl Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                let $value = self;
                f.plain(stringify!($type), $bytes, &self);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                let $value = self;
                append(bytes, $bytes);
                true
            }
        }
    )*};
}

plain! {
    bool: |value| &[u8::from(*value)];
    char: |value| &u32::from(*value).to_le_bytes();
    str: |value| value.as_bytes();
    OsStr: |value| value.as_encoded_bytes();
    Path: |value| value.as_os_str().as_encoded_bytes();
    // Pointer-sized numbers are hashed as 64 bits, so that an identity does not depend on the machine.
    usize: |value| &(*value as u64).to_le_bytes();
    isize: |value| &(*value as i64).to_le_bytes();
    Duration: |value| &value.as_nanos().to_le_bytes();
    Kind: |value| &[kind::code(*value)];
    Device: |value| format!("{value:?}").as_bytes();
    Reduction: |value| &value.to_int().to_le_bytes();
    Ordering: |value| &(*value as i8).to_le_bytes();
}

/// Appends bytes after their number.
fn append(bytes: &mut Vec<u8>, more: &[u8]) {
    bytes.extend((more.len() as u64).to_le_bytes());
    bytes.extend(more);
}

impl Fingerprint for () {
    fn fingerprint(&self, _: &mut Fingerprinter<'_>) {}

    fn append_plain(&self, _: &mut Vec<u8>) -> bool {
        true
    }
}

impl<T: Fingerprint> Fingerprint for Option<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        match self {
            None => f.variant("None"),
            Some(value) => {
                f.variant("Some");
                value.fingerprint(f);
            }
        }
    }

    fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
        bytes.push(self.is_some().into());
        self.as_ref().is_none_or(|value| value.append_plain(bytes))
    }
}

/// Types that stand for the value that they point to.
macro_rules! pointers {
    ($($type:ty $(, $parameter:ident: $($bound:path),+)?;)*) => {$(
        impl$(<$parameter: $($bound +)+ ?Sized>)? Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                pointed_to(&**self, f);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                !is_dyn(&**self) && (**self).append_plain(bytes)
            }
        }
    )*};
}

pointers! {
    String;
    OsString;
    PathBuf;
    &T, T: Fingerprint;
    Box<T>, T: Fingerprint;
    Rc<T>, T: Fingerprint;
    Arc<T>, T: Fingerprint;
    Cow<'_, T>, T: Fingerprint, ToOwned;
}

/// A value behind a pointer. Where the pointer does not name its type, since that is a `dyn`, the type
/// is part of the identity.
pub(super) fn pointed_to<T: Fingerprint + ?Sized>(value: &T, f: &mut Fingerprinter<'_>) {
    if is_dyn(value) {
        let type_name = value.dynamic_type();
        f.plain("dyn", type_name.as_bytes(), &type_name);
    }
    value.fingerprint(f);
}

/// Whether `T` is a `dyn`, which does not name the type of the value.
fn is_dyn<T: Fingerprint + ?Sized>(value: &T) -> bool {
    value.dynamic_type() != std::any::type_name::<T>()
}

fn length(f: &mut Fingerprinter<'_>, length: usize) {
    f.plain("length", &(length as u64).to_le_bytes(), &length);
}

/// Ordered collections: the length, then each element under its position.
macro_rules! ordered {
    ($($type:ty $(, $size:ident)?;)*) => {$(
        impl<T: Fingerprint $(, const $size: usize)?> Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                length(f, self.len());
                f.elements(self.iter());
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                bytes.extend((self.len() as u64).to_le_bytes());
                self.iter().all(|value| value.append_plain(bytes))
            }
        }
    )*};
}

ordered! {
    [T];
    [T; N], N;
    Vec<T>;
    VecDeque<T>;
    LinkedList<T>;
    BTreeSet<T>;
}

impl<K: Fingerprint, V: Fingerprint> Fingerprint for BTreeMap<K, V> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        length(f, self.len());
        f.elements(self.iter());
    }
}

impl<T: Fingerprint> Fingerprint for BinaryHeap<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        length(f, self.len());
        f.unordered(self.iter());
    }
}

impl<T: Fingerprint, S> Fingerprint for HashSet<T, S> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        length(f, self.len());
        f.unordered(self.iter());
    }
}

impl<K: Fingerprint, V: Fingerprint, S> Fingerprint for HashMap<K, V, S> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        length(f, self.len());
        f.unordered(self.iter());
    }
}

macro_rules! wrappers {
    ($($type:ident)*) => {$(
        impl<T: Fingerprint> Fingerprint for $type<T> {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.field("0", &self.0);
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                self.0.append_plain(bytes)
            }
        }
    )*};
}

wrappers! { Wrapping Saturating Reverse }

impl<T: Fingerprint> Fingerprint for Bound<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        match self {
            Bound::Included(value) => {
                f.variant("Included");
                value.fingerprint(f);
            }
            Bound::Excluded(value) => {
                f.variant("Excluded");
                value.fingerprint(f);
            }
            Bound::Unbounded => f.variant("Unbounded"),
        }
    }
}

/// Ranges by their bounds: an inclusive range that was iterated to its end excludes it.
macro_rules! ranges {
    ($($type:ident)*) => {$(
        impl<T: Fingerprint> Fingerprint for $type<T> {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.field("start", &self.start_bound());
                f.field("end", &self.end_bound());
            }
        }
    )*};
}

ranges! { Range RangeFrom RangeInclusive RangeTo RangeToInclusive }

impl Fingerprint for RangeFull {
    fn fingerprint(&self, _: &mut Fingerprinter<'_>) {}
}

macro_rules! tuples {
    ($(($($type:ident $position:tt),+))*) => {$(
        impl<$($type: Fingerprint),+> Fingerprint for ($($type,)+) {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                $(f.field(stringify!($position), &self.$position);)+
            }

            fn append_plain(&self, bytes: &mut Vec<u8>) -> bool {
                true $(&& self.$position.append_plain(bytes))+
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::sync::Mutex;

    use super::*;
    use crate::identity::parts::Collector;

    fn digest<T: Fingerprint + ?Sized>(value: &T) -> [u8; 32] {
        let mut collector = Collector::default();
        value.fingerprint(&mut Fingerprinter::hash(&mut collector));
        collector.digest()
    }

    #[test]
    fn different_values_have_different_digests() {
        assert_ne!(digest(&0.0f64), digest(&-0.0f64));
        assert_ne!(digest(&1u8), digest(&1u16));
        assert_ne!(digest(&("ab", "c")), digest(&("a", "bc")));
        assert_ne!(
            digest(&vec![vec![1u8], vec![]]),
            digest(&vec![vec![], vec![1u8]])
        );
        assert_ne!(digest(&Some(())), digest(&None::<()>));
        assert_ne!(digest(&PhantomData::<u8>), digest(&PhantomData::<u16>));
    }

    #[test]
    fn owned_and_borrowed_values_are_equal() {
        assert_eq!(digest("a"), digest(&"a".to_owned()));
        assert_eq!(digest(&Box::new(7u8)), digest(&Arc::new(7u8)));
        assert_eq!(digest(&vec![1u8, 2]), digest(&[1u8, 2]));
    }

    #[test]
    fn the_order_of_a_hash_map_is_not_hashed() {
        let forwards: HashMap<_, _> = (0..100u32).map(|i| (i, i * i)).collect();
        let backwards: HashMap<_, _> = (0..100u32).rev().map(|i| (i, i * i)).collect();
        assert_eq!(digest(&forwards), digest(&backwards));
        let mut other = forwards.clone();
        other.insert(7, 0);
        assert_ne!(digest(&forwards), digest(&other));
    }

    #[test]
    fn the_inner_order_of_a_binary_heap_is_not_hashed() {
        let heaped = BinaryHeap::from(vec![1u32, 2, 3, 4, 5]);
        let pushed: BinaryHeap<_> = heaped.clone().into_sorted_vec().into_iter().rev().collect();
        assert_ne!(heaped.as_slice(), pushed.as_slice());
        assert_eq!(digest(&heaped), digest(&pushed));
        let other = BinaryHeap::from(vec![1u32, 2, 3, 4, 4]);
        assert_ne!(digest(&heaped), digest(&other));
    }

    #[test]
    fn a_hash_map_of_locks_is_hashed_by_what_they_hold() {
        let map = |numbers: &[u32]| -> HashMap<u32, Mutex<u32>> {
            let entry = |&number: &u32| (number, Mutex::new(number * number));
            numbers.iter().map(entry).collect()
        };
        let locks = map(&[1, 2, 3]);
        assert_eq!(digest(&locks), digest(&map(&[3, 2, 1])));
        *locks[&2].lock().unwrap() += 1;
        assert_ne!(digest(&locks), digest(&map(&[1, 2, 3])));
        let mut collector = Collector::default();
        let held = locks[&2].lock().unwrap();
        locks.fingerprint(&mut Fingerprinter::hash(&mut collector));
        drop(held);
        assert!(collector.locked);
    }

    /// A lock that another thread holds during the first walk.
    #[derive(Default)]
    struct LockedOnce(Cell<bool>);

    impl Fingerprint for LockedOnce {
        fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
            if self.0.replace(true) {
                f.variant("free");
            } else {
                f.locked();
            }
        }
    }

    /// The elements are sorted by what a walk of each found.
    #[test]
    fn a_lock_that_is_held_while_elements_are_sorted_counts() {
        let locks = HashMap::from([(1u32, LockedOnce::default())]);
        let mut collector = Collector::default();
        locks.fingerprint(&mut Fingerprinter::hash(&mut collector));
        assert!(locks[&1].0.get() && collector.locked);
        let mut collector = Collector::default();
        locks.fingerprint(&mut Fingerprinter::hash(&mut collector));
        assert!(!collector.locked);
    }
}
