//! `torchcache verify`: whether every row is what was written, and with `--repair` taking out what is
//! not.

use serde_json::{Value, json};
use torchcache_store::admin::{
    Outcome, Repaired, Repairs, SegmentReport, Verified, repair, verify,
};
use torchcache_store::size::human;

use crate::args::Verify;
use crate::error::Error;
use crate::json;
use crate::output::{BAD, DIM, GOOD, HEADER, Output, Report};
use crate::progress::Bar;
use crate::select;
use crate::text::{count, counted, plain};

pub(crate) fn run(output: &Output, args: &Verify) -> Result<Report, Error> {
    let found = select::all(output, &args.dir)?;
    let bar = Bar::bytes();
    let reports = verify(&found.caches, &bar);
    bar.finish();
    let repairs: Vec<_> = reports
        .iter()
        .map(|report| (args.repair && report.error.is_none()).then(|| repair(report)))
        .collect();
    let told: Vec<_> = reports.iter().zip(&repairs).collect();

    let mut totals = Totals {
        failures: found.unopened.len() as u64,
        ..Totals::default()
    };
    let mut text = String::new();
    let titles = found.titles();
    for (report, repairs) in &told {
        totals.add(report, repairs.as_ref());
        let lines = in_words(report, repairs.as_ref());
        if !lines.is_empty() {
            let title = titles(&report.cache);
            text += &format!("{HEADER}{title}{HEADER:#}\n  {}\n", lines.join("\n  "));
        }
    }
    text += &totals.words(args.repair);
    let caches: Vec<_> = told
        .iter()
        .map(|(report, repairs)| as_json(report, repairs.as_ref()))
        .collect();
    let mut left_alone = found.unopened.clone();
    for report in &reports {
        let path = report.cache.path().to_owned();
        left_alone.extend(report.error.as_ref().map(|error| (path, error.to_string())));
    }
    let json = json!({
        "path": found.root.path().to_string_lossy(),
        "sound": totals.bad_segments == 0 && totals.failures == 0,
        "segments": totals.segments,
        "rows": totals.rows,
        "bytes": totals.bytes,
        "bad_rows": totals.bad_rows,
        "bad_segments": totals.bad_segments,
        "not_checked": totals.not_checked,
        "failures": totals.failures,
        "caches": caches,
        "left_alone": json::left_alone(&left_alone),
    });
    let code = match (totals.failures, totals.bad_segments) {
        (0, 0) => 0,
        (0, _) => 1,
        _ => 2,
    };
    Ok(Report::found(text, json, code))
}

/// What was found in all caches.
#[derive(Debug, Default)]
struct Totals {
    caches: u64,
    segments: u64,
    rows: u64,
    bytes: u64,
    bad_rows: u64,
    bad_segments: u64,
    not_checked: u64,
    /// What could not be looked at or repaired.
    failures: u64,
}

impl Totals {
    fn add(&mut self, report: &Verified, repairs: Option<&Repairs>) {
        self.caches += 1;
        self.failures += u64::from(report.error.is_some());
        for segment in &report.segments {
            self.segments += 1;
            self.bytes = self.bytes.saturating_add(segment.bytes);
            self.bad_segments += u64::from(segment.outcome.is_corruption());
            self.failures += u64::from(segment.outcome.is_unknown());
            match &segment.outcome {
                Outcome::Sound { rows } => self.rows += rows,
                Outcome::Damaged { rows, bad, .. } => {
                    self.rows += rows;
                    self.bad_rows += bad;
                }
                outcome => {
                    let left = !outcome.is_corruption() && !outcome.is_unknown();
                    self.not_checked += u64::from(left);
                }
            }
        }
        if let Some(repairs) = repairs {
            let failed = repairs.segments.iter().filter(|(_, done)| done.is_err());
            self.failures += failed.count() as u64 + u64::from(repairs.error.is_some());
        }
    }

    fn words(&self, repaired: bool) -> String {
        let what = format!(
            "{} in {} of {}, {}",
            counted(self.rows, "row"),
            counted(self.segments, "segment"),
            counted(self.caches, "cache"),
            human(self.bytes)
        );
        let mut text = match self.bad_segments {
            0 if self.failures > 0 => format!("{BAD}not all could be checked{BAD:#}: {what}\n"),
            0 => format!("{GOOD}sound{GOOD:#}: {what}\n"),
            bad => format!(
                "{BAD}damaged{BAD:#}: {} with {}, of {what}\n",
                counted(bad, "segment"),
                counted(self.bad_rows, "bad row")
            ),
        };
        if self.not_checked > 0 {
            let segments = counted(self.not_checked, "segment");
            text += &format!(
                "{segments} of a newer version or of strangers: left alone, not checked\n"
            );
        }
        if self.failures > 0 {
            let undone = if repaired {
                "looked at or repaired"
            } else {
                "looked at"
            };
            let failures = count(self.failures);
            text += &format!("{BAD}{failures} could not be {undone}{BAD:#}, see above\n");
        }
        if self.bad_segments > 0 && !repaired {
            text += &format!("{DIM}--repair takes out what is bad and keeps the rest{DIM:#}\n");
        }
        text
    }
}

/// What there is to say of a cache; nothing if all is well.
fn in_words(report: &Verified, repairs: Option<&Repairs>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(error) = &report.error {
        lines.push(format!(
            "{BAD}not checked{BAD:#}: {}",
            plain(&error.to_string())
        ));
    }
    for segment in &report.segments {
        lines.extend(segment_words(segment));
        if let Some(done) = done_with(segment, repairs) {
            lines.push(done_words(done));
        }
    }
    for name in &report.stale {
        let removed = repairs.is_some_and(|repairs| repairs.stale.contains(name));
        let done = if removed { ": removed" } else { "" };
        lines.push(format!(
            "{} was left by a writer that died{done}",
            plain(name)
        ));
    }
    if let Some(error) = repairs.and_then(|repairs| repairs.error.as_ref()) {
        lines.push(format!(
            "{BAD}not all was repaired{BAD:#}: {}",
            plain(&error.to_string())
        ));
    }
    lines
}

fn segment_words(segment: &SegmentReport) -> Option<String> {
    let name = plain(&segment.name);
    let what = match &segment.outcome {
        Outcome::Sound { .. } => return None,
        Outcome::Damaged {
            rows, bad, first, ..
        } => format!(
            "{BAD}{} of {} bad{BAD:#}, the first: {}",
            count(*bad),
            counted(*rows, "row"),
            plain(&first.to_string())
        ),
        Outcome::Unreadable(error) if segment.outcome.is_corruption() => {
            format!("{BAD}unreadable{BAD:#}: {}", plain(&error.to_string()))
        }
        Outcome::Unreadable(error) => format!("not checked: {}", plain(&error.to_string())),
    };
    Some(format!("{name}: {what}"))
}

fn done_with<'r>(
    segment: &SegmentReport,
    repairs: Option<&'r Repairs>,
) -> Option<&'r std::io::Result<Repaired>> {
    // They are in the order of the segments, which is that of their names.
    let done = &repairs?.segments;
    let at = done.binary_search_by(|(name, _)| name.cmp(&segment.name));
    Some(&done[at.ok()?].1)
}

fn done_words(done: &std::io::Result<Repaired>) -> String {
    let words = match done {
        Ok(Repaired::Rewritten { to, kept, lost }) => format!(
            "rewritten as {}: {} kept, {} lost",
            plain(to),
            counted(*kept, "row"),
            count(*lost)
        ),
        Ok(Repaired::Removed { lost: Some(lost) }) => {
            format!("removed: {} lost", counted(*lost, "row"))
        }
        Ok(Repaired::Removed { lost: None }) => {
            "removed: how many rows it had is not known".to_owned()
        }
        Ok(Repaired::Recent) => {
            "left alone: it was written to less than a minute ago, and somebody \
                                 may be copying it here"
                .to_owned()
        }
        Ok(Repaired::Superseded) => "somebody else replaced or removed it meanwhile".to_owned(),
        Err(error) => format!("{BAD}not repaired{BAD:#}: {}", plain(&error.to_string())),
    };
    format!("  {words}")
}

fn as_json(report: &Verified, repairs: Option<&Repairs>) -> Value {
    let segments: Vec<_> = report
        .segments
        .iter()
        .map(|segment| segment_json(segment, done_with(segment, repairs)))
        .collect();
    let failed = repairs.and_then(|repairs| repairs.error.as_ref());
    json!({
        "name": report.cache.name(),
        "segments": segments,
        "stale_files": report.stale,
        "stale_files_removed": repairs.map(|repairs| &repairs.stale),
        "error": report.error.as_ref().or(failed).map(ToString::to_string),
    })
}

fn segment_json(segment: &SegmentReport, done: Option<&std::io::Result<Repaired>>) -> Value {
    let (state, rows, bad, error) = match &segment.outcome {
        Outcome::Sound { rows } => ("sound", Some(rows), Some(0), None),
        Outcome::Damaged {
            rows, bad, first, ..
        } => ("damaged", Some(rows), Some(*bad), Some(first.to_string())),
        Outcome::Unreadable(error) => {
            let damaged = segment.outcome.is_corruption();
            let state = if damaged { "unreadable" } else { "not checked" };
            (state, None, None, Some(error.to_string()))
        }
    };
    let (repair, replaced_by, lost) = match done {
        None => (None, None, None),
        Some(Ok(Repaired::Rewritten { to, lost, .. })) => {
            (Some("rewritten".to_owned()), Some(to), Some(*lost))
        }
        Some(Ok(Repaired::Removed { lost })) => (Some("removed".to_owned()), None, *lost),
        Some(Ok(Repaired::Recent)) => (Some("recent".to_owned()), None, None),
        Some(Ok(Repaired::Superseded)) => (Some("superseded".to_owned()), None, None),
        Some(Err(error)) => (Some(format!("failed: {error}")), None, None),
    };
    json!({
        "name": segment.name,
        "bytes": segment.bytes,
        "state": state,
        "rows": rows,
        "bad_rows": bad,
        "error": error,
        "repair": repair,
        "replaced_by": replaced_by,
        "lost_rows": lost,
    })
}
