//! `torchcache check`: checks every record, and with `--repair` removes the corrupt ones.

use std::io;
use std::path::Path;

use serde_json::{Value, json};
use torchcache_store::admin::{
    CheckReport, RepairReport, SegmentCheck, SegmentRepair, SegmentState, check, repair,
};
use torchcache_store::size::human;

use crate::error::Error;
use crate::json;
use crate::output::{BAD, CommandReport, DIM, GOOD, HEADER, Printer};
use crate::progress::ByteBar;
use crate::select::CacheList;
use crate::text::{count, counted, path_text, plain};

pub(crate) fn run(printer: &Printer, dir: &Path, is_repair: bool) -> Result<CommandReport, Error> {
    let list = CacheList::open_noting_none(printer, dir)?;
    let bar = ByteBar::new();
    let checks = check(&list.caches, &bar);
    bar.0.finish_and_clear();
    let repairs: Vec<_> = checks
        .iter()
        .map(|check| (is_repair && check.error.is_none()).then(|| repair(check)))
        .collect();
    let results: Vec<_> = checks.iter().zip(&repairs).collect();

    let mut totals = Totals {
        failures: list.unopened.len() as u64,
        ..Totals::default()
    };
    let mut text = String::new();
    let title = list.titles();
    for (check, repairs) in &results {
        totals.add(check, repairs.as_ref());
        let lines = cache_lines(check, repairs.as_ref());
        if !lines.is_empty() {
            let (title, lines) = (title(&check.cache), lines.join("\n  "));
            text += &format!("{HEADER}{title}{HEADER:#}\n  {lines}\n");
        }
    }
    text += &totals.text(is_repair, HINT);
    let caches: Vec<_> = results
        .iter()
        .map(|(check, repairs)| cache_json(check, repairs.as_ref()))
        .collect();
    let mut skipped = list.unopened.clone();
    for check in &checks {
        let path = check.cache.path().to_owned();
        skipped.extend(check.error.as_ref().map(|error| (path, error.to_string())));
    }
    let mut json = totals.as_json();
    json["path"] = json!(path_text(list.root.path()));
    json["caches"] = json!(caches);
    json["skipped"] = json::skipped(&skipped);
    Ok(CommandReport::with_code(text, json, totals.code()))
}

/// What to do about corrupt rows.
const HINT: &str = "--repair removes corrupt rows and keeps the others";

/// The counts of all caches.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) caches: u64,
    segments: u64,
    rows: u64,
    bytes: u64,
    corrupt_rows: u64,
    corrupt_segments: u64,
    /// Segments of newer versions or with rejected permissions.
    not_checked: u64,
    /// Directories and segments that could not be read or repaired.
    failures: u64,
}

impl Totals {
    fn add(&mut self, check: &CheckReport, repairs: Option<&RepairReport>) {
        self.caches += 1;
        self.failures += u64::from(check.error.is_some());
        check.segments.iter().for_each(|it| self.add_segment(it));
        if let Some(repairs) = repairs {
            let failed = repairs.segments.iter().filter(|(_, done)| done.is_err());
            self.failures += failed.count() as u64 + u64::from(repairs.error.is_some());
        }
    }

    pub(crate) fn add_segment(&mut self, segment: &SegmentCheck) {
        self.segments += 1;
        self.bytes = self.bytes.saturating_add(segment.bytes);
        self.corrupt_segments += u64::from(segment.state.is_corrupt());
        match &segment.state {
            SegmentState::Intact { rows } => self.rows += rows,
            SegmentState::Corrupt { rows, corrupt, .. } => {
                self.rows += rows;
                self.corrupt_rows += corrupt;
            }
            state if state.is_unknown() => self.failures += 1,
            state => self.not_checked += u64::from(!state.is_corrupt()),
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match (self.failures, self.corrupt_segments) {
            (0, 0) => 0,
            (0, _) => 1,
            _ => 2,
        }
    }

    pub(crate) fn as_json(&self) -> Value {
        json!({
            "intact": self.corrupt_segments == 0 && self.failures == 0,
            "segments": self.segments,
            "rows": self.rows,
            "bytes": self.bytes,
            "corrupt_rows": self.corrupt_rows,
            "corrupt_segments": self.corrupt_segments,
            "not_checked": self.not_checked,
            "failures": self.failures,
        })
    }

    /// The summary. `hint` says what to do about corrupt rows that were not repaired.
    pub(crate) fn text(&self, repaired: bool, hint: &str) -> String {
        let all = format!(
            "{} in {} of {}, {}",
            counted(self.rows, "row"),
            counted(self.segments, "segment"),
            counted(self.caches, "cache"),
            human(self.bytes)
        );
        let mut text = match self.corrupt_segments {
            0 if self.failures > 0 => format!("{BAD}not all could be checked{BAD:#}: {all}\n"),
            0 => format!("{GOOD}intact{GOOD:#}: {all}\n"),
            corrupt => format!(
                "{BAD}corrupt{BAD:#}: {} with {}, of {all}\n",
                counted(corrupt, "segment"),
                counted(self.corrupt_rows, "corrupt row")
            ),
        };
        if self.not_checked > 0 {
            let segments = counted(self.not_checked, "segment");
            text +=
                &format!("{segments} of a newer version or with rejected permissions: skipped\n");
        }
        if self.failures > 0 {
            let failures = count(self.failures);
            let undone = if repaired {
                "checked or repaired"
            } else {
                "checked"
            };
            text += &format!("{BAD}{failures} could not be {undone}{BAD:#}, see above\n");
        }
        if self.corrupt_segments > 0 && !repaired {
            text += &format!("{DIM}{hint}{DIM:#}\n");
        }
        text
    }
}

/// The lines about a cache; none if it is intact.
fn cache_lines(check: &CheckReport, repairs: Option<&RepairReport>) -> Vec<String> {
    let mut lines = Vec::new();
    let error_line =
        |what: &str, error: &io::Error| format!("{BAD}{what}{BAD:#}: {}", plain(error));
    lines.extend(
        check
            .error
            .iter()
            .map(|error| error_line("not checked", error)),
    );
    for segment in &check.segments {
        lines.extend(segment_line(segment));
        lines.extend(repair_of(segment, repairs).map(repair_line));
    }
    for name in &check.stale_files {
        let removed = repairs.is_some_and(|repairs| repairs.stale_files.contains(name));
        let removed = if removed { ", removed" } else { "" };
        lines.push(format!(
            "{}: a file of a crashed writer{removed}",
            plain(name)
        ));
    }
    let error = repairs.and_then(|repairs| repairs.error.as_ref());
    lines.extend(error.map(|error| error_line("not all was repaired", error)));
    lines
}

pub(crate) fn segment_line(segment: &SegmentCheck) -> Option<String> {
    let name = plain(&segment.name);
    let state = match &segment.state {
        SegmentState::Intact { .. } => return None,
        SegmentState::Corrupt {
            rows,
            corrupt,
            first_error,
            ..
        } => format!(
            "{BAD}{} of {} corrupt{BAD:#}, the first: {}",
            count(*corrupt),
            counted(*rows, "row"),
            plain(first_error)
        ),
        SegmentState::NotRead(error) if segment.state.is_corrupt() => {
            format!("{BAD}corrupt as a whole{BAD:#}: {}", plain(error))
        }
        SegmentState::NotRead(error) => format!("not checked: {}", plain(error)),
    };
    Some(format!("{name}: {state}"))
}

fn repair_of<'r>(
    segment: &SegmentCheck,
    repairs: Option<&'r RepairReport>,
) -> Option<&'r io::Result<SegmentRepair>> {
    // Both are sorted by name.
    let repairs = &repairs?.segments;
    let at = repairs.binary_search_by(|(name, _)| name.cmp(&segment.name));
    Some(&repairs[at.ok()?].1)
}

fn repair_line(repair: &io::Result<SegmentRepair>) -> String {
    let done = match repair {
        Ok(SegmentRepair::Rewritten { to, kept, lost }) => format!(
            "rewritten as {}: {} kept, {} lost",
            plain(to),
            counted(*kept, "row"),
            count(*lost)
        ),
        Ok(SegmentRepair::Removed { lost: Some(lost) }) => {
            format!("removed: {} lost", counted(*lost, "row"))
        }
        Ok(SegmentRepair::Removed { lost: None }) => {
            "removed: the number of its rows is not known".to_owned()
        }
        Ok(SegmentRepair::Recent) => {
            "skipped: it was written to less than a minute ago, and may be a copy under way"
                .to_owned()
        }
        Ok(SegmentRepair::Superseded) => "another process replaced or removed it".to_owned(),
        Err(error) => format!("{BAD}not repaired{BAD:#}: {}", plain(error)),
    };
    format!("  {done}")
}

fn cache_json(check: &CheckReport, repairs: Option<&RepairReport>) -> Value {
    let segments: Vec<_> = check
        .segments
        .iter()
        .map(|segment| segment_json(segment, repair_of(segment, repairs)))
        .collect();
    let failed = repairs.and_then(|repairs| repairs.error.as_ref());
    json!({
        "name": check.cache.name(),
        "segments": segments,
        "stale_files": check.stale_files,
        "stale_files_removed": repairs.map(|repairs| &repairs.stale_files),
        "error": check.error.as_ref().or(failed).map(ToString::to_string),
    })
}

pub(crate) fn segment_json(
    segment: &SegmentCheck,
    repair: Option<&io::Result<SegmentRepair>>,
) -> Value {
    let (state, rows, corrupt, error) = match &segment.state {
        SegmentState::Intact { rows } => ("intact", Some(rows), Some(0), None),
        SegmentState::Corrupt {
            rows,
            corrupt,
            first_error,
            ..
        } => ("corrupt", Some(rows), Some(*corrupt), Some(first_error)),
        SegmentState::NotRead(error) if segment.state.is_corrupt() => {
            ("corrupt", None, None, Some(error))
        }
        SegmentState::NotRead(error) => ("not checked", None, None, Some(error)),
    };
    let (repair, replaced_by, lost) = match repair {
        None => (None, None, None),
        Some(Ok(SegmentRepair::Rewritten { to, lost, .. })) => {
            (Some("rewritten".to_owned()), Some(to), Some(*lost))
        }
        Some(Ok(SegmentRepair::Removed { lost })) => (Some("removed".to_owned()), None, *lost),
        Some(Ok(SegmentRepair::Recent)) => (Some("recent".to_owned()), None, None),
        Some(Ok(SegmentRepair::Superseded)) => (Some("superseded".to_owned()), None, None),
        Some(Err(error)) => (Some(format!("failed: {error}")), None, None),
    };
    json!({
        "name": segment.name,
        "bytes": segment.bytes,
        "state": state,
        "rows": rows,
        "corrupt_rows": corrupt,
        "error": error.map(ToString::to_string),
        "repair": repair,
        "replaced_by": replaced_by,
        "lost_rows": lost,
    })
}
