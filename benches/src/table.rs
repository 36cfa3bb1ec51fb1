//! Markdown tables, aligned so that they are readable as text, and numbers with three digits.

use std::fmt;

/// A table with a header; every row has as many cells.
#[derive(Debug)]
pub struct Table {
    /// The number of columns with names, aligned left; figures are aligned right.
    names: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns, of which the first `names` contain names.
    pub fn new(names: usize, header: &[&str]) -> Self {
        Table {
            names,
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl Into<Vec<String>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.rows[0].len(), "a cell for each column");
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(3)
        };
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column < self.names {
                    true => write!(f, "| {cell:<width$} ")?,
                    false => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(*width);
                    match column < self.names {
                        true => write!(f, "| {line} ")?,
                        false => write!(f, "| {}: ", &line[1..])?,
                    }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Milliseconds with three digits, in µs, ms or s.
pub fn time(milliseconds: f64) -> String {
    match milliseconds {
        ms if ms >= 1e3 => format!("{} s", digits(ms / 1e3)),
        ms if ms >= 1.0 => format!("{} ms", digits(ms)),
        ms => format!("{} µs", digits(ms * 1e3)),
    }
}

/// Bytes with three digits, in B, kB, MB or GB.
pub fn bytes(bytes: f64) -> String {
    match bytes {
        b if b.abs() >= 1e9 => format!("{} GB", digits(b / 1e9)),
        b if b.abs() >= 1e6 => format!("{} MB", digits(b / 1e6)),
        b if b.abs() >= 1e3 => format!("{} kB", digits(b / 1e3)),
        b => format!("{} B", digits(b)),
    }
}

/// A ratio: `1/25` below one, `1.5 ×` from one on.
pub fn ratio(ratio: f64) -> String {
    match ratio < 1.0 {
        true => format!("1/{}", digits(1.0 / ratio)),
        false => format!("{} ×", digits(ratio)),
    }
}

/// Three digits, without zeros at the end.
fn digits(value: f64) -> String {
    let whole = value.abs().log10().floor().max(0.0) as usize;
    let text = format!("{value:.*}", 2usize.saturating_sub(whole));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!(time(0.01234), "12.3 µs");
        assert_eq!(time(0.0), "0 µs");
        assert_eq!(time(20.44), "20.4 ms");
        assert_eq!(time(1500.0), "1.5 s");
        assert_eq!(bytes(602_112.0), "602 kB");
        assert_eq!(bytes(48.0), "48 B");
        assert_eq!(bytes(-1234.0), "-1.23 kB");
    }

    #[test]
    fn a_ratio_below_one_is_a_fraction() {
        assert_eq!(ratio(1.0 / 25.0), "1/25");
        assert_eq!(ratio(0.3), "1/3.33");
        assert_eq!(ratio(1.5), "1.5 ×");
        assert_eq!(ratio(1234.5), "1234 ×");
    }

    #[test]
    fn a_table_is_aligned() {
        let mut table = Table::new(1, &["stage", "time"]);
        table.row(["keys".into(), "5 µs".into()]);
        let text = "| stage | time |\n| ----- | ---: |\n| keys  | 5 µs |\n";
        assert_eq!(table.to_string(), text);
    }
}
