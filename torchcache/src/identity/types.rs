//! Types as parts of an identity. Two types may have the same fields, or none, and still compute
//! different outputs; behind a `Box<dyn …>` one may replace the other between two calls.

use std::marker::PhantomData;

use super::fingerprint::{Fingerprint, Fingerprinter};
use super::parts::unique;
use crate::definition::{Definition, number_of};

/// In the name of a type, a closure, an `async` function or block.
pub(crate) const CLOSURE: &str = "{{closure}}";

/// Adds the type of an annotated item, which its name or else its place tells apart from others.
/// Called by generated code.
#[doc(hidden)]
pub fn type_of(definition: &Definition, f: &mut Fingerprinter<'_>) {
    f.field("type", definition.type_name());
    if let Some(place) = definition.place() {
        f.field("place", place.to_string().as_str());
        if place.is_in_expansion() {
            f.field("type id", &definition.type_number());
        }
    }
    closures(definition.arguments(), || definition.type_number(), f);
}

/// The type: a generic module may compute another output for each type argument.
impl<T: ?Sized> Fingerprint for PhantomData<T> {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        let name = std::any::type_name::<T>();
        f.plain("PhantomData", name.as_bytes(), &name);
        closures(name, || number_of(typeid::of::<T>()), f);
    }
}

/// Adds what a name with closures in it leaves open.
fn closures(name: &str, type_id: impl Fn() -> u64, f: &mut Fingerprinter<'_>) {
    let mut after = name.split(CLOSURE).skip(1).peekable();
    if after.peek().is_none() {
        return;
    }
    if after.all(|rest| rest.starts_with("::")) {
        // Items in closures, which may have the names of others.
        f.field("type id", &type_id());
    } else {
        // Two closures of one type may hold different values, so that none may equal another.
        f.content("closure", &[], || (unique().to_vec(), "a closure".into()));
    }
}
