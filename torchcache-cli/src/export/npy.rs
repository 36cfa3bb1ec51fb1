//! The `.npy` format: a header, which is a Python literal, and one record per row: the key and the parts,
//! packed. Written here, since the crates for it bring a parser for Python literals.
//!
//! ```text
//! magic      6        \x93NUMPY
//! version    2        1.0, or 2.0 for a long header
//! length     2 or 4   of the header, little-endian
//! header     …        a dictionary, padded with spaces so that records begin at a multiple of 64
//! records    …        key, then the parts
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use torchcache_store::Key;
use torchcache_store::schema::{ElementClass, Schema, TensorSpec};

use super::columns::{Columns, DEQUANTIZED, ElementType, ExportColumn};
use super::row_writer::RowWriter;

/// The bytes of a write.
const BUFFER: usize = 1 << 20;

/// numpy reads a longer header only with `max_header_size`.
const MAX_HEADER: usize = 10_000;

/// The fields of a schema, or why the format cannot hold it.
pub(super) fn columns(schema: &Schema) -> Result<Columns, String> {
    let mut columns =
        Columns::for_schema(schema, "key", "|u1", &[], |tensor| Ok(element_type(tensor)))?;
    let longest = header(&columns, u64::MAX).len();
    if longest > MAX_HEADER {
        columns.notes.push(format!(
            "the header is longer than numpy reads by default: np.load(…, max_header_size={longest})"
        ));
    }
    let lengths = columns.with_key().map(|column| column.bytes);
    let bytes = lengths.fold(0, usize::saturating_add);
    match i32::try_from(bytes) {
        Ok(_) => Ok(columns),
        Err(_) => Err(format!(
            "numpy has no records of {bytes} bytes; export to a .safetensors file"
        )),
    }
}

/// The numpy type of the elements. Kinds that numpy does not have are written as wider ones, or as their bits.
fn element_type(tensor: &TensorSpec) -> ElementType {
    const BITS_16: &str = "numpy has no bfloat16; these are its bits, as uint16";
    const WIDENED: &str = "numpy has no 8-bit floats; these are the same numbers, as float32";
    const PAIRS: &str = "numpy has no complex32; these are pairs of real and imaginary float16";
    let size = tensor.stored.size();
    let (letter, size, per_element, note) = match (tensor.stored.class(), size) {
        (ElementClass::Bool, _) => ('b', size, None, None),
        (ElementClass::Unsigned, _) => ('u', size, None, None),
        (ElementClass::Signed, _) => ('i', size, None, None),
        (ElementClass::Float, _) => ('f', size, None, None),
        (ElementClass::Complex, 4) => ('f', 2, Some(2), Some(PAIRS)),
        (ElementClass::Complex, _) => ('c', size, None, None),
        (ElementClass::MlFloat, 1) => ('f', 4, None, Some(WIDENED)),
        (ElementClass::MlFloat, _) => ('u', size, None, Some(BITS_16)),
        (ElementClass::Quantized, _) => ('f', 4, None, Some(DEQUANTIZED)),
    };
    let order = if size == 1 { '|' } else { '<' };
    ElementType {
        name: format!("{order}{letter}{size}"),
        per_element,
        is_widened: size > tensor.stored.size(),
        note,
    }
}

/// Writes records.
pub(super) struct Npy<'f> {
    out: BufWriter<&'f File>,
    parts: Vec<ExportColumn>,
}

impl<'f> Npy<'f> {
    pub(super) fn begin(mut file: &'f File, columns: &Columns, rows: u64) -> io::Result<Npy<'f>> {
        file.seek(SeekFrom::Start(0))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        out.write_all(&header(columns, rows))?;
        let parts = columns.parts.clone();
        Ok(Npy { out, parts })
    }
}

impl RowWriter for Npy<'_> {
    fn row(&mut self, key: &Key, mut value: &[u8]) -> io::Result<()> {
        self.out.write_all(key)?;
        let mut parts = self.parts.iter();
        parts.try_for_each(|part| self.out.write_all(&part.take(&mut value)))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn header(columns: &Columns, rows: u64) -> Vec<u8> {
    let field = |column: &ExportColumn| {
        let name = python_text(&column.name);
        match column.shape.as_slice() {
            [] => format!("({name}, '{}')", column.kind),
            shape => format!("({name}, '{}', {})", column.kind, python_tuple(shape)),
        }
    };
    let fields = [&columns.key].into_iter().chain(&columns.parts);
    let fields: Vec<_> = fields.map(field).collect();
    let fields = fields.join(", ");
    let text = format!("{{'descr': [{fields}], 'fortran_order': False, 'shape': ({rows},), }}");
    // The length of the text with its line end, so that the records after `before` bytes are aligned.
    let padded = |before: usize| (before + text.len() + 1).next_multiple_of(64) - before;
    let mut header = b"\x93NUMPY".to_vec();
    let len = match u16::try_from(padded(10)) {
        Ok(len) => {
            header.extend([1, 0]);
            header.extend(len.to_le_bytes());
            usize::from(len)
        }
        Err(_) => {
            let len = padded(12);
            header.extend([2, 0]);
            header.extend((len as u32).to_le_bytes());
            len
        }
    };
    header.extend(text.bytes());
    header.extend(std::iter::repeat_n(b' ', len - text.len() - 1));
    header.push(b'\n');
    header
}

/// A Python literal in ASCII, which both versions of the header allow.
fn python_text(text: &str) -> String {
    let mut quoted = String::from("'");
    for letter in text.chars() {
        match letter {
            '\'' | '\\' => quoted.extend(['\\', letter]),
            ' '..='~' => quoted.push(letter),
            _ => quoted += &format!("\\U{:08x}", u32::from(letter)),
        }
    }
    quoted + "'"
}

fn python_tuple(numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(|number| format!("{number},")).collect();
    format!("({})", numbers.join(" "))
}

#[cfg(test)]
mod tests {
    use torchcache_store::schema::{ElementKind, OutputDevice};

    use super::*;

    fn schema(parts: usize) -> Schema {
        let tensor = |shape: &[i64]| TensorSpec {
            stored: ElementKind::Float,
            output: ElementKind::Float,
            device: OutputDevice::Module,
            shape: shape.to_vec(),
        };
        Schema {
            structure: String::new(),
            tensors: (0..parts).map(|n| tensor(&[n as i64, 2])).collect(),
            lengths: Vec::new(),
        }
    }

    #[test]
    fn records_are_aligned_after_either_header_version() {
        for (parts, version) in [(1, 1), (7, 1), (256, 1), (3000, 2)] {
            let columns = columns(&schema(parts)).unwrap();
            let header = header(&columns, 12);
            assert_eq!(header[..6], *b"\x93NUMPY");
            assert_eq!((header[6], header.len() % 64), (version, 0));
            assert_eq!(header.last(), Some(&b'\n'));
        }
    }

    #[test]
    fn a_header_above_the_default_of_numpy_is_noted() {
        for (parts, notes) in [(256, 0), (300, 1)] {
            let columns = columns(&schema(parts)).unwrap();
            assert_eq!(columns.notes.len(), notes, "{:?}", columns.notes);
            let names_size = columns
                .notes
                .iter()
                .all(|it| it.contains("max_header_size="));
            assert!(names_size, "{:?}", columns.notes);
        }
    }

    #[test]
    fn names_are_escaped_as_python_literals() {
        assert_eq!(
            python_text("it's\\größe"),
            "'it\\'s\\\\gr\\U000000f6\\U000000dfe'"
        );
        assert_eq!(python_tuple(&[3]), "(3,)");
        assert_eq!(python_tuple(&[3, 4]), "(3, 4,)");
    }

    #[test]
    fn a_record_too_large_for_numpy_is_refused() {
        let mut schema = schema(1);
        schema.tensors[0].shape = vec![1 << 30];
        let error = columns(&schema).expect_err("it is too long");
        assert!(error.contains(".safetensors"), "{error}");
    }
}
