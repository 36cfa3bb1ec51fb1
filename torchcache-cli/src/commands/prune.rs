//! `torchcache prune`: making room, and saying what went.

use serde_json::{Value, json};
use torchcache_store::admin::{Keep, PrunedCache, Pruning, prune};
use torchcache_store::size::{human, sum};

use crate::args::Prune;
use crate::describe::no_module;
use crate::error::Error;
use crate::json;
use crate::output::{BAD, Output, Report};
use crate::select;
use crate::table::{Column, Table};
use crate::text::{count, counted, plain};
use crate::time::{ago, rfc3339};

pub(crate) fn run(output: &Output, args: &Prune) -> Result<Report, Error> {
    let found = select::all(output, &args.dir)?;
    let keep = args.keep();
    if found.is_one_cache() && matches!(keep, Keep::Latest(_)) {
        return Err(Error::not_done(format!(
            "{} is the directory of one cache, and --keep-latest chooses among several; name the \
             directory above it",
            found.root.path().display()
        )));
    }
    let pruning = prune(&found.root, keep, args.dry_run)
        .map_err(Error::io("list the directory", &args.dir))?;
    for (path, why) in &pruning.left_alone {
        let path = path.strip_prefix(found.root.path()).unwrap_or(path);
        let path = plain(&path.display().to_string());
        output.note(format_args!("{path}: {}", plain(why)));
    }
    let mut table = Table::new([
        Column::Long("TYPE"),
        Column::Left("HASH"),
        Column::Right("SEGMENTS"),
        Column::Right("ROWS"),
        Column::Right("SIZE"),
        Column::Left("LAST READ"),
        Column::Left("LEFT"),
    ]);
    let short = found.short_names();
    for pruned in &pruning.caches {
        let name = pruned.cache.name();
        let newest = pruned.segments.iter().map(|segment| segment.last_read);
        table.row([
            match &pruned.module {
                Ok(module) => plain(module),
                Err(why) => no_module(*why),
            },
            short.get(name).cloned().unwrap_or_else(|| plain(name)),
            count(pruned.segments.len() as u64),
            count(rows(pruned)),
            human(sum(pruned.segments.iter().map(|segment| segment.bytes))),
            newest
                .max()
                .map_or("-".to_owned(), |read| ago(read, output.now)),
            if pruned.is_gone { "nothing" } else { "rest" }.to_owned(),
        ]);
    }
    let mut text = match table.is_empty() {
        true => String::new(),
        false => table.render(output.columns),
    };
    text += &in_words(&pruning, args.dry_run);
    for (path, error) in &pruning.failed {
        let path = plain(&path.display().to_string());
        text += &format!(
            "{BAD}not removed{BAD:#}: {path}: {}\n",
            plain(&error.to_string())
        );
    }
    let code = if pruning.failed.is_empty() { 0 } else { 2 };
    let json = as_json(&pruning, args.dry_run);
    Ok(Report::found(text, json, code))
}

fn rows(pruned: &PrunedCache) -> u64 {
    pruned
        .segments
        .iter()
        .filter_map(|segment| segment.rows)
        .sum()
}

fn segments(pruning: &Pruning) -> u64 {
    pruning
        .caches
        .iter()
        .map(|it| it.segments.len() as u64)
        .sum()
}

fn in_words(pruning: &Pruning, dry: bool) -> String {
    let left = human(pruning.left);
    let stays = if dry { "would stay" } else { "stays" };
    if pruning.caches.is_empty() {
        return format!("nothing to remove; {left} {stays}\n");
    }
    let removed = if dry { "would remove" } else { "removed" };
    let rows = counted(pruning.caches.iter().map(rows).sum(), "row");
    let whole = pruning.caches.iter().filter(|cache| cache.is_gone).count();
    let whole = match whole {
        0 => String::new(),
        whole => format!(", {} as a whole", counted(whole as u64, "cache")),
    };
    format!(
        "{removed} {} with {rows} ({}){whole}; {left} {stays}\n",
        counted(segments(pruning), "segment"),
        human(pruning.bytes()),
    )
}

fn as_json(pruning: &Pruning, dry: bool) -> Value {
    let cache = |pruned: &PrunedCache| {
        let segments = pruned.segments.iter().map(|segment| {
            json!({
                "name": segment.name,
                "bytes": segment.bytes,
                "rows": segment.rows,
                "last_read": rfc3339(segment.last_read),
            })
        });
        json!({
            "name": pruned.cache.name(),
            "module": pruned.module.as_ref().ok(),
            "segments": segments.collect::<Vec<_>>(),
            "removed_whole": pruned.is_gone,
        })
    };
    json!({
        "dry_run": dry,
        "caches": pruning.caches.iter().map(cache).collect::<Vec<_>>(),
        "removed_segments": segments(pruning),
        "removed_rows": pruning.caches.iter().map(rows).sum::<u64>(),
        "removed_bytes": pruning.bytes(),
        "left_bytes": pruning.left,
        "left_alone": json::left_alone(&pruning.left_alone),
        "failed": json::failed(&pruning.failed),
    })
}
