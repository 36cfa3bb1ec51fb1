//! `torchcache show`: one cache in detail.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Value, json};
use torchcache_store::admin::CacheSummary;
use torchcache_store::manifest::{Category, IdentityPart, Manifest};
use torchcache_store::segment::SegmentError;
use torchcache_store::size::human;

use crate::describe::{NEWER, NumberedSchema, formats, kind, module, on_device, ratio, shape};
use crate::error::Error;
use crate::json;
use crate::output::{BAD, CommandReport, DIM, HEADER, Printer};
use crate::select::CacheList;
use crate::table::{Column, Table};
use crate::text::{count, counted, path_text, plain, plain_value};
use crate::time::{ago, rfc3339};

/// The indent of tables below their titles.
const INDENT: usize = 2;

pub(crate) fn run(
    printer: &Printer,
    dir: &Path,
    hash: Option<&OsStr>,
) -> Result<CommandReport, Error> {
    let list = CacheList::open(printer, dir)?;
    let cache = list.find(hash)?;
    let summary = cache.summary().map_err(Error::io("read", cache.path()))?;
    let path = path_text(cache.path());
    let (text, schemas) = sections(printer, cache.name(), ("directory", &path), &summary);
    let mut json = as_json(cache.name(), &path, &summary, &schemas);
    json["skipped"] = json::skipped(&list.unopened);
    Ok(CommandReport::new(text, json))
}

/// The text about a cache, which is in a place of this kind, and the schemas of its rows.
pub(crate) fn sections(
    printer: &Printer,
    name: &str,
    place: (&str, &str),
    summary: &CacheSummary,
) -> (String, Vec<NumberedSchema>) {
    let schemas = NumberedSchema::number_all(summary.groups());
    let mut sections = vec![head(printer, name, place, summary)];
    if let Ok(manifest) = &summary.manifest {
        sections.extend(options(printer, manifest));
        sections.extend(identity(printer, manifest));
    }
    sections.extend(rows(printer, &schemas));
    sections.extend(segments(printer, summary));
    (sections.join("\n"), schemas)
}

fn head(
    printer: &Printer,
    name: &str,
    (kind, place): (&str, &str),
    summary: &CacheSummary,
) -> String {
    let mut lines = format!("{HEADER}{}{HEADER:#}\n", module(summary));
    let mut line = |name: &str, value: String| lines += &format!("  {name:<12}{value}\n");
    line("hash", plain(name));
    line(kind, plain(place));
    match &summary.manifest {
        Ok(manifest) => line("created by", plain(&manifest.created_by)),
        Err(error) if error.kind() == ErrorKind::NotFound => line("manifest", "none".to_owned()),
        Err(error) => line("manifest", format!("unreadable: {}", plain(error))),
    }
    if let Some(created) = summary.created {
        let ago = ago(created, printer.now);
        line("created", format!("{}, {ago}", rfc3339(created)));
    }
    let in_segments = counted(summary.segments.len() as u64, "segment");
    let each = match summary.segments.len() {
        0 | 1 => "",
        _ => "; a row in several segments counts in each",
    };
    let rows = count(summary.rows());
    line("rows", format!("{rows} in {in_segments}{each}"));
    line("size", human(summary.bytes()));
    if let Some(ratio) = ratio(summary) {
        line("ratio", format!("{ratio:.2} (value bytes per stored byte)"));
    }
    if let Some(read) = summary.last_read() {
        let ago = ago(read, printer.now);
        line("last read", format!("{}, {ago}", rfc3339(read)));
    }
    line("format", formats(summary));
    if summary.temp_files > 0 {
        let files = counted(summary.temp_files as u64, "file");
        line(
            "temporary",
            format!("{files}, being written or of a crashed writer"),
        );
    }
    lines
}

fn options(printer: &Printer, manifest: &Manifest) -> Option<String> {
    let is_option = |part: &&IdentityPart| part.category == Category::Option;
    let mut table = Table::new([Column::Long("OPTION"), Column::Long("VALUE")]).indented(INDENT);
    for part in manifest.parts.iter().filter(is_option) {
        table.row([plain(&part.path), plain_value(&part.value)]);
    }
    section(printer, "Options of the identity", &table)
}

fn identity(printer: &Printer, manifest: &Manifest) -> Option<String> {
    let columns = [
        Column::Left("CATEGORY"),
        Column::Long("PATH"),
        Column::Long("VALUE"),
    ];
    let mut table = Table::new(columns).indented(INDENT);
    for part in &manifest.parts {
        if part.category != Category::Option {
            table.row([
                part.category.to_string(),
                plain(&part.path),
                plain_value(&part.value),
            ]);
        }
    }
    section(printer, "Identity", &table)
}

fn rows(printer: &Printer, schemas: &[NumberedSchema]) -> Option<String> {
    let columns = [
        Column::Right("#"),
        Column::Long("NAME"),
        Column::Left("KIND"),
        Column::Long("SHAPE"),
        Column::Right("ROWS"),
        Column::Right("BYTES EACH"),
    ];
    let mut table = Table::new(columns).indented(INDENT);
    for numbered in schemas {
        let rows = count(numbered.group.rows);
        let bytes = count(numbered.group.row_bytes.into());
        let Some(schema) = &numbered.schema else {
            let (name, dash) = ("(unknown schema)".to_owned(), || "-".to_owned());
            table.row([
                numbered.number.to_string(),
                name,
                dash(),
                dash(),
                rows,
                bytes,
            ]);
            continue;
        };
        let mut of_all = Some((numbered.number.to_string(), rows, bytes));
        for (name, part) in schema.names().iter().zip(&schema.tensors) {
            // What the parts share is printed with the first.
            let (number, rows, bytes) = of_all.take().unwrap_or_default();
            let (kind, shape) = (kind(part) + &on_device(part), shape(part));
            table.row([number, plain(name), kind, shape, rows, bytes]);
        }
    }
    section(printer, "Rows", &table)
}

fn segments(printer: &Printer, summary: &CacheSummary) -> Option<String> {
    let columns = [
        Column::Left("NAME"),
        Column::Right("ROWS"),
        Column::Right("SIZE"),
        Column::Left("LAST READ"),
        Column::Left("FORMAT"),
    ];
    let mut table = Table::new(columns).indented(INDENT);
    let (mut corrupt, mut is_newer) = (String::new(), false);
    for segment in &summary.segments {
        let read = segment.last_read.map(|read| ago(read, printer.now));
        let (size, read) = (human(segment.bytes), read.unwrap_or("-".to_owned()));
        let name = plain(&segment.name);
        match &segment.contents {
            Ok(contents) => {
                let rows = count(contents.rows);
                table.row([name, rows, size, read, contents.version.to_string()]);
            }
            Err(SegmentError::FutureVersion(version)) => {
                table.row([name, "-".into(), size, read, format!("{version}*")]);
                is_newer = true;
            }
            Err(error) => {
                corrupt += &format!("  {BAD}{name}{BAD:#}: {}\n", plain(error));
                table.styled_row(BAD, [name, "-".into(), size, read, "-".into()]);
            }
        }
    }
    let mut section = section(printer, "Segments", &table)?;
    if is_newer {
        section += &format!("  {DIM}{NEWER}{DIM:#}\n");
    }
    Some(section + &corrupt)
}

fn section(printer: &Printer, title: &str, table: &Table) -> Option<String> {
    let text = || {
        format!(
            "{HEADER}{title}{HEADER:#}\n{}",
            table.render(printer.columns)
        )
    };
    (!table.is_empty()).then(text)
}

pub(crate) fn as_json(
    name: &str,
    path: &str,
    summary: &CacheSummary,
    schemas: &[NumberedSchema],
) -> Value {
    let mut json = json::cache(name, path, summary);
    let manifest = summary.manifest.as_ref().ok();
    let segments: Vec<_> = summary.segments.iter().map(json::segment).collect();
    let schemas: Vec<_> = schemas.iter().map(json::schema).collect();
    json["created_by"] = json!(manifest.map(|manifest| &manifest.created_by));
    json["parts"] = json!(manifest.map(|manifest| &manifest.parts));
    json["schemas"] = json!(schemas);
    json["segments"] = json!(segments);
    json
}
