//! `torchcache compact`: joins small segments.

use serde_json::json;
use torchcache_store::remote_admin::CompactReport;
use torchcache_store::size::human;

use super::list::{RemoteList, failed, failures, skipped_json};
use crate::args::Compact;
use crate::error::Error;
use crate::output::{CommandReport, Printer};
use crate::progress::ByteBar;
use crate::text::{counted, plain};

pub(crate) fn run(printer: &Printer, args: &Compact) -> Result<CommandReport, Error> {
    let list = RemoteList::open_noting_none(printer, &args.url)?;
    let mut done = CompactReport::default();
    let bar = ByteBar::new();
    for cache in list.named(args.hash.as_deref())? {
        let compacted = list.root.compact(cache.name(), args.dry_run, &bar);
        let report = compacted.map_err(failed("compact", &args.url))?;
        done.joined.extend(report.joined);
        done.failed.extend(report.failed);
        done.removed_segments += report.removed_segments;
        done.removed_bytes += report.removed_bytes;
        done.waiting_segments += report.waiting_segments;
    }
    bar.0.finish_and_clear();
    let (join, remove) = match args.dry_run {
        true => ("would join", "would remove"),
        false => ("joined", "removed"),
    };
    let short = list.short_names();
    let mut text = String::new();
    for joined in &done.joined {
        let name = short.get(&*joined.cache).cloned();
        text += &format!(
            "{}: {join} {} ({}) into one\n",
            name.unwrap_or_else(|| plain(&joined.cache)),
            counted(joined.sources, "segment"),
            human(joined.source_bytes),
        );
    }
    if done.joined.is_empty() {
        text += "nothing to join\n";
    }
    if done.removed_segments > 0 {
        text += &format!(
            "{remove} {} ({}) that were joined before\n",
            counted(done.removed_segments, "segment"),
            human(done.removed_bytes),
        );
    }
    let waiting = done.waiting_segments
        + match args.dry_run {
            true => 0,
            false => done.joined.iter().map(|it| it.sources).sum(),
        };
    if waiting > 0 {
        text += &format!(
            "{} that were joined stay for an hour; run this again then\n",
            counted(waiting, "segment")
        );
    }
    text += &failures("not joined or removed", &done.failed);
    let joined = done.joined.iter().map(|it| {
        json!({
            "name": it.cache,
            "sources": it.sources,
            "bytes": it.source_bytes,
            "rows": it.rows,
            "superseded_rows": it.superseded,
        })
    });
    let failed = done.failed.iter();
    let failed = failed.map(|(key, error)| json!({ "path": key, "error": error }));
    let json = json!({
        "dry_run": args.dry_run,
        "joined": joined.collect::<Vec<_>>(),
        "removed_segments": done.removed_segments,
        "removed_bytes": done.removed_bytes,
        "waiting_segments": waiting,
        "failed": failed.collect::<Vec<_>>(),
        "skipped": skipped_json([], &list.foreign),
    });
    let code = if done.failed.is_empty() { 0 } else { 2 };
    Ok(CommandReport::with_code(text, json, code))
}
