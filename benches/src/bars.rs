//! The bars that the cache must clear, as data, and whether it does.

use crate::figures::Served::{self, *};
use crate::table::{Table, ratio};

/// What a figure is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The same figure of the Python package.
    Peer,
    /// The least that any cache must do.
    Limit,
}

impl Beside {
    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Beside::Peer => "Python package",
            Beside::Limit => "limit",
        }
    }
}

/// A ratio that must not be exceeded.
#[derive(Debug)]
pub struct Bar {
    /// The workload it is for.
    pub workload: &'static str,
    /// The way of being served it is for.
    pub served: Served,
    /// What our figure is divided by.
    pub beside: Beside,
    /// The ratio that is still good.
    pub at_most: f64,
}

const fn bar(workload: &'static str, served: Served, beside: Beside, at_most: f64) -> Bar {
    Bar {
        workload,
        served,
        beside,
        at_most,
    }
}

/// The key of a row is what must lie beside its data.
pub const KEY_BYTES: f64 = 32.0;

/// The bars of the three workloads.
pub const BARS: [Bar; 15] = [
    bar("vision", MemoryHit, Beside::Peer, 1.0 / 3.0),
    bar("vision", MemoryHit, Beside::Limit, 1.5),
    bar("vision", DiskHit, Beside::Peer, 1.0 / 4.0),
    bar("vision", MissDisk, Beside::Peer, 1.0 / 6.0),
    bar("vision", RowBytes, Beside::Limit, 64.0 / KEY_BYTES),
    bar("embed", MemoryHit, Beside::Peer, 1.0 / 25.0),
    bar("embed", MemoryHit, Beside::Limit, 4.0),
    bar("embed", DiskHit, Beside::Peer, 1.0 / 100.0),
    bar("embed", MissDisk, Beside::Peer, 1.0 / 50.0),
    bar("embed", RowBytes, Beside::Limit, 64.0 / KEY_BYTES),
    bar("tokens", MemoryHit, Beside::Peer, 1.0 / 3.0),
    bar("tokens", MemoryHit, Beside::Limit, 1.5),
    bar("tokens", DiskHit, Beside::Peer, 1.0 / 15.0),
    bar("tokens", MissDisk, Beside::Peer, 1.0 / 15.0),
    bar("tokens", RowBytes, Beside::Limit, 64.0 / KEY_BYTES),
];

/// Microseconds that a call of one row of 64 bytes may take, all hit: with nothing to watch, and
/// with the weights of a ResNet-50.
pub const FIXED_COST: [f64; 2] = [5.0, 30.0];

/// All bars with what was got; `None` for what was not run.
pub fn summary(got: &[(&Bar, Option<f64>)]) -> String {
    let mut table = Table::new(3, ["workload", "served", "beside", "bar", "got", ""]);
    for (bar, got) in got {
        table.row([
            bar.workload.to_owned(),
            bar.served.title().to_owned(),
            bar.beside.name().to_owned(),
            format!("≤ {}", ratio(bar.at_most)),
            got.map_or("not run".to_owned(), ratio),
            got.map_or("", |got| verdict(got <= bar.at_most)).to_owned(),
        ]);
    }
    let met = got
        .iter()
        .filter(|(bar, got)| got.is_some_and(|got| got <= bar.at_most));
    format!("{} of {} bars are met.\n\n{table}", met.count(), got.len())
}

/// `met`, or `missed`, in bold so that it is not overlooked.
pub fn verdict(met: bool) -> &'static str {
    match met {
        true => "met",
        false => "**missed**",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    #[test]
    fn every_workload_has_every_kind_of_bar_once() {
        for workload in &WORKLOADS {
            let bars = BARS.iter().filter(|bar| bar.workload == workload.name);
            let kinds: Vec<_> = bars.map(|bar| (bar.served, bar.beside)).collect();
            let expected = [
                (MemoryHit, Beside::Peer),
                (MemoryHit, Beside::Limit),
                (DiskHit, Beside::Peer),
                (MissDisk, Beside::Peer),
                (RowBytes, Beside::Limit),
            ];
            assert_eq!(kinds, expected);
        }
        assert_eq!(BARS.len(), 5 * WORKLOADS.len());
    }

    #[test]
    fn the_summary_says_what_is_met_missed_and_not_run() {
        let [one, two, three, ..] = &BARS;
        // Up to its ratio a bar is met, and not beyond.
        let got = [(one, Some(1.0 / 3.0)), (two, Some(1.51)), (three, None)];
        let text = summary(&got);
        assert!(text.starts_with("1 of 3 bars are met."), "{text}");
        let verdicts = |word: &str| text.matches(&format!(" {word} |")).count();
        assert_eq!(verdicts("met"), 1);
        assert_eq!(verdicts("**missed**"), 1);
        assert_eq!(verdicts("not run"), 1);
    }
}
