//! Writes the rows of a cache into a file, in the format that its extension names. Rows are streamed. The
//! header has their number, so that writing starts again after a corrupt record.

mod columns;
mod keys;
mod npy;
mod output_file;
mod row_writer;
mod safetensors;

use std::fs::File;
use std::io;
use std::path::PathBuf;

use torchcache_store::Key;
use torchcache_store::admin::{DistinctRows, KeyedRows};
use torchcache_store::schema::Schema;

use crate::progress::row_bar;
pub(crate) use columns::Columns;
pub(crate) use keys::KeyFile;
use npy::Npy;
pub(crate) use output_file::OutputFile;
pub(crate) use row_writer::Origin;
use row_writer::RowWriter;
use safetensors::Safetensors;

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Safetensors,
    Npy,
}

/// A path whose extension names a format.
#[derive(Clone, Debug)]
pub(crate) struct ExportPath {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
}

impl ExportPath {
    pub(crate) fn new(path: PathBuf) -> Result<ExportPath, &'static str> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let format = match extension.to_str() {
            Some("safetensors") => Format::Safetensors,
            Some("npy") => Format::Npy,
            _ => {
                return Err("the extension names the format, and must be .safetensors or .npy");
            }
        };
        Ok(ExportPath { path, format })
    }
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Npy => "npy",
        }
    }

    /// The columns of a schema, or why the format cannot hold it.
    pub(crate) fn columns(self, schema: &Schema) -> Result<Columns, String> {
        match self {
            Format::Safetensors => safetensors::columns(schema),
            Format::Npy => npy::columns(schema),
        }
    }

    /// Writes the header, and returns the writer of the rows.
    fn begin<'f>(
        self,
        file: &'f File,
        columns: &Columns,
        origin: &Origin,
        rows: u64,
    ) -> io::Result<Box<dyn RowWriter + 'f>> {
        Ok(match self {
            Format::Safetensors => Box::new(Safetensors::begin(file, columns, origin, rows)?),
            Format::Npy => Box::new(Npy::begin(file, columns, rows)?),
        })
    }
}

/// Whether reading the cache or writing the file failed.
#[derive(Debug)]
pub(crate) enum ExportError {
    Read(io::Error),
    Write(io::Error),
}

impl From<io::Error> for ExportError {
    fn from(error: io::Error) -> Self {
        ExportError::Write(error)
    }
}

/// The rows to write.
pub(crate) enum ExportedRows<'r> {
    /// All of them, each once.
    Distinct(DistinctRows<'r>),
    Keyed(KeyedRows<'r>),
}

impl ExportedRows<'_> {
    pub(crate) fn count(&self) -> u64 {
        match self {
            ExportedRows::Distinct(rows) => rows.count(),
            ExportedRows::Keyed(rows) => rows.count(),
        }
    }

    pub(crate) fn corrupt_records(&self) -> u64 {
        match self {
            ExportedRows::Distinct(rows) => rows.corrupt_records(),
            ExportedRows::Keyed(_) => 0,
        }
    }

    /// Returns whether all rows were passed to `take`; if not, the caller starts again.
    fn for_each(&mut self, take: impl FnMut(&Key, &[u8]) -> io::Result<()>) -> io::Result<bool> {
        match self {
            ExportedRows::Distinct(rows) => rows.for_each(take),
            ExportedRows::Keyed(rows) => rows.for_each(take).map(|()| true),
        }
    }
}

/// Writes the header and the rows, again from the start while some records turn out to be corrupt.
pub(crate) fn write_rows(
    file: &File,
    format: Format,
    columns: &Columns,
    origin: &Origin,
    exported: &mut ExportedRows<'_>,
) -> Result<(), ExportError> {
    let bar = row_bar();
    loop {
        let rows = exported.count();
        bar.set_length(rows);
        bar.set_position(0);
        file.set_len(0)?;
        let mut writer = format.begin(file, columns, origin, rows)?;
        let mut is_writing = false;
        let complete = exported.for_each(|key, value| {
            bar.inc(1);
            writer.row(key, value).inspect_err(|_| is_writing = true)
        });
        let complete = complete.map_err(|error| match is_writing {
            true => ExportError::Write(error),
            false => ExportError::Read(error),
        })?;
        if complete {
            bar.finish_and_clear();
            return Ok(writer.finish()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::io::Errno;
    use torchcache_faults::faulty::{Call, Fate, Faulty};
    use torchcache_faults::sim::Sim;
    use torchcache_store::admin::{CacheRows, Root};
    use torchcache_store::schema::{ElementKind, OutputDevice, TensorSpec};
    use torchcache_store::{Config, RowBatch, Store};

    use super::*;

    #[test]
    fn read_and_write_errors_differ() {
        let schema = Schema {
            structure: "T".into(),
            tensors: vec![TensorSpec {
                stored: ElementKind::Uint8,
                output: ElementKind::Uint8,
                device: OutputDevice::Module,
                shape: vec![3],
            }],
            lengths: Vec::new(),
        };
        let sim = Sim::new();
        let store =
            Store::open_on(Arc::new(sim.clone()), Path::new("/c"), Config::default()).unwrap();
        let batch = RowBatch::new(vec![[7; 32]], schema.encode().into(), vec![1, 2, 3], 3);
        store.put(batch.unwrap());
        store.flush().unwrap();

        let broken = Arc::new(AtomicBool::new(false));
        let decide = {
            let broken = broken.clone();
            move |call: Call, _: &_| match call == Call::Read && broken.load(Ordering::SeqCst) {
                true => Fate::Fails(Errno::IO),
                false => Fate::Done,
            }
        };
        let root = Root::open_on(Arc::new(Faulty::new(sim, decide)), Path::new("/c"));
        let cache = root.and_then(|root| root.list()).unwrap();
        let rows = CacheRows::open(&cache.caches[0]).unwrap();
        let mut exported = ExportedRows::Distinct(rows.distinct(0).unwrap());
        let columns = npy::columns(&schema).unwrap();
        let origin = Origin::default();
        let mut write =
            |file: &File| write_rows(file, Format::Npy, &columns, &origin, &mut exported);
        let file = tempfile::NamedTempFile::new().unwrap();
        write(file.as_file()).unwrap();
        let closed = write(&File::open(file.path()).unwrap());
        assert!(matches!(closed, Err(ExportError::Write(_))), "{closed:?}");
        broken.store(true, Ordering::SeqCst);
        let unread = write(file.as_file());
        assert!(matches!(unread, Err(ExportError::Read(_))), "{unread:?}");
    }

    /// The rows of a forged schema are not in memory: none has that many bytes.
    #[test]
    fn schemas_whose_rows_are_too_large_for_a_file_are_refused() {
        let tensor = |exponent: u32, stored| TensorSpec {
            stored,
            output: ElementKind::Float,
            device: OutputDevice::Module,
            shape: vec![1 << exponent],
        };
        let (integers, floats) = (ElementKind::QInt8, ElementKind::Float8e5m2);
        for (format, tensors) in [
            (Format::Safetensors, vec![tensor(62, integers)]),
            (Format::Npy, vec![tensor(62, integers)]),
            (Format::Npy, vec![tensor(62, floats)]),
            // Each alone is not too long to be counted.
            (Format::Npy, vec![tensor(61, floats), tensor(61, integers)]),
        ] {
            let schema = Schema {
                structure: String::new(),
                tensors,
                lengths: Vec::new(),
            };
            assert!(Schema::decode(&schema.encode()).is_some());
            let refused = format.columns(&schema).map(|_| ());
            refused.expect_err("they do not fit");
        }
    }

    #[test]
    fn the_file_extension_selects_the_format() {
        let format = |path: &str| ExportPath::new(path.into()).ok().map(|path| path.format);
        assert_eq!(format("a/rows.safetensors"), Some(Format::Safetensors));
        assert_eq!(format("rows.NPY"), Some(Format::Npy));
        for path in ["rows", "rows.npz", ".npy", "npy"] {
            assert_eq!(format(path), None, "{path}");
        }
    }
}
