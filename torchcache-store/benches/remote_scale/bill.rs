//! What requests cost, and how figures are printed.

use std::fmt;

use crate::fleet::Traffic;

/// The list prices of S3 Standard in us-east-1, in dollars (<https://aws.amazon.com/s3/pricing/>), entered in December
/// 2026: of a PUT or a LIST, and of a GET. Transfer within the region costs nothing.
const PUT: f64 = 0.005 / 1e3;
const GET: f64 = 0.0004 / 1e3;

/// Of a GB for a month.
pub(crate) const STORAGE: f64 = 0.023;

/// Dollars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bill(pub(crate) f64);

impl Bill {
    pub(crate) fn of(traffic: Traffic) -> Bill {
        Bill((traffic.puts + traffic.lists) * PUT + traffic.gets * GET)
    }
}

impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}", self.0)
    }
}

/// A figure with about three digits.
pub(crate) fn count(figure: f64) -> String {
    match figure {
        it if it >= 100.0 || it == 0.0 => format!("{it:.0}"),
        it if it >= 1.0 => format!("{it:.1}"),
        it => format!("{it:.3}"),
    }
}

/// How much a part is of all.
pub(crate) fn share(part: u64, all: u64) -> String {
    format!("{:.0} %", 100.0 * part.min(all) as f64 / all as f64)
}
