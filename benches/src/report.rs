//! The figures of one workload as a table, with ratios to the peer and to the limit.

use serde_json::{Value, json};

use crate::figures::{Figures, SHOWN, Served};
use crate::limits::Limits;
use crate::peer::Answers;
use crate::table::{Table, bytes, ratio, time};
use crate::workload::Workload;

/// A greater spread of rounds is reported as a busy machine.
const BUSY: f64 = 1.5;

/// The bytes on disk per row that a cache cannot do without, beyond the data: the key.
const KEY_BYTES: f64 = 32.0;

/// All figures of one workload.
#[derive(Debug)]
pub struct Report<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Bytes of an output row.
    pub row_bytes: f64,
    /// torchcache's figures.
    pub ours: Figures,
    /// The peer's figures, as far as it ran.
    pub peer: Answers,
    /// Lower limits.
    pub limits: Limits,
}

impl Report<'_> {
    /// The table with a heading and remarks.
    pub fn markdown(&self) -> String {
        let mut table = Table::new(
            1,
            &[
                "served",
                "torchcache",
                "Python",
                "torchcache / Python",
                "limit",
                "torchcache / limit",
            ],
        );
        for served in SHOWN {
            let ours = self.ours(served);
            let compared = |other: Option<f64>, absent: &str| match other {
                Some(other) => [cell(served, other), ratio(ours / other)],
                None => [absent.to_owned(), String::new()],
            };
            let no_peer = if served.has_peer() { "not run" } else { "" };
            let [peer, by_peer] = compared(self.peer(served), no_peer);
            let [limit, by_limit] = compared(self.limit(served), "not run");
            let title = served.title().to_owned();
            table.row([title, cell(served, ours), peer, by_peer, limit, by_limit]);
            if served == Served::MemoryHit {
                table.row(self.memory_hit_over_all_batches());
            }
        }
        let name = self.workload.name;
        format!(
            "#### {name}: {}\n\n{table}\n{}",
            self.workload.describe(),
            self.remark()
        )
    }

    /// The same figure compared with the limit over the batches of the calls.
    fn memory_hit_over_all_batches(&self) -> [String; 6] {
        let (ours, limit) = (
            self.ours(Served::MemoryHit),
            self.limits.read + self.limits.write,
        );
        [
            "memory hit, limit over all batches".to_owned(),
            time(ours),
            String::new(),
            String::new(),
            time(limit),
            ratio(ours / limit),
        ]
    }

    fn remark(&self) -> String {
        let wrong = match self.peer.wrong {
            Some((wrong, rows)) if wrong > 0 => format!(
                "Of the peer's {rows} rows in memory, {wrong} came back with a kind or values other \
                 than the forward's. "
            ),
            _ => String::new(),
        };
        let spread = self.ours.spread();
        let rounds =
            format!("slowest round was {spread:.2} × the fastest (median over our figures)");
        let rounds = match spread > BUSY {
            true => {
                format!("**The machine was busy, so do not rely on these figures: the {rounds}.**")
            }
            false => format!("The {rounds}."),
        };
        let forward = time(self.ours(Served::Forward));
        format!("{wrong}The forward takes {forward}. {rounds}\n")
    }

    /// The groups of bars of the chart.
    pub fn chart(&self) -> Vec<Value> {
        let shown = [Served::MemoryHit, Served::DiskHit, Served::MissDisk];
        shown.map(|served| self.chart_group(served)).to_vec()
    }

    fn chart_group(&self, served: Served) -> Value {
        let ours = self.ours(served);
        let peer = self.peer.figures.best(served);
        let label = match peer {
            Some(peer) => format!("{}, {} of Python's", time(ours), ratio(ours / peer)),
            None => time(ours),
        };
        let bar = |side: &str, figure: Option<f64>, label: Option<String>| {
            json!({
                "side": side,
                "milliseconds": figure,
                "label": label.or(figure.map(time)),
            })
        };
        json!({
            "workload": format!("{}, {}", self.workload.name, self.workload.describe()),
            "served": served.title(),
            "bars": [
                bar("peer", peer, None),
                bar("ours", Some(ours), Some(label)),
                bar("limit", self.limit(served), None),
            ],
        })
    }

    fn ours(&self, served: Served) -> f64 {
        let figure = self
            .ours
            .best(served)
            .expect("our rounds measure everything");
        self.beyond_data(served, figure)
    }

    fn peer(&self, served: Served) -> Option<f64> {
        let figure = self.peer.figures.best(served);
        let figure = figure.filter(|_| served.has_peer())?;
        Some(self.beyond_data(served, figure))
    }

    /// Uncompressed rows count without their data.
    fn beyond_data(&self, served: Served, figure: f64) -> f64 {
        match served {
            Served::RowBytes => figure - self.row_bytes,
            _ => figure,
        }
    }

    /// The limit of a way of serving, in its unit.
    fn limit(&self, served: Served) -> Option<f64> {
        match served {
            Served::Forward => None,
            // The same batch each time, by numpy and torch.
            Served::MemoryHit => self.peer.limit,
            Served::MemoryHitById => Some(self.limits.write),
            Served::DiskHit | Served::DiskHitZstd | Served::DiskOnly => {
                Some(self.ours(Served::MemoryHit) + self.limits.pread)
            }
            Served::MissMemory | Served::MissDisk | Served::MissDiskZstd => {
                Some(self.limits.hash + self.limits.write)
            }
            Served::MissWritten => Some(self.limits.hash + self.limits.write + self.limits.file),
            Served::RowBytes => Some(KEY_BYTES),
            Served::RowBytesZstd => Some(self.row_bytes),
        }
    }
}

fn cell(served: Served, figure: f64) -> String {
    match served.is_bytes() {
        true => bytes(figure),
        false => time(figure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::WORKLOADS;

    /// All figures are 3 ms or bytes and the peer's 12, with a forward of 1; limits are 1 ms.
    fn report(peer: bool) -> Report<'static> {
        let figures = |value| {
            let mut figures = Figures::default();
            figures.add(Served::Forward, 1.0);
            for served in SHOWN {
                figures.add(served, value);
            }
            figures
        };
        let answers = Answers {
            figures: figures(12.0),
            limit: Some(2.0),
            wrong: Some((86, 8192)),
        };
        Report {
            workload: &WORKLOADS[1],
            row_bytes: 1.0,
            ours: figures(3.0),
            peer: if peer { answers } else { Answers::default() },
            limits: Limits {
                read: 1.0,
                write: 1.0,
                hash: 1.0,
                pread: 1.0,
                file: 1.0,
            },
        }
    }

    fn cells(markdown: &str, served: Served) -> Vec<String> {
        let start = format!("| {} ", served.title());
        let row = markdown.lines().find(|line| line.starts_with(&start));
        let cells = row.expect("a row for it").trim_matches('|').split('|');
        cells.skip(1).map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn every_figure_is_compared_with_the_peer_and_a_limit() {
        let markdown = report(true).markdown();
        for (served, row) in [
            (Served::MemoryHit, ["3 ms", "12 ms", "1/4", "2 ms", "1.5 ×"]),
            (Served::MemoryHitById, ["3 ms", "", "", "1 ms", "3 ×"]),
            (Served::DiskHit, ["3 ms", "12 ms", "1/4", "4 ms", "1/1.33"]),
            (Served::MissDisk, ["2 ms", "11 ms", "1/5.5", "2 ms", "1 ×"]),
            (
                Served::MissWritten,
                ["2 ms", "11 ms", "1/5.5", "3 ms", "1/1.5"],
            ),
            (Served::RowBytes, ["2 B", "11 B", "1/5.5", "32 B", "1/16"]),
        ] {
            assert_eq!(cells(&markdown, served), row);
        }
        assert!(markdown.contains("Of the peer's 8192 rows in memory, 86 came back"));
    }

    #[test]
    fn figures_of_a_busy_machine_come_with_a_warning() {
        let mut report = report(false);
        assert!(!report.markdown().contains("busy"));
        for served in SHOWN {
            report.ours.add(served, 4.6);
        }
        let markdown = report.markdown();
        assert!(markdown.contains("**The machine was busy"), "{markdown}");
        assert!(markdown.contains("slowest round was 1.53 ×"), "{markdown}");
    }

    #[test]
    fn without_the_peer_its_columns_say_not_run() {
        let report = report(false);
        let row = cells(&report.markdown(), Served::MemoryHit);
        assert_eq!(row, ["3 ms", "not run", "", "not run", ""]);
        let row = cells(&report.markdown(), Served::MissDisk);
        assert_eq!(row, ["2 ms", "not run", "", "2 ms", "1 ×"]);
        assert_eq!(report.chart()[0]["bars"][0]["milliseconds"], Value::Null);
    }
}
