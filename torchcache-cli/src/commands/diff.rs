//! `torchcache diff`: what changed between the identities of two caches.

use std::collections::HashMap;

use serde_json::json;
use torchcache_store::admin::Cache;
use torchcache_store::manifest::{Category, IdentityPart, Manifest, difference};

use crate::args::Diff;
use crate::error::Error;
use crate::json;
use crate::output::{Output, Report};
use crate::select::CacheList;
use crate::table::{Column, Table};
use crate::text::{plain, plain_value};

pub(crate) fn run(output: &Output, args: &Diff) -> Result<Report, Error> {
    let list = CacheList::open(output, &args.dir)?;
    if list.is_one_cache() {
        return Err(Error::failed(format!(
            "{} is the directory of one cache; name the directory that holds both",
            list.root.path().display()
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
        let (was, is) = change.values();
        table.row([change.category.to_string(), plain(change.path), was, is]);
    }
    if !table.is_empty() {
        text += &format!("\n{}", table.render(output.columns));
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
    Ok(Report::with_code(text, json, code))
}

fn manifest(cache: &Cache) -> Result<Manifest, Error> {
    cache.manifest().map_err(|error| {
        Error::failed(format!(
            "cannot read the manifest of {}, which lists the parts of its identity: {error}",
            plain(cache.name())
        ))
    })
}

/// A part that differs between two identities.
struct Change<'a> {
    category: Category,
    path: &'a str,
    before: Option<&'a IdentityPart>,
    after: Option<&'a IdentityPart>,
}

/// The parts that differ, in the order of the newer identity. Several parts may have one path: these are
/// compared in order.
fn changes<'a>(before: &'a [IdentityPart], after: &'a [IdentityPart]) -> Vec<Change<'a>> {
    // Linear in the number of parts, since a manifest may be large and not trusted.
    let (mut was_at, mut is_at) = (by_place(before), by_place(after));
    let mut changes = Vec::new();
    for part in after.iter().chain(before) {
        let place = (part.category as u8, part.path.as_str());
        let was = was_at.remove(&place).unwrap_or_default();
        let is = is_at.remove(&place).unwrap_or_default();
        for at in 0..was.len().max(is.len()) {
            let (before, after) = (was.get(at).copied(), is.get(at).copied());
            if before.map(|part| part.digest) != after.map(|part| part.digest) {
                changes.push(Change {
                    category: part.category,
                    path: &part.path,
                    before,
                    after,
                });
            }
        }
    }
    changes
}

/// The parts of each category and path, in their order.
fn by_place(parts: &[IdentityPart]) -> HashMap<(u8, &str), Vec<&IdentityPart>> {
    let mut places: HashMap<_, Vec<&IdentityPart>> = HashMap::new();
    for part in parts {
        let place = (part.category as u8, part.path.as_str());
        places.entry(place).or_default().push(part);
    }
    places
}

impl Change<'_> {
    /// The values to print, with their digests if they look alike, as cut values of long code may.
    fn values(&self) -> (String, String) {
        let alike = self.before.map(|it| &it.value) == self.after.map(|it| &it.value);
        let shown = |part: Option<&IdentityPart>| match part {
            None => "-".to_owned(),
            Some(part) if alike => {
                let digest = hex::encode(&part.digest[..4]);
                format!("{} #{digest}", plain_value(&part.value))
            }
            Some(part) => plain_value(&part.value),
        };
        (shown(self.before), shown(self.after))
    }
}
