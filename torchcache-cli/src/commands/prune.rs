//! `torchcache prune`: frees space, and prints what was removed.

use std::path::Path;

use serde_json::{Value, json};
use torchcache_store::admin::{Keep, PrunePlan, PruneReport, PrunedCache};
use torchcache_store::size::{human, sum};

use crate::args::Prune;
use crate::describe::missing_module;
use crate::error::Error;
use crate::json;
use crate::output::{self, CommandReport, Printer, failure};
use crate::select::CacheList;
use crate::table::{Column, Table};
use crate::text::{count, counted, path_text, plain};
use crate::time::ago;

pub(crate) fn run(printer: &Printer, dir: &Path, args: &Prune) -> Result<CommandReport, Error> {
    let list = CacheList::open_noting_none(printer, dir)?;
    let keep = args.keep();
    if list.is_one_cache() && matches!(keep, Keep::LatestPerModule(_)) {
        return Err(Error::failed(format!(
            "{} is the directory of one cache, and --keep-latest chooses among several; name the \
             directory above it",
            path_text(list.root.path())
        )));
    }
    let failed = || Error::io("list the directory", dir);
    let plan = PrunePlan::new(&list.root, keep).map_err(failed())?;
    let report = if args.dry_run {
        plan.report()
    } else if args.yes || !is_everything(&plan.report()) {
        plan.carry_out_repeatedly().map_err(failed())?
    } else {
        let planned = plan.report();
        let rows = planned.caches.iter().map(rows).sum();
        let caches = planned.caches.len();
        let removed = (segments(&planned), caches, rows, planned.removed_bytes());
        confirm_everything(removed, keep)?;
        plan.carry_out()
    };
    for (path, reason) in &report.skipped {
        let path = path.strip_prefix(list.root.path()).unwrap_or(path);
        printer.note(format_args!("{}: {reason}", path_text(path)));
    }
    let mut table = Table::new([
        Column::Long("TYPE"),
        Column::Left("HASH"),
        Column::Right("SEGMENTS"),
        Column::Right("ROWS"),
        Column::Right("SIZE"),
        Column::Left("LAST READ"),
        Column::Left("REMAINS"),
    ]);
    let short = list.short_names();
    for pruned in &report.caches {
        let name = pruned.cache.name();
        let last_read = pruned
            .segments
            .iter()
            .map(|segment| segment.last_read)
            .max();
        table.row([
            match &pruned.module {
                Ok(module) => plain(module),
                Err(kind) => missing_module(*kind),
            },
            short.get(name).cloned().unwrap_or_else(|| plain(name)),
            count(pruned.segments.len() as u64),
            count(rows(pruned)),
            human(sum(pruned.segments.iter().map(|segment| segment.bytes))),
            last_read.map_or("-".to_owned(), |read| ago(read, printer.now)),
            if pruned.directory_removed {
                "nothing"
            } else {
                "rest"
            }
            .to_owned(),
        ]);
    }
    let mut text = table.render(printer.columns);
    text += &summary(&report, args.dry_run);
    for (path, error) in &report.failed {
        text += &failure("not removed", path, error);
    }
    let code = if report.failed.is_empty() { 0 } else { 2 };
    let json = as_json(&report, args.dry_run);
    Ok(CommandReport::with_code(text, json, code))
}

/// Whether nothing would remain.
fn is_everything(planned: &PruneReport) -> bool {
    segments(planned) > 0 && planned.remaining_bytes == 0
}

/// Asks whether to remove everything: so many segments in caches, with rows and bytes. The error says that it was not
/// confirmed.
pub(crate) fn confirm_everything(
    (segments, caches, rows, bytes): (u64, usize, u64, u64),
    keep: Keep,
) -> Result<(), Error> {
    let reason = match keep {
        Keep::MaxBytes(limit) => format!(
            " The most recently read segment alone is larger than {}.",
            human(limit)
        ),
        _ => String::new(),
    };
    let everything = format!(
        "everything: {} in {} with {} ({})",
        counted(segments, "segment"),
        counted(caches as u64, "cache"),
        counted(rows, "row"),
        human(bytes),
    );
    let confirmed = output::confirm(
        &format!("This removes {everything}.{reason} Remove it?"),
        format_args!("this would remove {everything}.{reason} Pass --yes to remove it"),
    )?;
    match confirmed {
        true => Ok(()),
        false => Err(Error::failed("nothing was removed")),
    }
}

fn rows(pruned: &PrunedCache) -> u64 {
    let rows = pruned.segments.iter().filter_map(|segment| segment.rows);
    rows.sum()
}

fn segments(report: &PruneReport) -> u64 {
    let segments = report
        .caches
        .iter()
        .map(|cache| cache.segments.len() as u64);
    segments.sum()
}

fn summary(report: &PruneReport, dry_run: bool) -> String {
    let remaining = human(report.remaining_bytes);
    let (removed, remain) = match dry_run {
        true => ("would remove", "would remain"),
        false => ("removed", "remain"),
    };
    if report.caches.is_empty() {
        return format!("nothing to remove; {remaining} {remain}\n");
    }
    let whole = report.caches.iter().filter(|cache| cache.directory_removed);
    let whole = match whole.count() {
        0 => String::new(),
        whole => format!(", {} as a whole", counted(whole as u64, "cache")),
    };
    format!(
        "{removed} {} with {} ({}){whole}; {remaining} {remain}\n",
        counted(segments(report), "segment"),
        counted(report.caches.iter().map(rows).sum(), "row"),
        human(report.removed_bytes()),
    )
}

fn as_json(report: &PruneReport, dry_run: bool) -> Value {
    let cache = |pruned: &PrunedCache| {
        let segments = pruned.segments.iter().map(json::pruned_segment);
        json!({
            "name": pruned.cache.name(),
            "module": pruned.module.as_ref().ok(),
            "segments": segments.collect::<Vec<_>>(),
            "directory_removed": pruned.directory_removed,
        })
    };
    json!({
        "dry_run": dry_run,
        "caches": report.caches.iter().map(cache).collect::<Vec<_>>(),
        "removed_segments": segments(report),
        "removed_rows": report.caches.iter().map(rows).sum::<u64>(),
        "removed_bytes": report.removed_bytes(),
        "remaining_bytes": report.remaining_bytes,
        "skipped": json::skipped(&report.skipped),
        "failed": json::failed(&report.failed),
    })
}
