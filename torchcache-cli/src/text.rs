//! Text for a terminal: how wide it is, how it is shortened, and what of it may be printed. Names and
//! values come out of files that anybody may have written.

use indicatif::HumanCount;
use textwrap::core::display_width;

/// Marks that change the direction of what follows, and what ends a line without being a control
/// character.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line, with whatever could move the cursor or reorder the line written out. What is
/// plain already stays as it is.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if is_mark(letter) => plain.extend(letter.escape_unicode()),
            _ if letter.is_control() => plain.extend(letter.escape_default()),
            _ => plain.push(letter),
        }
    }
    plain
}

/// Styled lines without anything else that is no plain text: the last look at what goes to a
/// terminal, for names that nobody looked at before.
pub(crate) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter.is_control() || is_mark(letter)) {
        harmless += &rest[..at];
        rest = &rest[at..];
        let len = style_len(rest).unwrap_or_else(|| {
            let first = rest.chars().next();
            first.map_or(rest.len(), char::len_utf8)
        });
        let (taken, left) = rest.split_at(len);
        match taken == "\n" || style_len(taken).is_some() {
            true => harmless += taken,
            false => harmless += &plain(taken),
        }
        rest = left;
    }
    harmless + rest
}

/// How long the style is that a text begins with: numbers between `ESC [` and `m`.
fn style_len(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\x1b[")?;
    let end = numbers.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    numbers[end..].starts_with('m').then_some(2 + end + 1)
}

/// A JSON document with what JSON lets pass, although a terminal acts on it, written as `\uXXXX`.
/// Such letters are in strings only.
pub(crate) fn escaped(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for letter in document.chars() {
        match ('\u{7f}'..='\u{9f}').contains(&letter) || is_mark(letter) {
            true => escaped += &format!("\\u{:04x}", u32::from(letter)),
            false => escaped.push(letter),
        }
    }
    escaped
}

/// The same of a value, which may be nothing.
pub(crate) fn plain_value(text: &str) -> String {
    match text.is_empty() {
        true => "(empty)".to_owned(),
        false => plain(text),
    }
}

/// A word for a shell to read, in quotes if it has to be.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:,+@%".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// The text in at most so many columns: both ends of it, since paths differ at either.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    if display_width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let end = taken(text.chars().rev(), room / 2);
    let begin = taken(text.chars(), room - display_width(&end));
    let end: String = end.chars().rev().collect();
    format!("{begin}…{end}")
}

/// As many letters as fit.
fn taken(letters: impl Iterator<Item = char>, columns: usize) -> String {
    let mut taken = String::new();
    for letter in letters {
        taken.push(letter);
        if display_width(&taken) > columns {
            taken.pop();
            break;
        }
    }
    taken
}

/// Formats a number: `1,797`.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

/// Formats a number of things: `1 row`, `1,797 rows`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", HumanCount(number))
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
            assert!(display_width(&short) <= columns, "{short} in {columns}");
        }
    }

    #[test]
    fn what_could_disturb_a_terminal_is_written_out() {
        assert_eq!(plain("größe\x1b[2J\n"), "größe\\u{1b}[2J\\n");
        assert_eq!(plain("a\u{202e}b\u{61c}"), "a\\u{202e}b\\u{61c}");
        assert_eq!(plain(&plain("a\x1b\u{9b}b")), plain("a\x1b\u{9b}b"));
        let styled = "\x1b[1;31mbad\x1b[0m\n";
        assert_eq!(harmless(styled), styled);
        assert_eq!(harmless("a\x1b[2J\rb\x1b"), "a\\u{1b}[2J\\rb\\u{1b}");
        assert_eq!(escaped("\"a\u{7f}\u{9b}ö\""), "\"a\\u007f\\u009bö\"");
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quoted("a/b-1.2"), "a/b-1.2");
        assert_eq!(quoted("my caches"), "'my caches'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
