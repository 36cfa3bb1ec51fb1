//! `torchcache export`: the rows of a cache as arrays with their keys, in one file that Python reads.

use std::fs::File;

use serde_json::{Value, json};
use torchcache_store::admin::{Cache, CacheRows};
use torchcache_store::schema::Schema;
use torchcache_store::size::human;

use crate::args::Export;
use crate::describe::Sort;
use crate::error::Error;
use crate::export::{ExportError, Origin, OutputFile, write_rows};
use crate::json;
use crate::output::{Output, Report};
use crate::select;
use crate::text::{counted, plain};

pub(crate) fn run(output: &Output, args: &Export) -> Result<Report, Error> {
    let (path, format) = (&args.output.path, args.output.format);
    let found = select::caches(output, &args.dir)?;
    let cache = found.named(args.hash.as_deref())?;
    let file = OutputFile::create(path, args.force)?;
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
    let origin = Origin {
        module: cache.manifest().map_or(String::new(), |it| it.module),
        hash: cache.name().to_owned(),
        structure: schema.structure.clone(),
    };
    let write = |file: &File| write_rows(file, format, &columns, &origin, &mut distinct);
    file.fill(write).map_err(|error| match error {
        ExportError::Read(error) => Error::io("read", cache.path())(error),
        ExportError::Write(error) => Error::io("write", path)(error),
    })?;

    let (count, bad) = (distinct.count(), distinct.bad());
    let damaged = bad > 0
        || rows
            .skipped()
            .iter()
            .any(|(_, error)| error.is_corruption());
    let bytes = path.metadata().map_or(0, |file| file.len());
    let shown = plain(&path.display().to_string());
    let mut text = format!("{} ({}) in {shown}\n", counted(count, "row"), human(bytes));
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
        "file": path.to_string_lossy(),
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
    Ok(Report::found(text, json, code))
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

/// The segments are held open, and there may be more of them than a process may usually open.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it may not, opening them says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
