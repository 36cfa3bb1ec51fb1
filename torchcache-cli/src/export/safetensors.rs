//! The safetensors format: a JSON header, and then each tensor. A row therefore goes to several places of
//! the file at once. Written here, since the crate for it takes whole tensors from memory.
//!
//! ```text
//! length of the header   8        little-endian
//! header                 …        JSON, padded with spaces to a multiple of 8
//! tensors                …        rows × bytes each, without gaps
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde_json::{Map, Value, json};
use torchcache_store::Key;
use torchcache_store::schema::{ElementClass, ElementKind, Schema, TensorSpec};

use super::columns::{Columns, DEQUANTIZED, ElementType, ExportColumn};
use super::row_writer::{Origin, RowWriter};

/// The memory that the buffers of all tensors share.
const BUFFERS: usize = 1 << 20;

/// The least buffer of a tensor.
const MIN_BUFFER: usize = 4 << 10;

const METADATA: &str = "__metadata__";

/// The tensors of a schema, or why the format cannot hold it.
pub(super) fn columns(schema: &Schema) -> Result<Columns, String> {
    Columns::for_schema(schema, "keys", "U8", &[METADATA], element_type)
}

fn element_type(tensor: &TensorSpec) -> Result<ElementType, String> {
    const NOT_NUMPY: &str = "safetensors.numpy has no such type; read it with safetensors.torch, or \
                             export to a .npy file";
    let bits = 8 * tensor.stored.size();
    let name = match (tensor.stored, tensor.stored.class()) {
        (_, ElementClass::Bool) => "BOOL".to_owned(),
        (_, ElementClass::Unsigned) => format!("U{bits}"),
        (_, ElementClass::Signed) => format!("I{bits}"),
        (_, ElementClass::Float) => format!("F{bits}"),
        (ElementKind::ComplexFloat, _) => "C64".to_owned(),
        (ElementKind::BFloat16, _) => "BF16".to_owned(),
        (ElementKind::Float8e5m2, _) => "F8_E5M2".to_owned(),
        (ElementKind::Float8e4m3fn, _) => "F8_E4M3".to_owned(),
        (ElementKind::Float8e5m2fnuz, _) => "F8_E5M2FNUZ".to_owned(),
        (ElementKind::Float8e4m3fnuz, _) => "F8_E4M3FNUZ".to_owned(),
        (ElementKind::QInt8, _) => "F32".to_owned(),
        (kind, ElementClass::Complex | ElementClass::MlFloat | ElementClass::Quantized) => {
            return Err(format!("safetensors has no {kind}; export to a .npy file"));
        }
    };
    let note = match tensor.stored.class() {
        ElementClass::MlFloat => Some(NOT_NUMPY),
        ElementClass::Quantized => Some(DEQUANTIZED),
        _ => None,
    };
    Ok(ElementType {
        name,
        per_element: None,
        is_widened: note == Some(DEQUANTIZED),
        note,
    })
}

/// Writes each part of a row into its tensor.
pub(super) struct Safetensors<'f> {
    file: &'f File,
    /// The parts in the order of a row, then the keys.
    tensors: Vec<TensorWriter>,
}

/// Writes one tensor.
struct TensorWriter {
    column: ExportColumn,
    /// The file offset of the next write.
    offset: u64,
    buffer: Vec<u8>,
    capacity: usize,
}

impl<'f> Safetensors<'f> {
    pub(super) fn begin(
        file: &'f File,
        columns: &Columns,
        origin: &Origin,
        rows: u64,
    ) -> io::Result<Safetensors<'f>> {
        let all: Vec<&ExportColumn> = columns.with_key().collect();
        // The widest elements first, so that each tensor is aligned to its elements.
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|&number| std::cmp::Reverse(all[number].element));
        let mut header = Map::new();
        header.insert(METADATA.to_owned(), metadata(origin));
        let mut begins = vec![0; all.len()];
        let mut end = 0u64;
        for number in order {
            let column = all[number];
            let len = (column.bytes as u64).checked_mul(rows);
            let next = len.and_then(|len| end.checked_add(len));
            begins[number] = end;
            let next = next.ok_or_else(|| io::Error::other("the rows do not fit into a file"))?;
            let tensor = json!({
                "dtype": column.kind,
                "shape": column.full_shape(rows),
                "data_offsets": [end, next],
            });
            header.insert(column.name.clone(), tensor);
            end = next;
        }
        let mut header = serde_json::to_vec(&Value::Object(header))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let len = header.len() as u64;
        file.write_all_at(&len.to_le_bytes(), 0)?;
        file.write_all_at(&header, 8)?;
        file.set_len(8 + len + end)?;
        let capacity = (BUFFERS / all.len()).max(MIN_BUFFER);
        let tensors = all.iter().zip(begins).map(|(column, begin)| TensorWriter {
            column: (*column).clone(),
            offset: 8 + len + begin,
            buffer: Vec::new(),
            capacity,
        });
        let tensors = tensors.collect();
        Ok(Safetensors { file, tensors })
    }
}

fn metadata(origin: &Origin) -> Value {
    json!({
        "torchcache": env!("CARGO_PKG_VERSION"),
        "module": origin.module,
        "hash": origin.hash,
        "structure": origin.structure,
    })
}

impl TensorWriter {
    fn push(&mut self, file: &File, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > self.capacity {
            self.write(file)?;
        }
        if bytes.len() > self.capacity {
            file.write_all_at(bytes, self.offset)?;
            self.offset += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl RowWriter for Safetensors<'_> {
    fn row(&mut self, key: &Key, mut value: &[u8]) -> io::Result<()> {
        let Some((keys, parts)) = self.tensors.split_last_mut() else {
            return Ok(());
        };
        for part in parts {
            let bytes = part.column.take(&mut value);
            part.push(self.file, &bytes)?;
        }
        keys.push(self.file, key)
    }

    fn finish(&mut self) -> io::Result<()> {
        let file = self.file;
        self.tensors
            .iter_mut()
            .try_for_each(|tensor| tensor.write(file))
    }
}
