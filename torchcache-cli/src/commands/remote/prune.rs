//! `torchcache prune URL`: frees space, and prints what was removed.

use serde_json::{Value, json};
use torchcache_store::remote_admin::{
    RemoteKeep, RemotePrunePlan, RemotePruneReport, RemotePrunedCache,
};
use torchcache_store::size::{human, sum};

use super::list::{RemoteList, failed, failed_json, failures, skipped_json};
use crate::args::Prune;
use crate::commands::prune::confirm_everything;
use crate::describe::missing_module;
use crate::error::Error;
use crate::json;
use crate::output::{CommandReport, DIM, Printer};
use crate::progress::ByteBar;
use crate::table::{Column, Table};
use crate::text::{count, counted, plain};
use crate::time::ago;

pub(crate) fn run(printer: &Printer, url: &str, args: &Prune) -> Result<CommandReport, Error> {
    let list = RemoteList::open_noting_none(printer, url)?;
    let keep = RemoteKeep {
        keep: args.keep(),
        grace: args.grace,
    };
    let plan = RemotePrunePlan::new(&list.root, keep).map_err(failed("read", url))?;
    let mut report = plan.report();
    if !args.dry_run {
        let is_everything = segments(&report) > 0 && report.remaining_bytes == 0;
        if is_everything && !args.yes {
            let rows = report.caches.iter().map(rows).sum();
            let caches = report.caches.len();
            let removed = (segments(&report), caches, rows, report.removed_bytes());
            confirm_everything(removed, keep.keep)?;
        }
        let bar = ByteBar::objects();
        report = plan.carry_out(&bar);
        bar.0.finish_and_clear();
    }
    for (key, reason) in &report.skipped {
        printer.note(format_args!("{key}: {reason}"));
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
        let last_read = pruned.segments.iter().map(|it| it.last_read).max();
        let name = &*pruned.name;
        table.row([
            match &pruned.module {
                Ok(module) => plain(module),
                Err(kind) => missing_module(*kind),
            },
            short.get(name).cloned().unwrap_or_else(|| plain(name)),
            count(pruned.segments.len() as u64),
            count(rows(pruned)),
            human(sum(pruned.segments.iter().map(|it| it.bytes))),
            last_read.map_or("-".to_owned(), |read| ago(read, printer.now)),
            if pruned.cache_removed {
                "nothing"
            } else {
                "rest"
            }
            .to_owned(),
        ]);
    }
    let mut text = table.render(printer.columns);
    text += &summary(&report, args);
    text += &failures("not removed", &report.failed);
    let code = if report.failed.is_empty() { 0 } else { 2 };
    let json = as_json(&report, args.dry_run, &list.foreign);
    Ok(CommandReport::with_code(text, json, code))
}

fn rows(pruned: &RemotePrunedCache) -> u64 {
    let rows = pruned.segments.iter().filter_map(|segment| segment.rows);
    rows.sum()
}

fn segments(report: &RemotePruneReport) -> u64 {
    let caches = report.caches.iter();
    caches.map(|cache| cache.segments.len() as u64).sum()
}

fn summary(report: &RemotePruneReport, args: &Prune) -> String {
    let remaining = human(report.remaining_bytes);
    let (removed, remain) = match args.dry_run {
        true => ("would remove", "would remain"),
        false => ("removed", "remain"),
    };
    let mut text = match segments(report) {
        0 => format!("nothing to remove; {remaining} {remain}\n"),
        segments => format!(
            "{removed} {} with {} ({}); {remaining} {remain}\n",
            counted(segments, "segment"),
            counted(report.caches.iter().map(rows).sum(), "row"),
            human(report.removed_bytes()),
        ),
    };
    if report.recent_segments > 0 {
        text += &format!(
            "{} ({}) stay, since they were put less than {} ago (--grace)\n",
            counted(report.recent_segments, "segment"),
            human(report.recent_bytes),
            humantime::format_duration(args.grace)
        );
    }
    if report.joined_sources > 0 {
        text += &format!(
            "{removed} {} whose rows were joined into others\n",
            counted(report.joined_sources, "segment")
        );
    }
    if report.marks > 0 {
        text += &format!("{removed} {}\n", counted(report.marks, "old read mark"));
    }
    text + &format!(
        "{DIM}machines that may not write leave no read marks: what only they read looks unread{DIM:#}\n"
    )
}

fn as_json(report: &RemotePruneReport, dry_run: bool, foreign: &[String]) -> Value {
    let caches = report.caches.iter().map(|pruned| {
        let segments = pruned.segments.iter().map(json::pruned_segment);
        json!({
            "name": pruned.name,
            "module": pruned.module.as_ref().ok(),
            "segments": segments.collect::<Vec<_>>(),
            "cache_removed": pruned.cache_removed,
        })
    });
    json!({
        "dry_run": dry_run,
        "caches": caches.collect::<Vec<_>>(),
        "removed_segments": segments(report),
        "removed_rows": report.caches.iter().map(rows).sum::<u64>(),
        "removed_bytes": report.removed_bytes(),
        "remaining_bytes": report.remaining_bytes,
        "recent_segments": report.recent_segments,
        "recent_bytes": report.recent_bytes,
        "removed_marks": report.marks,
        "joined_sources": report.joined_sources,
        "skipped": skipped_json(&report.skipped, foreign),
        "failed": failed_json(&report.failed),
    })
}
