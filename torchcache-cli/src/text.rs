//! Text for a terminal: escaped, shortened, quoted. Names and values come from files that other users may
//! have written, so none may move the cursor or reorder a line.

use std::fmt::Display;

use indicatif::HumanCount;
use textwrap::core::display_width;

/// Whether a letter changes the direction of text or ends a line, without being a control character.
fn is_layout_mark(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Escapes control characters and layout marks, which leaves the text on one line. Idempotent.
pub(crate) fn plain(text: impl Display) -> String {
    let text = text.to_string();
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if is_layout_mark(letter) => plain.extend(letter.escape_unicode()),
            _ if letter.is_control() => plain.extend(letter.escape_default()),
            _ => plain.push(letter),
        }
    }
    plain
}

/// Escapes all but plain text, line breaks and styles: the last step before a terminal, for names that
/// were not escaped before.
pub(crate) fn harmless(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|letter: char| letter.is_control() || is_layout_mark(letter)) {
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

/// The length of the style at the start of a text: numbers between `ESC [` and `m`.
fn style_len(text: &str) -> Option<usize> {
    let numbers = text.strip_prefix("\x1b[")?;
    let end = numbers.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    numbers[end..].starts_with('m').then_some(2 + end + 1)
}

/// Escapes what JSON allows in strings although a terminal acts on it, as `\uXXXX`.
pub(crate) fn escaped(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for letter in document.chars() {
        match ('\u{7f}'..='\u{9f}').contains(&letter) || is_layout_mark(letter) {
            true => escaped += &format!("\\u{:04x}", u32::from(letter)),
            false => escaped.push(letter),
        }
    }
    escaped
}

/// [`plain`], with a word for an empty value.
pub(crate) fn plain_value(text: &str) -> String {
    match text.is_empty() {
        true => "(empty)".to_owned(),
        false => plain(text),
    }
}

/// Quotes a word for a shell if necessary.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:,+@%".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Shortens a text to `columns` by leaving out its middle.
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

/// As many letters as fit into `columns`.
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
    fn shortening_keeps_both_ends() {
        assert_eq!(shortened("demo::Head", 10), "demo::Head");
        assert_eq!(shortened("demo::Head", 9), "demo…Head");
        assert_eq!(shortened("demo::Head", 2), "d…");
        // Wide letters are never split.
        for columns in 1..12 {
            let short = shortened("漢字漢字漢字", columns);
            assert!(display_width(&short) <= columns, "{short} in {columns}");
        }
    }

    #[test]
    fn control_characters_and_layout_marks_are_escaped() {
        assert_eq!(plain("größe\x1b[2J\n"), "größe\\u{1b}[2J\\n");
        assert_eq!(plain("a\u{202e}b\u{61c}"), "a\\u{202e}b\\u{61c}");
        assert_eq!(plain(plain("a\x1b\u{9b}b")), plain("a\x1b\u{9b}b"));
        let styled = "\x1b[1;31mbad\x1b[0m\n";
        assert_eq!(harmless(styled), styled);
        assert_eq!(harmless("a\x1b[2J\rb\x1b"), "a\\u{1b}[2J\\rb\\u{1b}");
        assert_eq!(escaped("\"a\u{7f}\u{9b}ö\""), "\"a\\u007f\\u009bö\"");
    }

    #[test]
    fn words_are_quoted_for_a_shell_if_necessary() {
        assert_eq!(quoted("a/b-1.2"), "a/b-1.2");
        assert_eq!(quoted("my caches"), "'my caches'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}
