//! [`Fingerprint`] for plain types and collections.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tch::{Device, Kind, Reduction};

use super::fingerprint::{Fingerprint, Fingerprinter};
use super::parts::unique;
use crate::schema::kind;

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.plain(stringify!($type), &self.to_le_bytes(), self);
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64);

/// Pointer-sized numbers are hashed as 64 bits, so that an identity does not depend on the machine.
macro_rules! pointer_sized {
    ($($type:ty => $fixed:ty)*) => {$(
        impl Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.plain(stringify!($type), &(*self as $fixed).to_le_bytes(), self);
            }
        }
    )*};
}

pointer_sized!(usize => u64 isize => i64);

impl Fingerprint for bool {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("bool", &[u8::from(*self)], self);
    }
}

impl Fingerprint for char {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("char", &u32::from(*self).to_le_bytes(), self);
    }
}

impl Fingerprint for str {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("str", self.as_bytes(), &self);
    }
}

impl Fingerprint for String {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.as_str().fingerprint(f);
    }
}

impl Fingerprint for Path {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Path", self.as_os_str().as_encoded_bytes(), &self);
    }
}

impl Fingerprint for PathBuf {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        self.as_path().fingerprint(f);
    }
}

impl Fingerprint for Duration {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Duration", &self.as_nanos().to_le_bytes(), self);
    }
}

impl Fingerprint for () {
    fn fingerprint(&self, _: &mut Fingerprinter<'_>) {}
}

impl Fingerprint for Kind {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Kind", &[kind::code(*self)], self);
    }
}

impl Fingerprint for Device {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Device", format!("{self:?}").as_bytes(), self);
    }
}

impl Fingerprint for Reduction {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("Reduction", &self.to_int().to_le_bytes(), self);
    }
}

/// The type: a generic module may compute another output for each type argument.
impl<T: ?Sized> Fingerprint for PhantomData<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let name = std::any::type_name::<T>();
        f.plain("PhantomData", name.as_bytes(), &name);
        if name.contains("{{closure}}") {
            // All closures of one function have this name, so that none may equal another.
            f.content("closure", || (unique().to_vec(), "a closure".into()));
        }
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
}

macro_rules! pointers {
    ($($type:ty)*) => {$(
        impl<T: Fingerprint + ?Sized> Fingerprint for $type {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                (**self).fingerprint(f);
            }
        }
    )*};
}

pointers!(&T Box<T> Rc<T> Arc<T>);

impl<T: Fingerprint + ToOwned + ?Sized> Fingerprint for Cow<'_, T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        (**self).fingerprint(f);
    }
}

/// An ordered collection: its length, then each element under its position.
fn ordered<'t, T: Fingerprint + 't>(
    f: &mut Fingerprinter<'_>,
    values: impl ExactSizeIterator<Item = &'t T>,
) {
    f.plain(
        "length",
        &(values.len() as u64).to_le_bytes(),
        &values.len(),
    );
    for (position, value) in values.enumerate() {
        f.element(position, value);
    }
}

impl<T: Fingerprint> Fingerprint for [T] {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        ordered(f, self.iter());
    }
}

impl<T: Fingerprint, const N: usize> Fingerprint for [T; N] {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        ordered(f, self.iter());
    }
}

impl<T: Fingerprint> Fingerprint for Vec<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        ordered(f, self.iter());
    }
}

impl<T: Fingerprint> Fingerprint for VecDeque<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        ordered(f, self.iter());
    }
}

impl<T: Fingerprint> Fingerprint for BTreeSet<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        ordered(f, self.iter());
    }
}

impl<K: Fingerprint, V: Fingerprint> Fingerprint for BTreeMap<K, V> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("length", &(self.len() as u64).to_le_bytes(), &self.len());
        for (position, entry) in self.iter().enumerate() {
            f.element(position, &entry);
        }
    }
}

impl<T: Fingerprint, S> Fingerprint for HashSet<T, S> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("length", &(self.len() as u64).to_le_bytes(), &self.len());
        f.unordered(self.iter());
    }
}

impl<K: Fingerprint, V: Fingerprint, S> Fingerprint for HashMap<K, V, S> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.plain("length", &(self.len() as u64).to_le_bytes(), &self.len());
        f.unordered(self.iter());
    }
}

macro_rules! tuples {
    ($(($($type:ident $position:tt),+))*) => {$(
        impl<$($type: Fingerprint),+> Fingerprint for ($($type,)+) {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                $(f.field(stringify!($position), &self.$position);)+
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
}
