//! `torchcache clear`: removing caches whole, once somebody said yes.

use std::io::{self, BufRead, IsTerminal};

use serde_json::json;
use torchcache_store::admin::{Cache, Cleared, clear};
use torchcache_store::size::human;

use crate::args::Clear;
use crate::error::Error;
use crate::json;
use crate::output::{self, BAD, Output, Report};
use crate::select::{self, Found};
use crate::text::{counted, plain};

pub(crate) fn run(output: &Output, args: &Clear) -> Result<Report, Error> {
    let found = match args.hash {
        Some(_) => select::caches(output, &args.dir)?,
        None => select::all(output, &args.dir)?,
    };
    let caches: Vec<&Cache> = match &args.hash {
        Some(hash) => vec![found.named(Some(hash))?],
        None => found.caches.iter().collect(),
    };
    if !args.yes && !caches.is_empty() && !confirmed(&found, &caches)? {
        return Err(Error::not_done("nothing was removed".to_owned()));
    }
    let cleared: Vec<_> = caches.iter().map(|cache| (*cache, clear(cache))).collect();

    let mut text = String::new();
    let mut sum = Cleared::default();
    for (cache, cleared) in &cleared {
        let path = plain(&cache.path().display().to_string());
        match cleared {
            Ok(cleared) => {
                sum.segments += cleared.segments;
                sum.bytes = sum.bytes.saturating_add(cleared.bytes);
                for (path, error) in &cleared.failed {
                    let path = plain(&path.display().to_string());
                    let error = plain(&error.to_string());
                    text += &format!("{BAD}not removed{BAD:#}: {path}: {error}\n");
                }
                if !cleared.is_directory_gone && cleared.failed.is_empty() {
                    let why = "somebody writes to it or keeps other files there, or the one above it may not be changed";
                    output.note(format_args!("the directory {path} stays: {why}"));
                }
            }
            Err(error) => {
                text += &format!(
                    "{BAD}not cleared{BAD:#}: {path}: {}\n",
                    plain(&error.to_string())
                )
            }
        }
    }
    let whole: Vec<&Cleared> = cleared
        .iter()
        .filter_map(|(_, cleared)| cleared.as_ref().ok().filter(|it| it.failed.is_empty()))
        .collect();
    // A directory in which only files of others are was none.
    let removed = whole
        .iter()
        .filter(|it| it.is_directory_gone || it.segments > 0);
    text += &format!(
        "removed {} with {} ({})\n",
        counted(removed.count() as u64, "cache"),
        counted(sum.segments, "segment"),
        human(sum.bytes)
    );
    // Nobody knows what is in these, and somebody wanted all of it gone.
    let unopened = match args.hash {
        Some(_) => &[],
        None => &found.unopened[..],
    };
    for (path, why) in unopened {
        let (path, why) = (plain(&path.display().to_string()), plain(why));
        text += &format!("{BAD}not cleared{BAD:#}: {path}: {why}\n");
    }
    let json = cleared.iter().map(|(cache, cleared)| {
        let done = cleared.as_ref().ok();
        json!({
            "name": cache.name(),
            "removed_segments": done.map(|it| it.segments),
            "removed_bytes": done.map(|it| it.bytes),
            "failed": done.map(|it| json::failed(&it.failed)),
            "removed_whole": done.map(|it| it.is_directory_gone),
            "error": cleared.as_ref().err().map(ToString::to_string),
        })
    });
    let failures = cleared.len() - whole.len() + unopened.len();
    let json = json!({
        "caches": json.collect::<Vec<_>>(),
        "removed_segments": sum.segments,
        "removed_bytes": sum.bytes,
        "failures": failures,
        "left_alone": json::left_alone(&found.unopened),
    });
    let code = if failures == 0 { 0 } else { 2 };
    Ok(Report::found(text, json, code))
}

/// Asks whether these caches are to go.
fn confirmed(found: &Found, caches: &[&Cache]) -> Result<bool, Error> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::not_done(
            "there is nobody to ask whether the rows are to go; --yes says so".to_owned(),
        ));
    }
    let (mut rows, mut bytes) = (0, 0);
    let what = match caches {
        [only] => found.titles()(only),
        all => counted(all.len() as u64, "cache"),
    };
    for cache in caches {
        if let Ok(summary) = cache.summary() {
            rows += summary.rows();
            bytes = u64::saturating_add(bytes, summary.bytes());
        }
    }
    let rows = counted(rows, "row");
    output::ask(&format!(
        "Remove {what} with {rows}, {}? [y/N]",
        human(bytes)
    ));
    let mut answer = String::new();
    let answered = io::stdin().lock().read_line(&mut answer);
    answered.map_err(|error| Error::not_done(format!("cannot ask: {error}")))?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(answer == "y" || answer == "yes")
}
