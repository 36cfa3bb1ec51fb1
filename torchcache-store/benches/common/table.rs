//! Markdown tables.

/// Prints a Markdown table row by row, as figures are measured. Columns whose heading begins with a blank
/// are numbers.
pub(crate) struct Table {
    widths: Vec<usize>,
    numbers: Vec<bool>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Table {
        let numbers = headings.iter().map(|heading| heading.starts_with(' '));
        let numbers = numbers.collect();
        let headings: Vec<_> = headings
            .iter()
            .map(|heading| heading.trim_start())
            .collect();
        let widths = headings
            .iter()
            .map(|heading| heading.chars().count().max(4));
        let table = Table {
            widths: widths.collect(),
            numbers,
        };
        table.row(&headings);
        let line = |(width, number): (&usize, &bool)| match number {
            true => format!("{}:", "-".repeat(width - 1)),
            false => "-".repeat(*width),
        };
        let lines = table.widths.iter().zip(&table.numbers).map(line);
        println!("| {} |", lines.collect::<Vec<_>>().join(" | "));
        table
    }

    pub(crate) fn row(&self, cells: &[impl AsRef<str>]) {
        let widths = self.widths.iter().zip(&self.numbers);
        let cells = cells.iter().map(AsRef::as_ref).zip(widths);
        let padded = cells.map(|(cell, (width, number))| match number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
    }
}
