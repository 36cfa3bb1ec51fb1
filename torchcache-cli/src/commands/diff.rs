//! `torchcache diff`: what changed between the identities of two caches.

use serde_json::json;
use torchcache_store::admin::Cache;
use torchcache_store::manifest::{Manifest, PartChange, changes, difference};

use crate::args::Diff;
use crate::error::Error;
use crate::json;
use crate::output::{CommandReport, Printer};
use crate::select::CacheList;
use crate::table::{Column, Table};
use crate::text::{path_text, plain, plain_value};

pub(crate) fn run(printer: &Printer, args: &Diff) -> Result<CommandReport, Error> {
    let list = CacheList::open(printer, &args.dir)?;
    if list.is_one_cache() {
        return Err(Error::failed(format!(
            "{} is the directory of one cache; name the directory that holds both",
            path_text(list.root.path())
        )));
    }
    let (before, after) = (
        list.find(Some(&args.before))?,
        list.find(Some(&args.after))?,
    );
    let (was, is) = (manifest(before)?, manifest(after)?);
    let changes = changes(&was.parts, &is.parts);
    let same_module = was.module == is.module;
    let differ = !changes.is_empty() || !same_module;
    let summary = match before.name() == after.name() {
        true => "both are the same cache".to_owned(),
        false => difference(&was.parts, &is.parts),
    };

    let mut text = String::new();
    if !same_module {
        let (was, is) = (plain(&was.module), plain(&is.module));
        text += &format!("the modules differ: {was} and {is}\n");
    }
    text += &format!("{summary}\n");
    let mut table = Table::new([
        Column::Left("CATEGORY"),
        Column::Long("PATH"),
        Column::Long("BEFORE"),
        Column::Long("AFTER"),
    ]);
    for change in &changes {
        let [was, is] = values(change);
        table.row([change.category.to_string(), plain(change.path), was, is]);
    }
    if !table.is_empty() {
        text += &format!("\n{}", table.render(printer.columns));
    }
    let changes: Vec<_> = changes
        .iter()
        .map(|change| {
            json!({
                "category": change.category,
                "path": change.path,
                "before": change.before,
                "after": change.after,
            })
        })
        .collect();
    let json = json!({
        "before": before.name(),
        "after": after.name(),
        "differ": differ,
        "modules": [was.module, is.module],
        "summary": summary,
        "changes": changes,
        "skipped": json::skipped(&list.unopened),
    });
    let code = u8::from(differ);
    Ok(CommandReport::with_code(text, json, code))
}

fn manifest(cache: &Cache) -> Result<Manifest, Error> {
    cache.manifest().map_err(|error| {
        Error::failed(format!(
            "cannot read the manifest of {}, which lists the parts of its identity: {error}",
            plain(cache.name())
        ))
    })
}

/// The values to print, with their digests if they look alike, as cut values of long code may.
fn values(change: &PartChange<'_>) -> [String; 2] {
    let PartChange { before, after, .. } = *change;
    let alike = before.map(|it| &it.value) == after.map(|it| &it.value);
    [before, after].map(|part| match part {
        None => "-".to_owned(),
        Some(part) if alike => {
            let digest = hex::encode(&part.digest[..4]);
            format!("{} #{digest}", plain_value(&part.value))
        }
        Some(part) => plain_value(&part.value),
    })
}
