//! `torchcache ls`: one line for each cache.

use std::cmp::Reverse;
use std::io::ErrorKind;
use std::path::Path;

use rustix::io::Errno;
use serde_json::json;
use torchcache_store::admin::{Cache, CacheSummary};
use torchcache_store::size::{human, sum};

use crate::describe::{NEWER, corrupt_segments, formats, module, newer_versions, ratio};
use crate::error::Error;
use crate::json;
use crate::output::{CommandReport, DIM, Printer};
use crate::select::CacheList;
use crate::table::{Column, Table};
use crate::text::{count, counted, path_text, plain, quoted};
use crate::time::ago;

pub(crate) fn run(printer: &Printer, dir: &Path) -> Result<CommandReport, Error> {
    let list = CacheList::open_noting_none(printer, dir)?;
    let (mut listed, mut skipped) = (Vec::new(), list.unopened.clone());
    for cache in &list.caches {
        match cache.summary() {
            Ok(summary) => listed.push((cache, summary)),
            // Removed since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // It says nothing about the cache.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::MFILE | Errno::NFILE)
                ) =>
            {
                return Err(Error::io("read", cache.path())(error));
            }
            Err(error) => {
                let path = cache.path();
                printer.note(format_args!("{} is skipped: {error}", path_text(path)));
                skipped.push((path.to_owned(), error.to_string()));
            }
        }
    }
    // Caches without rows come last, the most recently created first.
    let age =
        |(_, summary): &(&Cache, CacheSummary)| Reverse((summary.last_read(), summary.created));
    listed.sort_by_key(age);
    let short = list.short_names();
    let mut table = Table::new([
        Column::Long("TYPE"),
        Column::Left("HASH"),
        Column::Right("ROWS"),
        Column::Right("SIZE"),
        Column::Right("RATIO"),
        Column::Left("LAST READ"),
        Column::Left("FORMAT"),
    ]);
    for (cache, summary) in &listed {
        table.row([
            module(summary),
            short[cache.name()].clone(),
            count(summary.rows()),
            human(summary.bytes()),
            ratio(summary).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
            summary
                .last_read()
                .map_or("-".to_owned(), |read| ago(read, printer.now)),
            formats(summary),
        ]);
        let corrupt = corrupt_segments(summary);
        if corrupt > 0 {
            printer.note(format_args!(
                "{} in {}: see `torchcache show {} {}`",
                counted(corrupt, "corrupt segment"),
                plain(cache.name()),
                quoted(&path_text(dir)),
                quoted(cache.name()),
            ));
        }
        for segment in &summary.segments {
            if let Err(error) = &segment.contents
                && !error.is_corruption()
            {
                skipped.push((cache.path().join(&segment.name), error.to_string()));
            }
        }
    }
    let rows = listed.iter().map(|(_, summary)| summary.rows()).sum();
    let bytes = sum(listed.iter().map(|(_, summary)| summary.bytes()));
    let mut text = table.render(printer.columns);
    let has_newer = |(_, summary): &(&Cache, CacheSummary)| !newer_versions(summary).is_empty();
    if listed.iter().any(has_newer) {
        text += &format!("{DIM}{NEWER}{DIM:#}\n");
    }
    let (caches, rows_words) = (counted(listed.len() as u64, "cache"), counted(rows, "row"));
    text += &format!("{DIM}{caches}, {rows_words}, {}{DIM:#}\n", human(bytes));
    let caches: Vec<_> = listed
        .iter()
        .map(|(cache, summary)| json::cache(cache.name(), &path_text(cache.path()), summary))
        .collect();
    let json = json!({
        "path": path_text(list.root.path()),
        "caches": caches,
        "skipped": json::skipped(&skipped),
        "rows": rows,
        "bytes": bytes,
    });
    Ok(CommandReport::new(text, json))
}
