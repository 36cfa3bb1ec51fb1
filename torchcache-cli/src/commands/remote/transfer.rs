//! `torchcache push` and `torchcache pull`: copy the rows that the other side lacks.

use std::path::Path;

use serde_json::{Value, json};
use torchcache_store::fs::{FileSystem, Os};
use torchcache_store::remote_admin::{PullReport, PushReport, TransferError};
use torchcache_store::size::human;

use super::list::{RemoteList, failed, root, skipped_json};
use crate::args::{Pull, Push};
use crate::error::Error;
use crate::json;
use crate::output::{BAD, CommandReport, Printer};
use crate::progress::ByteBar;
use crate::select::CacheList;
use crate::text::{counted, path_text, plain};

/// Why a copy failed, with the side on which it did.
fn transfer_failed<'a>(
    dir: &'a Path,
    url: &'a str,
    action: &'a str,
) -> impl Fn(TransferError) -> Error + 'a {
    move |error| match error {
        TransferError::Remote(error) => failed(action, url)(error),
        TransferError::Local(error) => Error::io(format_args!("{action} with"), dir)(error),
        other => Error::failed(other),
    }
}

pub(crate) fn push(printer: &Printer, args: &Push) -> Result<CommandReport, Error> {
    let list = CacheList::open_noting_none(printer, &args.dir)?;
    let root = root(&args.url)?;
    let caches = match &args.hash {
        Some(hash) => vec![list.find(Some(hash))?],
        None => list.caches.iter().collect(),
    };
    let title = list.titles();
    let mut copied = Vec::new();
    let bar = ByteBar::new();
    for cache in caches {
        // A directory that contains others as well is listed as `.`.
        let name = match cache.name() {
            "." => cache
                .path()
                .file_name()
                .map_or(".".into(), |name| name.to_string_lossy()),
            name => name.into(),
        };
        let pushed = root.push(cache, &name, args.dry_run, &bar);
        let report = pushed.map_err(transfer_failed(cache.path(), &args.url, "push to"))?;
        let PushReport {
            rows,
            bytes,
            objects,
            present,
            corrupt,
            skipped,
            corrupt_segments,
        } = report;
        copied.push(Copied {
            name: name.into_owned(),
            title: title(cache),
            rows,
            bytes,
            files: objects,
            present,
            corrupt,
            skipped,
            corrupt_segments,
        });
    }
    bar.0.finish_and_clear();
    let skipped = json::skipped(&list.unopened);
    Ok(report(&copied, args.dry_run, skipped))
}

pub(crate) fn pull(printer: &Printer, args: &Pull) -> Result<CommandReport, Error> {
    let list = RemoteList::open_noting_none(printer, &args.url)?;
    let caches = list.named(args.hash.as_deref())?;
    let titles = list.titles();
    if !args.dry_run {
        let made = Os.open_dir(&args.dir, true);
        made.map_err(Error::io("make the directory", &args.dir))?;
    }
    let dir = match args.dir.canonicalize() {
        Err(_) if args.dry_run => args.dir.clone(),
        dir => dir.map_err(Error::io("open the directory", &args.dir))?,
    };
    let mut copied = Vec::new();
    let bar = ByteBar::new();
    for (cache, title) in list.caches.iter().zip(titles) {
        if !caches.iter().any(|it| it.name() == cache.name()) {
            continue;
        }
        let path = dir.join(cache.name());
        let pulled = list.root.pull(cache, &Os, &path, args.dry_run, &bar);
        let report = pulled.map_err(transfer_failed(&path, &args.url, "pull from"))?;
        let PullReport {
            rows,
            bytes,
            segments,
            present,
            corrupt,
            skipped,
            corrupt_segments,
        } = report;
        copied.push(Copied {
            name: cache.name().to_owned(),
            title,
            rows,
            bytes,
            files: segments,
            present,
            corrupt,
            skipped,
            corrupt_segments,
        });
    }
    bar.0.finish_and_clear();
    let skipped = skipped_json([], &list.foreign);
    if !args.dry_run {
        printer.note(format_args!("the rows are in {}", path_text(&dir)));
    }
    Ok(report(&copied, args.dry_run, skipped))
}

/// What was copied of a cache.
struct Copied {
    name: String,
    title: String,
    rows: u64,
    bytes: u64,
    /// Objects or files.
    files: u64,
    present: u64,
    corrupt: u64,
    skipped: u64,
    /// Of the skipped segments.
    corrupt_segments: u64,
}

fn report(copied: &[Copied], dry_run: bool, skipped: Value) -> CommandReport {
    let sum = |of: fn(&Copied) -> u64| copied.iter().map(of).sum::<u64>();
    let (corrupt, left_out) = (sum(|it| it.corrupt), sum(|it| it.skipped));
    let corrupt_segments = sum(|it| it.corrupt_segments);
    let verb = if dry_run { "would copy" } else { "copied" };
    let mut text = String::new();
    for it in copied {
        text += &format!(
            "{}: {verb} {} ({}); {} there already\n",
            plain(&it.title),
            counted(it.rows, "row"),
            human(it.bytes),
            counted(it.present, "row"),
        );
    }
    if copied.len() != 1 {
        let (rows, bytes) = (counted(sum(|it| it.rows), "row"), human(sum(|it| it.bytes)));
        let caches = counted(copied.len() as u64, "cache");
        text += &format!("{verb} {rows} ({bytes}) of {caches}\n");
    }
    if corrupt + left_out > 0 {
        text += &format!(
            "{BAD}left out{BAD:#}: {} and {}; `torchcache check` says why\n",
            counted(corrupt, "corrupt row"),
            counted(left_out, "segment")
        );
    }
    let caches = copied.iter().map(|it| {
        json!({
            "name": it.name,
            "rows": it.rows,
            "bytes": it.bytes,
            "segments": it.files,
            "present_rows": it.present,
            "corrupt_rows": it.corrupt,
            "skipped_segments": it.skipped,
            "corrupt_segments": it.corrupt_segments,
        })
    });
    let json = json!({
        "dry_run": dry_run,
        "caches": caches.collect::<Vec<_>>(),
        "rows": sum(|it| it.rows),
        "bytes": sum(|it| it.bytes),
        "segments": sum(|it| it.files),
        "present_rows": sum(|it| it.present),
        "corrupt_rows": corrupt,
        "skipped_segments": left_out,
        "corrupt_segments": corrupt_segments,
        "skipped": skipped,
    });
    CommandReport::with_code(text, json, u8::from(corrupt + corrupt_segments > 0))
}
