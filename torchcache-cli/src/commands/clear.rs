//! `torchcache clear`: removes whole caches after a confirmation, or prints what it would remove.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::json;
use torchcache_store::admin::{Cache, ClearReport, clear};
use torchcache_store::size::human;

use crate::args::Clear;
use crate::error::Error;
use crate::json;
use crate::output::{self, CommandReport, Printer, failure};
use crate::select::CacheList;
use crate::text::{counted, path_text};

pub(crate) fn run(printer: &Printer, dir: &Path, args: &Clear) -> Result<CommandReport, Error> {
    let list = match args.hash {
        Some(_) => CacheList::open(printer, dir)?,
        None => CacheList::open_noting_none(printer, dir)?,
    };
    let caches: Vec<&Cache> = match &args.hash {
        Some(hash) => vec![list.find(Some(hash))?],
        None => list.caches.iter().collect(),
    };
    let is_confirmed = args.dry_run || args.yes || caches.is_empty();
    if !is_confirmed && !confirm(&list, &caches)? {
        return Err(Error::failed("nothing was removed"));
    }
    let cleared = caches
        .iter()
        .map(|cache| (*cache, clear(cache, args.dry_run)));
    let cleared: Vec<_> = cleared.collect();

    let mut text = String::new();
    let (mut segments, mut bytes) = (0, 0u64);
    for (cache, report) in &cleared {
        match report {
            Ok(report) => {
                segments += report.segments;
                bytes = bytes.saturating_add(report.bytes);
                for (path, error) in &report.failed {
                    text += &failure("not removed", path, error);
                }
                if !report.directory_removed && report.failed.is_empty() {
                    printer.note(format_args!(
                        "the directory {} stays: a process writes to it, it holds other files, or its \
                         parent directory is not writable",
                        path_text(cache.path())
                    ));
                }
            }
            Err(error) => text += &failure("not cleared", cache.path(), error),
        }
    }
    // Without a HASH, everything was to be removed, so an unopened directory is a failure.
    let unopened = match args.hash {
        Some(_) => &[],
        None => &list.unopened[..],
    };
    for (path, error) in unopened {
        text += &failure("not cleared", path, error);
    }
    let complete: Vec<&ClearReport> = cleared
        .iter()
        .filter_map(|(_, report)| report.as_ref().ok().filter(|it| it.failed.is_empty()))
        .collect();
    // A directory with nothing but files of other programs was not a cache.
    let removed = complete
        .iter()
        .filter(|it| it.directory_removed || it.segments > 0);
    text += &format!(
        "{} {} with {} ({})\n",
        if args.dry_run {
            "would remove"
        } else {
            "removed"
        },
        counted(removed.count() as u64, "cache"),
        counted(segments, "segment"),
        human(bytes)
    );
    let json = cleared.iter().map(|(cache, report)| {
        let done = report.as_ref().ok();
        json!({
            "name": cache.name(),
            "removed_segments": done.map(|it| it.segments),
            "removed_bytes": done.map(|it| it.bytes),
            "failed": done.map(|it| json::failed(&it.failed)),
            "directory_removed": done.map(|it| it.directory_removed),
            "error": report.as_ref().err().map(ToString::to_string),
        })
    });
    let failures = cleared.len() - complete.len() + unopened.len();
    let json = json!({
        "dry_run": args.dry_run,
        "caches": json.collect::<Vec<_>>(),
        "removed_segments": segments,
        "removed_bytes": bytes,
        "failures": failures,
        "skipped": json::skipped(&list.unopened),
    });
    let code = if failures == 0 { 0 } else { 2 };
    Ok(CommandReport::with_code(text, json, code))
}

/// Asks whether to remove these caches.
fn confirm(list: &CacheList, caches: &[&Cache]) -> Result<bool, Error> {
    let (mut rows, mut bytes) = (0, 0u64);
    for cache in caches {
        match cache.summary() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            summary => {
                let summary = summary.map_err(Error::io("read", cache.path()))?;
                rows += summary.rows();
                bytes = bytes.saturating_add(summary.bytes());
            }
        }
    }
    let what = match caches {
        [only] => list.titles()(only),
        all => counted(all.len() as u64, "cache"),
    };
    output::confirm(
        &format!(
            "Remove {what} with {}, {}?",
            counted(rows, "row"),
            human(bytes)
        ),
        "cannot ask for confirmation without a terminal; pass --yes to remove the rows",
    )
}
