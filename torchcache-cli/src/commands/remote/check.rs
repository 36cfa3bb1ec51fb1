//! `torchcache check URL`: reads every segment, and checks every record.

use serde_json::json;

use super::list::{RemoteList, skipped_json};
use crate::commands::check::{Totals, segment_json, segment_line};
use crate::error::Error;
use crate::output::{CommandReport, HEADER, Printer};
use crate::progress::ByteBar;

/// What to do about corrupt segments.
const HINT: &str = "corrupt rows are computed again where they are needed; `prune` removes the segments in their turn";

pub(crate) fn run(printer: &Printer, url: &str, repair: bool) -> Result<CommandReport, Error> {
    if repair {
        return Err(Error::failed(format_args!(
            "check --repair works on directories, not on URLs; {HINT}"
        )));
    }
    let list = RemoteList::open_noting_none(printer, url)?;
    let bar = ByteBar::new();
    let reports = list.root.check(&list.caches, &bar);
    bar.0.finish_and_clear();
    let mut totals = Totals::default();
    let mut text = String::new();
    for (report, title) in reports.iter().zip(list.titles()) {
        totals.caches += 1;
        report.segments.iter().for_each(|it| totals.add_segment(it));
        let lines: Vec<String> = report.segments.iter().filter_map(segment_line).collect();
        if !lines.is_empty() {
            let lines = lines.join("\n  ");
            text += &format!("{HEADER}{title}{HEADER:#}\n  {lines}\n");
        }
    }
    text += &totals.text(false, HINT);
    let caches = reports.iter().map(|report| {
        let segments = report.segments.iter().map(|it| segment_json(it, None));
        json!({
            "name": report.name,
            "segments": segments.collect::<Vec<_>>(),
        })
    });
    let mut json = totals.as_json();
    json["path"] = json!(url);
    json["caches"] = caches.collect();
    json["skipped"] = skipped_json([], &list.foreign);
    Ok(CommandReport::with_code(text, json, totals.code()))
}
