//! `torchcache export`: writes the rows of a cache and their keys into one file for Python.

use std::fs::File;
use std::io::ErrorKind;

use serde_json::{Value, json};
use torchcache_store::admin::{Cache, CacheRows};
use torchcache_store::schema::Schema;
use torchcache_store::size::human;

use crate::args::Export;
use crate::describe::NumberedSchema;
use crate::error::Error;
use crate::export::{ExportError, ExportedRows, KeyFile, Origin, OutputFile, write_rows};
use crate::json;
use crate::output::{CommandReport, Printer};
use crate::select::CacheList;
use crate::text::{counted, path_text, plain};

pub(crate) fn run(printer: &Printer, args: &Export) -> Result<CommandReport, Error> {
    let (path, format) = (&args.output.path, args.output.format);
    let list = CacheList::open(printer, &args.dir)?;
    let cache = list.find(args.hash.as_deref())?;
    let keys = args.keys.as_deref().map(KeyFile::read).transpose()?;
    let file = OutputFile::create(path, args.force)?;
    raise_open_file_limit();
    let rows = CacheRows::open(cache).map_err(Error::io("read", cache.path()))?;
    for (name, error) in rows.skipped() {
        printer.note(format_args!("{name} is left out: {error}"));
    }
    let schemas = NumberedSchema::number_all(rows.groups().iter().cloned());
    let (numbered, schema) = select_schema(cache, &schemas, args.schema)?;
    let columns = format.columns(schema).map_err(Error::failed)?;
    for note in &columns.notes {
        printer.note(note);
    }
    let group = numbered.number - 1;
    let (mut exported, duplicates) = match &keys {
        None => {
            let distinct = rows.distinct_with(group, file.folder());
            let distinct = distinct.map_err(Error::io("read", cache.path()))?;
            let duplicates = numbered.group.rows - distinct.count();
            (ExportedRows::Distinct(distinct), duplicates)
        }
        Some(file) => {
            let keyed = rows.with_keys(group, &file.keys);
            let keyed = keyed.map_err(Error::io("read", cache.path()))?;
            file.expect_all(&keyed, cache, numbered)?;
            (ExportedRows::Keyed(keyed), 0)
        }
    };
    let expected = exported.count();
    let module = match cache.manifest() {
        Ok(manifest) => manifest.module,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
            String::new()
        }
        Err(error) => return Err(Error::io("read", cache.path())(error)),
    };
    let origin = Origin {
        module,
        hash: cache.name().to_owned(),
        structure: schema.structure.clone(),
    };
    let write = |file: &File| write_rows(file, format, &columns, &origin, &mut exported);
    file.fill(write).map_err(|error| match error {
        ExportError::Read(error) => Error::io("read", cache.path())(error),
        ExportError::Write(error) => Error::io("write", path)(error),
    })?;

    let (count, corrupt) = (exported.count(), exported.corrupt_records());
    let has_corruption = corrupt > 0
        || rows
            .skipped()
            .iter()
            .any(|(_, error)| error.is_corruption());
    let bytes = path.metadata().map_or(0, |file| file.len());
    let shown = plain(path_text(path));
    let mut text = format!("{} ({}) in {shown}\n", counted(count, "row"), human(bytes));
    for column in columns.with_key() {
        text += &format!("  {}\n", plain(column.one_line(count)));
    }
    if corrupt > 0 {
        printer.note(format_args!(
            "{} left out; {} lost, with no intact copy",
            counted(corrupt, "corrupt record"),
            counted(expected - count, "row")
        ));
    }
    let json = json!({
        "file": path_text(path),
        "format": format.name(),
        "hash": cache.name(),
        "rows": count,
        "bytes": bytes,
        "duplicate_records": duplicates,
        "corrupt_records": corrupt,
        "lost_rows": expected - count,
        "skipped_segments": rows.skipped().iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "arrays": columns.with_key().map(|it| it.as_json(count)).collect::<Vec<Value>>(),
        "notes": columns.notes,
        "skipped": json::skipped(&list.unopened),
    });
    let code = u8::from(has_corruption);
    Ok(CommandReport::with_code(text, json, code))
}

/// Selects the rows of one schema.
fn select_schema<'s>(
    cache: &Cache,
    schemas: &'s [NumberedSchema],
    number: Option<usize>,
) -> Result<(&'s NumberedSchema, &'s Schema), Error> {
    let name = plain(cache.name());
    let lines = schemas.iter().map(|schema| {
        let rows = counted(schema.group.rows, "row");
        format!("{}: {rows}, {}", schema.number, schema.one_line())
    });
    let numbered = match (number, schemas) {
        (_, []) => {
            return Err(Error::not_found(format!(
                "{name} holds no rows that can be read"
            )));
        }
        (None, [only]) => only,
        (None, several) => {
            return Err(Error::failed(format!(
                "the rows of {name} have {} schemas, and a file holds one; select it with --schema",
                several.len()
            ))
            .with_choices(lines));
        }
        (Some(number), _) => {
            let named = schemas.iter().find(|schema| schema.number == number);
            named.ok_or_else(|| {
                Error::failed(format!("there is no schema {number} in {name}")).with_choices(lines)
            })?
        }
    };
    let schema = numbered.schema.as_ref().ok_or_else(|| {
        Error::failed(format!(
            "cannot export the rows of {name}: {}; use the version that wrote them",
            numbered.unknown()
        ))
    })?;
    Ok((numbered, schema))
}

/// Raises the limit of open files: the export holds all segments open.
fn raise_open_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without the right to raise it, opening a segment reports the error.
    let _ = setrlimit(Resource::Nofile, limit);
}
