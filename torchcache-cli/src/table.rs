//! Tables that fit the terminal. If one is too wide, its long columns are shortened in the middle, since
//! paths may differ at either end; the crates for tables cut at the end or wrap. In a file or a pipe,
//! nothing is shortened.

use anstyle::Style;

use crate::output::HEADER;
use crate::text::{shortened, width};

/// Between two columns.
const GAP: &str = "  ";

/// The least width of a shortened column.
const MIN_WIDTH: usize = 12;

/// The layout and header of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Text, never shortened.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
    /// Text that may be shortened.
    Long(&'static str),
}

impl Column {
    fn header(self) -> &'static str {
        match self {
            Column::Left(header) | Column::Right(header) | Column::Long(header) => header,
        }
    }
}

/// Rows of cells.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<(Style, Vec<String>)>,
    indent: usize,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Table {
        Table {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
            indent: 0,
        }
    }

    /// Moves the table to the right.
    pub(crate) fn indented(self, indent: usize) -> Table {
        Table { indent, ..self }
    }

    /// Adds a row with a cell for each column. The cells are plain text on one line.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.styled_row(Style::new(), cells);
    }

    pub(crate) fn styled_row(&mut self, style: Style, cells: impl IntoIterator<Item = String>) {
        self.rows.push((style, cells.into_iter().collect()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Renders the table, in at most `columns` columns if possible; an empty string without rows.
    pub(crate) fn render(&self, columns: Option<usize>) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let widths = self.widths(columns);
        let headers = self.columns.iter().map(|column| column.header().to_owned());
        let headers: Vec<_> = headers.collect();
        let mut text = self.line(HEADER, &headers, &widths);
        for (style, cells) in &self.rows {
            text += &self.line(*style, cells, &widths);
        }
        text
    }

    fn widths(&self, columns: Option<usize>) -> Vec<usize> {
        let widest = |at: usize| {
            let cells = self.rows.iter().filter_map(|(_, cells)| cells.get(at));
            let header = width(self.columns[at].header());
            cells.map(|cell| width(cell)).max().unwrap_or(0).max(header)
        };
        let mut widths: Vec<_> = (0..self.columns.len()).map(widest).collect();
        let Some(columns) = columns else {
            return widths;
        };
        let gaps = GAP.len() * self.columns.len().saturating_sub(1) + self.indent;
        // The widest column loses one at a time, so that several end up equally wide.
        while widths.iter().sum::<usize>() + gaps > columns {
            let long = (0..widths.len()).filter(|&at| {
                matches!(self.columns[at], Column::Long(_)) && widths[at] > MIN_WIDTH
            });
            match long.max_by_key(|&at| widths[at]) {
                Some(at) => widths[at] -= 1,
                None => break,
            }
        }
        widths
    }

    fn line(&self, style: Style, cells: &[String], widths: &[usize]) -> String {
        let laid = self.columns.iter().zip(cells).zip(widths);
        let laid: Vec<_> = laid
            .map(|((column, cell), &columns)| {
                let cell = shortened(cell, columns);
                let space = " ".repeat(columns - width(&cell));
                match column {
                    Column::Right(_) => space + &cell,
                    _ => cell + &space,
                }
            })
            .collect();
        let line = laid.join(GAP);
        let (line, indent) = (line.trim_end(), " ".repeat(self.indent));
        format!("{indent}{style}{line}{style:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::Long("TYPE"),
            Column::Right("ROWS"),
            Column::Left("READ"),
        ]);
        let long = "a_rather_long::path_to::SomeModule<of::Something>";
        table.row([long.into(), "1,797".into(), "just now".into()]);
        table.row(["漢字::Head".into(), "9".into(), "3 days ago".into()]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn long_columns_are_shortened_in_the_middle() {
        let text = plain(&table().render(Some(40)));
        let expected = "\
TYPE                    ROWS  READ
a_rather_l…Something>  1,797  just now
漢字::Head                 9  3 days ago
";
        assert_eq!(text, expected);
        // Never below the least width.
        assert_eq!(plain(&table().render(Some(1))).lines().count(), 3);
    }
}
