//! `torchcache clear URL`: removes whole caches after a confirmation.

use serde_json::json;
use torchcache_store::remote_admin::RemoteCache;
use torchcache_store::size::{human, sum};

use super::list::{RemoteList, failed_json, failures as failures_text, skipped_json};
use crate::args::Clear;
use crate::error::Error;
use crate::output::{self, CommandReport, Printer};
use crate::progress::ByteBar;
use crate::text::{counted, plain};

pub(crate) fn run(printer: &Printer, url: &str, args: &Clear) -> Result<CommandReport, Error> {
    let list = match args.hash {
        Some(_) => RemoteList::open(printer, url)?,
        None => RemoteList::open_noting_none(printer, url)?,
    };
    let caches = list.named(args.hash.as_deref())?;
    let is_confirmed = args.dry_run || args.yes || caches.is_empty();
    if !is_confirmed && !confirm(&list, &caches)? {
        return Err(Error::failed("nothing was removed"));
    }
    let bar = ByteBar::objects();
    let cleared = caches
        .iter()
        .map(|cache| (*cache, list.root.clear(cache, args.dry_run, &bar)));
    let cleared: Vec<_> = cleared.collect();
    bar.0.finish_and_clear();
    let mut text = String::new();
    for (cache, report) in &cleared {
        if report.failed.is_empty() && !report.cache_removed {
            printer.note(format_args!(
                "{} stays: a machine adds rows to it",
                plain(cache.name())
            ));
        }
    }
    let segments: u64 = cleared.iter().map(|(_, report)| report.segments).sum();
    let bytes = sum(cleared.iter().map(|(_, report)| report.bytes));
    let failures: usize = cleared.iter().map(|(_, report)| report.failed.len()).sum();
    let whole = cleared.iter().filter(|(_, report)| report.cache_removed);
    text += &format!(
        "{} {} with {} ({})\n",
        if args.dry_run {
            "would remove"
        } else {
            "removed"
        },
        counted(whole.count() as u64, "cache"),
        counted(segments, "segment"),
        human(bytes)
    );
    let all = cleared.iter().flat_map(|(_, report)| report.failed.clone());
    text += &failures_text("not removed", &all.collect::<Vec<_>>());
    let caches = cleared.iter().map(|(cache, report)| {
        json!({
            "name": cache.name(),
            "removed_segments": report.segments,
            "removed_bytes": report.bytes,
            "cache_removed": report.cache_removed,
            "failed": failed_json(&report.failed),
        })
    });
    let json = json!({
        "dry_run": args.dry_run,
        "caches": caches.collect::<Vec<_>>(),
        "removed_segments": segments,
        "removed_bytes": bytes,
        "failures": failures,
        "skipped": skipped_json([], &list.foreign),
    });
    let code = if failures == 0 { 0 } else { 2 };
    Ok(CommandReport::with_code(text, json, code))
}

/// Asks whether to remove these caches.
fn confirm(list: &RemoteList, caches: &[&RemoteCache]) -> Result<bool, Error> {
    let what = match caches {
        [only] => list.short_names()[only.name()].clone(),
        all => counted(all.len() as u64, "cache"),
    };
    let segments = caches.iter().map(|cache| cache.segment_count() as u64);
    let bytes = sum(caches.iter().map(|cache| cache.bytes()));
    output::confirm(
        &format!(
            "Remove {what} of {} with {}, {}, for all machines?",
            plain(&list.url),
            counted(segments.sum(), "segment"),
            human(bytes)
        ),
        "cannot ask for confirmation without a terminal; pass --yes to remove the rows",
    )
}
