//! What the workloads write beside their tables: the figures of the chart, and whether the Python
//! package ran to the end.

use serde_json::Value;

use crate::error::{Error, Result};

#[derive(Debug, PartialEq)]
pub(crate) struct Figures {
    /// Why the Python package did not run, or not to the end.
    pub(crate) without_peer: Option<String>,
    pub(crate) groups: Vec<Group>,
}

/// Bars that belong together: one way of being served, on one workload.
#[derive(Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) workload: String,
    pub(crate) served: String,
    pub(crate) bars: Vec<Bar>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) side: String,
    /// `None` where it was not run.
    pub(crate) milliseconds: Option<f64>,
    pub(crate) label: String,
}

impl Figures {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| {
            Error::Failed("the figures of the chart are not what was expected".into())
        })
    }
}

fn parse(figures: &str) -> Option<Figures> {
    let value: Value = serde_json::from_str(figures).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let bar = |value: &Value| {
        let milliseconds = value["milliseconds"].as_f64();
        Some(Bar {
            side: text(&value["side"])?,
            milliseconds,
            label: text(&value["label"]).unwrap_or_else(|| "not run".to_owned()),
        })
    };
    let group = |value: &Value| {
        let bars = value["bars"].as_array()?;
        Some(Group {
            workload: text(&value["workload"])?,
            served: text(&value["served"])?,
            bars: bars.iter().map(bar).collect::<Option<_>>()?,
        })
    };
    let groups: Option<Vec<_>> = value["groups"].as_array()?.iter().map(group).collect();
    Some(Figures {
        without_peer: text(&value["without_peer"]),
        groups: groups.filter(|groups| !groups.is_empty())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_whether_the_peer_ran_to_the_end() {
        let group =
            r#"{ "workload": "embed", "served": "disk hit", "bars": [{ "side": "peer" }] }"#;
        for (written, read) in [("null", None), ("\"it ended\"", Some("it ended"))] {
            let text = format!(r#"{{ "without_peer": {written}, "groups": [{group}] }}"#);
            let figures = Figures::parse(&text).unwrap();
            assert_eq!(figures.without_peer.as_deref(), read);
            let bar = &figures.groups[0].bars[0];
            assert_eq!((bar.milliseconds, bar.label.as_str()), (None, "not run"));
        }
    }

    #[test]
    fn figures_of_another_form_are_an_error_and_not_an_empty_chart() {
        for text in [
            "",
            "{}",
            r#"{ "groups": [] }"#,
            r#"{ "groups": [{ "workload": "embed" }] }"#,
        ] {
            assert!(Figures::parse(text).is_err(), "{text}");
        }
    }
}
