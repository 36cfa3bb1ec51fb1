//! `torchcache export`: the rows of a cache as arrays with their keys, in one file that Python reads.
//! Rows go through one at a time. Their number stands in front of them, so that a record that turns
//! out to be bad on the way means to begin anew without it.

mod columns;
mod npy;
mod safetensors;
mod target;

use std::fs::File;
use std::io;
use std::path::Path;

use serde_json::{Value, json};
use torchcache_store::Key;
use torchcache_store::admin::{Cache, CacheRows, Distinct};
use torchcache_store::schema::Schema;
use torchcache_store::size::human;

use crate::args::Export;
use crate::describe::Sort;
use crate::error::Error;
use crate::find;
use crate::json;
use crate::output::{Output, Printed};
use crate::progress::Bar;
use crate::text::{counted, plain};
use columns::Columns;
use npy::Npy;
use safetensors::Safetensors;
use target::Target;

/// Something that takes rows and makes a file of them.
trait Sink {
    fn row(&mut self, key: &Key, value: &[u8]) -> io::Result<()>;

    /// Writes what is still in memory.
    fn finish(&mut self) -> io::Result<()>;
}

/// The formats, by the ending of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Safetensors,
    Npy,
}

impl Format {
    fn of(path: &Path) -> Result<Format, Error> {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        match ending.to_str() {
            Some("safetensors") => Ok(Format::Safetensors),
            Some("npy") => Ok(Format::Npy),
            _ => Err(Error::not_done(format!(
                "{} ends in neither .safetensors nor .npy, and the ending says which format to write",
                path.display()
            ))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "safetensors",
            Format::Npy => "npy",
        }
    }

    fn columns(self, schema: &Schema) -> Result<Columns, String> {
        match self {
            Format::Safetensors => safetensors::columns(schema),
            Format::Npy => npy::columns(schema),
        }
    }

    /// Writes the header for so many rows, and gives what takes them.
    fn begin<'f>(
        self,
        file: &'f File,
        columns: &Columns,
        about: &About,
        rows: u64,
    ) -> io::Result<Box<dyn Sink + 'f>> {
        Ok(match self {
            Format::Safetensors => Box::new(Safetensors::begin(file, columns, about, rows)?),
            Format::Npy => Box::new(Npy::begin(file, columns, rows)?),
        })
    }
}

/// What a file says of where its rows are from.
struct About {
    module: String,
    hash: String,
    structure: String,
}

pub(crate) fn run(output: &Output, args: &Export) -> Result<Printed, Error> {
    let format = Format::of(&args.output)?;
    let found = find::caches(output, &args.dir)?;
    let cache = found.named(args.hash.as_deref())?;
    let target = Target::create(&args.output, args.force)?;
    raise_open_files();
    let rows = CacheRows::open(cache).map_err(Error::io("read", cache.path()))?;
    for (name, error) in rows.skipped() {
        let (name, error) = (plain(name), plain(&error.to_string()));
        output.note(format_args!("without {name}: {error}"));
    }
    let sorts = Sort::of(rows.groups().iter().cloned());
    let (sort, schema) = chosen(cache, &sorts, args.schema)?;
    let columns = format.columns(schema).map_err(Error::not_done)?;
    for note in &columns.notes {
        output.note(note);
    }
    let mut distinct = rows
        .distinct(sort.number - 1)
        .map_err(Error::io("read", cache.path()))?;
    let copies = sort.group.rows;
    let wanted = distinct.count();
    let about = About {
        module: cache.manifest().map_or(String::new(), |it| it.module),
        hash: cache.name().to_owned(),
        structure: schema.structure.clone(),
    };
    let write = |file: &File| write(file, format, &columns, &about, &mut distinct);
    target.fill(write).map_err(|failed| match failed {
        Failed::Source(error) => Error::io("read", cache.path())(error),
        Failed::Target(error) => Error::io("write", &args.output)(error),
    })?;

    let (count, bad) = (distinct.count(), distinct.bad());
    let damaged = bad > 0
        || rows
            .skipped()
            .iter()
            .any(|(_, error)| error.is_corruption());
    let bytes = args.output.metadata().map_or(0, |file| file.len());
    let path = plain(&args.output.display().to_string());
    let mut text = format!("{} ({}) in {path}\n", counted(count, "row"), human(bytes));
    for column in columns.with_key() {
        text += &format!("  {}\n", plain(&column.words(count)));
    }
    if bad > 0 {
        output.note(format_args!(
            "{} left out; {} had no sound copy",
            counted(bad, "bad record"),
            counted(wanted - count, "row")
        ));
    }
    let json = json!({
        "file": args.output.to_string_lossy(),
        "format": format.name(),
        "hash": cache.name(),
        "rows": count,
        "bytes": bytes,
        "duplicate_records": copies - wanted,
        "bad_records": bad,
        "lost_rows": wanted - count,
        "skipped_segments": rows.skipped().iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "arrays": columns.with_key().map(|it| it.as_json(count)).collect::<Vec<Value>>(),
        "notes": columns.notes,
        "left_alone": json::left_alone(&found.unopened),
    });
    let code = u8::from(damaged);
    Ok(Printed::found(text, json, code))
}

/// The rows that are meant, and what they are.
fn chosen<'s>(
    cache: &Cache,
    sorts: &'s [Sort],
    number: Option<usize>,
) -> Result<(&'s Sort, &'s Schema), Error> {
    let name = plain(cache.name());
    let lines = sorts.iter().map(|sort| {
        let rows = counted(sort.group.rows, "row");
        format!("{}: {rows}, {}", sort.number, sort.words())
    });
    let sort = match (number, sorts) {
        (_, []) => {
            return Err(Error::nothing(format!(
                "{name} holds no rows that can be read"
            )));
        }
        (None, [only]) => only,
        (None, several) => {
            return Err(Error::not_done(format!(
                "the rows of {name} are of {} sorts, and a file holds one; choose with --schema",
                several.len()
            ))
            .listing(lines));
        }
        (Some(number), _) => {
            let named = sorts.iter().find(|sort| sort.number == number);
            named.ok_or_else(|| {
                Error::not_done(format!("there is no schema {number} in {name}")).listing(lines)
            })?
        }
    };
    let schema = sort.schema.as_ref().ok_or_else(|| {
        Error::not_done(format!(
            "the rows of {name} cannot be exported: {}; the version that wrote them reads them",
            sort.unknown()
        ))
    })?;
    Ok((sort, schema))
}

/// On which side an export failed.
#[derive(Debug)]
enum Failed {
    Source(io::Error),
    Target(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Target(error)
    }
}

/// Writes header and rows, from the beginning for as long as some of them turn out to be bad.
fn write(
    file: &File,
    format: Format,
    columns: &Columns,
    about: &About,
    distinct: &mut Distinct<'_>,
) -> Result<(), Failed> {
    let bar = Bar::rows(distinct.count());
    loop {
        let rows = distinct.count();
        bar.restart(rows);
        file.set_len(0)?;
        let mut sink = format.begin(file, columns, about, rows)?;
        let mut is_target = false;
        let complete = distinct.each(|key, value| {
            bar.step();
            sink.row(key, value).inspect_err(|_| is_target = true)
        });
        let complete = complete.map_err(|error| match is_target {
            true => Failed::Target(error),
            false => Failed::Source(error),
        })?;
        if complete {
            bar.finish();
            return Ok(sink.finish()?);
        }
    }
}

/// The segments are held open, and there may be more of them than a process may usually open.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it may not, opening them says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::io::Errno;
    use torchcache_faults::faulty::{Call, Fate, Faulty};
    use torchcache_faults::sim::Sim;
    use torchcache_store::admin::Root;
    use torchcache_store::schema::{ElementKind, Part};
    use torchcache_store::{Config, RowBatch, Store};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_said_to_be_what_cannot_be_written() {
        let schema = Schema {
            structure: "T".into(),
            parts: vec![Part {
                stored: ElementKind::Uint8,
                output: ElementKind::Uint8,
                place: 0,
                shape: vec![3],
            }],
            lengths: Vec::new(),
        };
        let sim = Sim::new();
        let store = Store::open_on(Arc::new(sim.clone()), Path::new("/c"), Config::default());
        let store = store.expect("it opens");
        let batch = RowBatch::new(vec![[7; 32]], schema.encode().into(), vec![1, 2, 3], 3);
        store.put(batch.expect("the parts fit"));
        store.flush().expect("it is written");

        let broken = Arc::new(AtomicBool::new(false));
        let decide = {
            let broken = broken.clone();
            move |call: Call, _: &_| match call == Call::Read && broken.load(Ordering::SeqCst) {
                true => Fate::Fails(Errno::IO),
                false => Fate::Done,
            }
        };
        let root = Root::open_on(Arc::new(Faulty::new(sim, decide)), Path::new("/c"));
        let cache = root.and_then(|root| root.list()).expect("it is there");
        let rows = CacheRows::open(&cache.caches[0]).expect("it can be read");
        let mut distinct = rows.distinct(0).expect("it can be read");
        let columns = npy::columns(&schema).expect("it can be written");
        let about = About {
            module: String::new(),
            hash: String::new(),
            structure: String::new(),
        };
        let mut written = |file: &File| write(file, Format::Npy, &columns, &about, &mut distinct);
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        written(file.as_file()).expect("nothing fails");
        let closed = written(&File::open(file.path()).expect("it is there"));
        assert!(matches!(closed, Err(Failed::Target(_))), "{closed:?}");
        broken.store(true, Ordering::SeqCst);
        let unread = written(file.as_file());
        assert!(matches!(unread, Err(Failed::Source(_))), "{unread:?}");
    }

    #[test]
    fn the_ending_of_the_file_says_the_format() {
        let format = |path: &str| Format::of(Path::new(path)).ok();
        assert_eq!(format("a/rows.safetensors"), Some(Format::Safetensors));
        assert_eq!(format("rows.NPY"), Some(Format::Npy));
        for path in ["rows", "rows.npz", ".npy", "npy"] {
            assert_eq!(format(path), None, "{path}");
        }
    }
}
