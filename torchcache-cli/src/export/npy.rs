//! The `.npy` format: a header in Python, then one record after the other. A row is a record: the key
//! and the parts, packed as they are stored.
//!
//! ```text
//! magic      6        \x93NUMPY
//! version    2        1.0, or 2.0 for a long header
//! length     2 or 4   of the header, little-endian
//! header     …        a dictionary, filled up with spaces, so that records begin at a multiple of 64
//! records    …        key, then the parts
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

use torchcache_store::Key;
use torchcache_store::schema::{ElementClass, Schema, TensorSpec};

use super::columns::{Column, Columns, Kind};
use super::row_writer::RowWriter;

/// Bytes of a write.
const BUFFER: usize = 1 << 20;

/// A longer header numpy only reads where that is allowed to it.
const NUMPY_READS: usize = 10_000;

/// The fields of a schema, or why it cannot be written.
pub(super) fn columns(schema: &Schema) -> Result<Columns, String> {
    let mut columns = Columns::of(schema, "key", "|u1", &[], |part| Ok(kind(part)))?;
    let longest = header(&columns, u64::MAX).len();
    if longest > NUMPY_READS {
        columns.notes.push(format!(
            "the header is longer than numpy reads unasked: np.load(…, max_header_size={longest})"
        ));
    }
    let bytes: usize = columns.with_key().map(|column| column.bytes).sum();
    match i32::try_from(bytes) {
        Ok(_) => Ok(columns),
        Err(_) => Err(format!(
            "numpy knows no records of {bytes} bytes; export to a file that ends in .safetensors"
        )),
    }
}

/// The numpy kind of a tensor's elements. Elements that numpy has no kind for are written as bits.
fn kind(tensor: &TensorSpec) -> Kind {
    const BITS_16: &str = "numpy knows no bfloat16; these are its bits, as uint16";
    const BITS_8: &str = "numpy knows no 8-bit floats; these are their bits, as uint8";
    const PAIRS: &str = "numpy knows no complex32; these are pairs of real and imaginary float16";
    let size = tensor.stored.size();
    let (letter, size, each, note) = match (tensor.stored.class(), size) {
        (ElementClass::Bool, _) => ('b', size, None, None),
        (ElementClass::Unsigned, _) => ('u', size, None, None),
        (ElementClass::Signed, _) => ('i', size, None, None),
        (ElementClass::Float, _) => ('f', size, None, None),
        (ElementClass::Complex, 4) => ('f', 2, Some(2), Some(PAIRS)),
        (ElementClass::Complex, _) => ('c', size, None, None),
        (ElementClass::MlFloat, 1) => ('u', size, None, Some(BITS_8)),
        (ElementClass::MlFloat, _) => ('u', size, None, Some(BITS_16)),
    };
    let order = if size == 1 { '|' } else { '<' };
    let word = format!("{order}{letter}{size}");
    Kind { word, each, note }
}

/// A file that is being filled.
pub(super) struct Npy<'f> {
    out: BufWriter<&'f File>,
}

impl<'f> Npy<'f> {
    pub(super) fn begin(mut file: &'f File, columns: &Columns, rows: u64) -> io::Result<Npy<'f>> {
        file.seek(SeekFrom::Start(0))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        out.write_all(&header(columns, rows))?;
        Ok(Npy { out })
    }
}

impl RowWriter for Npy<'_> {
    fn row(&mut self, key: &Key, value: &[u8]) -> io::Result<()> {
        self.out.write_all(key)?;
        self.out.write_all(value)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn header(columns: &Columns, rows: u64) -> Vec<u8> {
    let field = |column: &Column| {
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
    // With the line end, and what stands before the text.
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

/// A text as Python writes it, in ASCII: both versions of the header have it for their letters.
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
    fn records_begin_at_a_multiple_of_64_after_a_header_of_either_version() {
        for (parts, version) in [(1, 1), (7, 1), (256, 1), (3000, 2)] {
            let columns = columns(&schema(parts)).expect("it can be written");
            let header = header(&columns, 12);
            assert_eq!(header[..6], *b"\x93NUMPY");
            assert_eq!((header[6], header.len() % 64), (version, 0));
            assert_eq!(header.last(), Some(&b'\n'));
        }
    }

    #[test]
    fn a_header_that_numpy_does_not_read_unasked_is_told() {
        for (parts, notes) in [(256, 0), (300, 1)] {
            let columns = columns(&schema(parts)).expect("it can be written");
            assert_eq!(columns.notes.len(), notes, "{:?}", columns.notes);
            let told = columns
                .notes
                .iter()
                .all(|it| it.contains("max_header_size="));
            assert!(told, "{:?}", columns.notes);
        }
    }

    #[test]
    fn names_of_any_letters_are_plain_python() {
        assert_eq!(
            python_text("it's\\größe"),
            "'it\\'s\\\\gr\\U000000f6\\U000000dfe'"
        );
        assert_eq!(python_tuple(&[3]), "(3,)");
        assert_eq!(python_tuple(&[3, 4]), "(3, 4,)");
    }

    #[test]
    fn a_record_that_numpy_cannot_have_is_refused_with_what_to_do() {
        let mut schema = schema(1);
        schema.tensors[0].shape = vec![1 << 30];
        let error = columns(&schema).expect_err("it is too long");
        assert!(error.contains(".safetensors"), "{error}");
    }
}
