//! A figure, with the limit that it is compared with and the bar that it is to reach.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use clap::ValueEnum;
use serde_json::{Value, json};
use torchcache_benches::table::{Table, bytes, ratio, time};

use crate::setting::Part;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Unit {
    Milliseconds,
    BytesPerSecond,
    /// How often something happens.
    Count,
    /// One time divided by another.
    Ratio,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Unit::Milliseconds => time(value),
            Unit::BytesPerSecond => format!("{}/s", bytes(value)),
            Unit::Count => format!("{value}"),
            Unit::Ratio => ratio(value),
        }
    }
}

/// The value that a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// One measured figure.
#[derive(Debug)]
pub(crate) struct Figure {
    what: String,
    unit: Unit,
    value: f64,
    limit: Option<(&'static str, f64)>,
    bar: Option<Bar>,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, unit: Unit, value: f64) -> Self {
        Figure {
            what: what.into(),
            unit,
            value,
            limit: None,
            bar: None,
        }
    }

    pub(crate) fn milliseconds(what: impl Into<String>, value: f64) -> Self {
        Figure::new(what, Unit::Milliseconds, value)
    }

    /// What it is compared with, in its unit.
    pub(crate) fn next_to(mut self, limit: &'static str, value: f64) -> Self {
        self.limit = Some((limit, value));
        self
    }

    pub(crate) fn at_most(mut self, bar: f64) -> Self {
        self.bar = Some(Bar::AtMost(bar));
        self
    }

    pub(crate) fn at_least(mut self, bar: f64) -> Self {
        self.bar = Some(Bar::AtLeast(bar));
        self
    }

    /// So many times the limit.
    pub(crate) fn at_most_times(self, times: f64) -> Self {
        let (_, limit) = self.limit.expect("a figure with a limit");
        self.at_most(times * limit)
    }

    /// Whether it reaches its bar. NaN does not.
    fn is_reached(&self) -> Option<bool> {
        Some(match self.bar? {
            Bar::AtMost(bar) => self.value <= bar,
            Bar::AtLeast(bar) => self.value >= bar,
        })
    }

    fn bar_text(&self) -> Option<String> {
        Some(match self.bar? {
            Bar::AtMost(bar) => format!("at most {}", self.unit.text(bar)),
            Bar::AtLeast(bar) => format!("at least {}", self.unit.text(bar)),
        })
    }

    fn json(&self, part: &str) -> Value {
        let limit = self.limit.map(|(what, value)| {
            json!({
                "what": what,
                "value": value,
                "text": self.unit.text(value),
                "ratio": ratio(self.value / value),
            })
        });
        let bar = self
            .bar_text()
            .map(|text| json!({ "text": text, "reached": self.is_reached() }));
        json!({
            "part": part,
            "what": self.what,
            "value": self.value,
            "text": self.unit.text(self.value),
            "limit": limit,
            "bar": bar,
        })
    }
}

/// The figures of one part: a table, and lines of a file that are complete however the program ends.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    part: String,
    /// On the CPU there are none.
    has_bars: bool,
    file: Option<&'a Path>,
    table: Table,
}

impl<'a> Report<'a> {
    pub(crate) fn new(part: Part, has_bars: bool, file: Option<&'a Path>) -> Self {
        let part = part.to_possible_value().expect("no part is hidden");
        let header = ["measured", "figure", "next to", "its", "ratio", "bar"];
        Report {
            part: part.get_name().to_owned(),
            has_bars,
            file,
            table: Table::new(1, &header),
        }
    }

    pub(crate) fn add(&mut self, mut figure: Figure) {
        if !self.has_bars {
            figure.bar = None;
        }
        let json = figure.json(&self.part);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bar = match figure.is_reached() {
            Some(false) => format!("MISSED: {}", text(&json["bar"]["text"])),
            _ => text(&json["bar"]["text"]),
        };
        self.table.row([
            figure.what.clone(),
            text(&json["text"]),
            text(&json["limit"]["what"]),
            text(&json["limit"]["text"]),
            text(&json["limit"]["ratio"]),
            bar,
        ]);
        self.append(&json);
    }

    /// A figure that cannot be measured here.
    pub(crate) fn not_run(&mut self, what: &str, reason: &str) {
        let reason = format!("not run: {reason}");
        self.append(&json!({ "part": self.part, "what": what, "not_run": reason }));
        let empty = String::new;
        self.table
            .row([what.to_owned(), reason, empty(), empty(), empty(), empty()]);
    }

    fn append(&self, line: &Value) {
        let Some(path) = self.file else { return };
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    pub(crate) fn markdown(&self) -> String {
        format!("#### {}\n\n{}", self.part, self.table)
    }
}
