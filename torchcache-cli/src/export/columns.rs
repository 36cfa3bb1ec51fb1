//! The columns of an exported file: the parts of the output and the key, under unique names.

use std::borrow::Cow;

use serde_json::{Value, json};
use torchcache_store::schema::{Schema, TensorSpec};

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// An array of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportColumn {
    pub(super) name: String,
    /// The type of the elements, as the format spells it.
    pub(super) kind: String,
    /// The shape of a row, in elements.
    pub(super) shape: Vec<i64>,
    /// The bytes of a row.
    pub(super) bytes: usize,
    /// The bytes of an element.
    pub(super) element: usize,
    /// The tensor, if its elements are written as `f32`: its rows have other bytes in the cache.
    pub(super) widened: Option<TensorSpec>,
}

impl ExportColumn {
    /// On one line: `pooled F32 [1797, 384]`.
    pub(crate) fn one_line(&self, rows: u64) -> String {
        format!("{} {} {:?}", self.name, self.kind, self.full_shape(rows))
    }

    pub(crate) fn as_json(&self, rows: u64) -> Value {
        json!({ "name": self.name, "kind": self.kind, "shape": self.full_shape(rows) })
    }

    /// Takes the part off the front of a row, and returns it as the file has it.
    pub(super) fn take<'r>(&self, row: &mut &'r [u8]) -> Cow<'r, [u8]> {
        let stored = self.widened.as_ref().map_or(self.bytes, stored_bytes);
        let (part, rest) = row.split_at(stored);
        *row = rest;
        match self.widened.as_ref().and_then(|spec| spec.widen(part)) {
            Some(values) => values.flat_map(f32::to_le_bytes).collect(),
            None => part.into(),
        }
    }

    pub(super) fn full_shape(&self, rows: u64) -> Vec<i64> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        [&[rows], &self.shape[..]].concat()
    }
}

/// The bytes of a row of a tensor in the cache.
fn stored_bytes(spec: &TensorSpec) -> usize {
    // A decoded schema has a length.
    spec.bytes().unwrap_or(0)
}

/// All columns of a file.
#[derive(Debug)]
pub(crate) struct Columns {
    /// In the order of a row.
    pub(super) parts: Vec<ExportColumn>,
    pub(super) key: ExportColumn,
    /// Notes for readers of the file.
    pub(crate) notes: Vec<String>,
}

/// The type that a format has for the elements of a part.
pub(super) struct ElementType {
    pub(super) name: String,
    /// How many of them make up an element of the part, if not one.
    pub(super) per_element: Option<i64>,
    /// Whether they are written as `f32`.
    pub(super) is_widened: bool,
    pub(super) note: Option<&'static str>,
}

/// The note of integers that are exported as the numbers that they stand for.
pub(super) const DEQUANTIZED: &str =
    "the cache has integers and a scale for each row; these are their products, as float32";

impl Columns {
    /// The columns of a schema. `element_type` returns the type that the format has for a tensor, or what
    /// to do if it has none.
    pub(super) fn for_schema(
        schema: &Schema,
        key: &str,
        key_kind: &str,
        reserved: &[&str],
        element_type: impl Fn(&TensorSpec) -> Result<ElementType, String>,
    ) -> Result<Columns, String> {
        let mut taken: Vec<String> = reserved.iter().map(|&name| name.to_owned()).collect();
        let mut notes = Vec::new();
        let mut parts = Vec::new();
        for (name, part) in schema.names().into_iter().zip(&schema.tensors) {
            let named = unique(&name, &mut taken);
            if named != name {
                notes.push(format!("the part {name:?} is called {named:?} in the file"));
            }
            let element = element_type(part).map_err(|error| format!("{name}: {error}"))?;
            notes.extend(element.note.map(|note| format!("{named}: {note}")));
            let (bytes, size) = match element.is_widened {
                true => {
                    let bytes = part.elements().and_then(|elements| elements.checked_mul(4));
                    let too_large = || {
                        let shape = &part.shape;
                        format!(
                            "{name}: rows of shape {shape:?} are too large for a file as float32"
                        )
                    };
                    (bytes.ok_or_else(too_large)?, 4)
                }
                false => (stored_bytes(part), part.stored.size()),
            };
            parts.push(ExportColumn {
                name: named,
                kind: element.name,
                shape: part
                    .shape
                    .iter()
                    .copied()
                    .chain(element.per_element)
                    .collect(),
                bytes,
                element: size / element.per_element.unwrap_or(1) as usize,
                widened: element.is_widened.then(|| part.clone()),
            });
        }
        let named = unique(key, &mut taken);
        if named != key {
            notes.push(format!(
                "the keys are called {named:?}, since a part is called {key:?}"
            ));
        }
        let key = ExportColumn {
            name: named,
            kind: key_kind.to_owned(),
            shape: vec![KEY_BYTES as i64],
            bytes: KEY_BYTES,
            element: 1,
            widened: None,
        };
        Ok(Columns { parts, key, notes })
    }

    pub(crate) fn with_key(&self) -> impl Iterator<Item = &ExportColumn> {
        self.parts.iter().chain([&self.key])
    }
}

/// The name, with underscores appended until it is unique.
fn unique(name: &str, taken: &mut Vec<String>) -> String {
    let mut name = name.to_owned();
    while taken.contains(&name) {
        name.push('_');
    }
    taken.push(name.clone());
    name
}

#[cfg(test)]
mod tests {
    use torchcache_store::schema::{ElementKind, OutputDevice};

    use super::*;

    #[test]
    fn clashing_names_get_underscores_and_a_note() {
        let part = TensorSpec {
            stored: ElementKind::Float,
            output: ElementKind::Float,
            device: OutputDevice::Module,
            shape: vec![3],
        };
        let schema = Schema {
            structure: "{keys:T,a:T,a:T,__metadata__:T}".into(),
            tensors: vec![part.clone(), part.clone(), part.clone(), part],
            lengths: Vec::new(),
        };
        let kind = |_: &TensorSpec| {
            Ok(ElementType {
                name: "F32".into(),
                per_element: None,
                is_widened: false,
                note: None,
            })
        };
        let columns = Columns::for_schema(&schema, "keys", "U8", &["__metadata__"], kind).unwrap();
        let names: Vec<_> = columns.with_key().map(|column| &*column.name).collect();
        assert_eq!(names, ["keys", "a", "a_", "__metadata___", "keys_"]);
        assert_eq!(columns.notes.len(), 3);
    }
}
