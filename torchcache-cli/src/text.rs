//! Text for a terminal: how wide it is, how it is shortened, and what of it may be printed. Names and
//! values come out of files that anybody may have written.

use unicode_width::UnicodeWidthStr;

/// The columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The text on one line, with whatever could move the cursor or reorder the line written out.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            // Marks that change the direction of what follows.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                plain.extend(letter.escape_unicode());
            }
            _ if letter.is_control() => plain.extend(letter.escape_default()),
            _ => plain.push(letter),
        }
    }
    plain
}

/// The same of a value, which may be nothing.
pub(crate) fn plain_value(text: &str) -> String {
    match text.is_empty() {
        true => "(empty)".to_owned(),
        false => plain(text),
    }
}

/// The text in at most so many columns: both ends of it, since paths differ at either.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let end = taken(text.chars().rev(), room / 2);
    let begin = taken(text.chars(), room - width(&end));
    let end: String = end.chars().rev().collect();
    format!("{begin}…{end}")
}

/// As many letters as fit.
fn taken(letters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut taken = String::new();
    for letter in letters {
        taken.push(letter);
        if width(&taken) > columns {
            taken.pop();
            break;
        }
    }
    taken
}

/// A number with its thousands apart: `1,797`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 row`, `1,797 rows`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", count(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_keeps_both_ends() {
        assert_eq!(shortened("demo::Head", 10), "demo::Head");
        assert_eq!(shortened("demo::Head", 9), "demo…Head");
        assert_eq!(shortened("demo::Head", 2), "d…");
        // Wide letters are never cut in two.
        for columns in 1..12 {
            let short = shortened("漢字漢字漢字", columns);
            assert!(width(&short) <= columns, "{short} in {columns}");
        }
    }

    #[test]
    fn what_could_disturb_a_terminal_is_written_out() {
        assert_eq!(plain("größe\x1b[2J\n"), "größe\\u{1b}[2J\\n");
        assert_eq!(plain("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_797), "1,797");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1_000_000, "row"), "1,000,000 rows");
    }
}
