//! What a file has for each row: the parts of the output and the key, under names that do not clash,
//! in the words of its format.

use serde_json::{Value, json};
use torchcache_store::schema::{Schema, TensorSpec};

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;

/// An array of the file, one element or more for each row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(super) name: String,
    /// The kind of elements, in the word of the format.
    pub(super) kind: String,
    /// Of a row, in elements of that kind.
    pub(super) shape: Vec<i64>,
    /// Bytes of a row.
    pub(super) bytes: usize,
    /// Bytes of an element.
    pub(super) element: usize,
}

impl Column {
    /// On one line: `pooled F32 [1797, 384]`.
    pub(crate) fn words(&self, rows: u64) -> String {
        format!("{} {} {:?}", self.name, self.kind, self.full_shape(rows))
    }

    pub(crate) fn as_json(&self, rows: u64) -> Value {
        json!({ "name": self.name, "kind": self.kind, "shape": self.full_shape(rows) })
    }

    pub(super) fn full_shape(&self, rows: u64) -> Vec<i64> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        [&[rows], &self.shape[..]].concat()
    }
}

/// All arrays of a file.
#[derive(Debug)]
pub(crate) struct Columns {
    /// In the order in which a row has them.
    pub(super) parts: Vec<Column>,
    pub(super) key: Column,
    /// What whoever reads the file should know.
    pub(crate) notes: Vec<String>,
}

/// A kind of elements in the words of a format.
pub(super) struct Kind {
    pub(super) word: String,
    /// Elements of that kind to one of ours.
    pub(super) each: Option<i64>,
    pub(super) note: Option<&'static str>,
}

impl Columns {
    /// The columns of a schema. `kind` knows the kinds of the format, and says what to do about one
    /// that it has not.
    pub(super) fn of(
        schema: &Schema,
        key: &str,
        key_kind: &str,
        reserved: &[&str],
        kind: impl Fn(&TensorSpec) -> Result<Kind, String>,
    ) -> Result<Columns, String> {
        let mut taken: Vec<String> = reserved.iter().map(|&name| name.to_owned()).collect();
        let mut notes = Vec::new();
        let mut parts = Vec::new();
        for (name, part) in schema.names().into_iter().zip(&schema.tensors) {
            let named = free(&name, &mut taken);
            if named != name {
                notes.push(format!("the part {name:?} is called {named:?} in the file"));
            }
            let Kind { word, each, note } = kind(part).map_err(|why| format!("{name}: {why}"))?;
            notes.extend(note.map(|note| format!("{named}: {note}")));
            parts.push(Column {
                name: named,
                kind: word,
                shape: part.shape.iter().copied().chain(each).collect(),
                // A schema that was read has a length.
                bytes: part.bytes().unwrap_or(0),
                element: part.stored.size() / each.unwrap_or(1) as usize,
            });
        }
        let named = free(key, &mut taken);
        if named != key {
            notes.push(format!(
                "the keys are called {named:?}, since a part is called {key:?}"
            ));
        }
        let key = Column {
            name: named,
            kind: key_kind.to_owned(),
            shape: vec![KEY_BYTES as i64],
            bytes: KEY_BYTES,
            element: 1,
        };
        Ok(Columns { parts, key, notes })
    }

    pub(crate) fn with_key(&self) -> impl Iterator<Item = &Column> {
        self.parts.iter().chain([&self.key])
    }
}

/// The name, or one like it that is not taken.
fn free(name: &str, taken: &mut Vec<String>) -> String {
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
    fn names_that_clash_are_told_apart_and_told() {
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
            Ok(Kind {
                word: "F32".into(),
                each: None,
                note: None,
            })
        };
        let columns = Columns::of(&schema, "keys", "U8", &["__metadata__"], kind);
        let columns = columns.expect("every kind is known");
        let names: Vec<_> = columns.with_key().map(|column| &*column.name).collect();
        assert_eq!(names, ["keys", "a", "a_", "__metadata___", "keys_"]);
        assert_eq!(columns.notes.len(), 3);
    }
}
