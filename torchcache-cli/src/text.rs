//! Text for a terminal: escaped, shortened, quoted. Names and values come from files that other users may
//! have written, so none may move the cursor or reorder a line.

use std::fmt::Display;
use std::path::Path;

use indicatif::HumanCount;
use torchcache_store::admin::name_text;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// Whether a letter changes the direction of text or ends a line, without being a control character.
fn is_layout_mark(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A path as text, which no other path has: bytes that are not UTF-8, and backslashes, are written as `\xNN`.
pub(crate) fn path_text(path: &Path) -> String {
    name_text(path.as_os_str())
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

/// The columns that a text without styles takes on a terminal: the sum over its grapheme clusters. The
/// letters of a cluster do not add up: a variation selector, for one, makes its letter wide.
pub(crate) fn width(text: &str) -> usize {
    text.graphemes(true).map(UnicodeWidthStr::width).sum()
}

/// Shortens a text to `columns` by leaving out its middle, in whole grapheme clusters.
pub(crate) fn shortened(text: &str, columns: usize) -> String {
    shortened_by(text, columns, UnicodeWidthStr::width)
}

/// [`shortened`], with the width of a cluster from `width_of`, which is called once for each.
fn shortened_by(text: &str, columns: usize, width_of: impl FnMut(&str) -> usize) -> String {
    let clusters: Vec<&str> = text.graphemes(true).collect();
    let widths: Vec<usize> = clusters.iter().copied().map(width_of).collect();
    if widths.iter().sum::<usize>() <= columns {
        return text.to_owned();
    }
    // Less than the whole text fits, so that begin and end do not overlap.
    let Some(room) = columns.checked_sub(1) else {
        return String::new();
    };
    let (at_end, end_width) = fitting(widths.iter().rev(), room / 2);
    let (at_begin, _) = fitting(widths.iter(), room - end_width);
    let begin = clusters[..at_begin].concat();
    let end = clusters[clusters.len() - at_end..].concat();
    format!("{begin}…{end}")
}

/// How many of these fit into `columns`, and their sum.
fn fitting<'w>(widths: impl Iterator<Item = &'w usize>, columns: usize) -> (usize, usize) {
    let sums = widths.scan(0, |sum, width| {
        *sum += width;
        Some(*sum)
    });
    let fitting = sums.take_while(|&sum| sum <= columns);
    fitting.fold((0, 0), |(count, _), sum| (count + 1, sum))
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
    use proptest::prelude::*;
    use torchcache_faults::cases::random;

    use super::*;

    #[test]
    fn shortening_keeps_both_ends() {
        assert_eq!(shortened("demo::Head", 10), "demo::Head");
        assert_eq!(shortened("demo::Head", 9), "demo…Head");
        assert_eq!(shortened("demo::Head", 2), "d…");
        assert_eq!(shortened("demo::Head", 0), "");
    }

    /// Clusters whose letters have other widths alone than together, and letters that join their neighbours.
    const CLUSTERS: [&str; 20] = [
        "a",
        "漢",
        "e\u{301}",
        "\u{301}",
        "❤\u{fe0f}",
        "☎\u{fe0e}",
        "1\u{fe0f}\u{20e3}",
        "#\u{20e3}",
        "🇩🇪",
        "🇫",
        "👨\u{200d}👩\u{200d}👧",
        "👍🏽",
        "\u{200d}",
        "\u{200b}",
        "\u{fe0f}",
        "नि",
        "각",
        "שׁ",
        "لا",
        "\u{600}",
    ];

    proptest! {
        #![proptest_config(random(1000))]

        #[test]
        fn any_text_is_shortened_to_any_width(
            picked in prop::collection::vec(prop_oneof![
                prop::sample::select(&CLUSTERS[..]).prop_map(str::to_owned),
                any::<char>().prop_map(String::from),
            ], 0..60),
            columns in 1..200usize,
        ) {
            let text = plain(picked.concat().replace('…', ""));
            let short = shortened(&text, columns);
            prop_assert!(width(&short) <= columns && short.width() <= columns, "{short:?} in {columns}");
            match width(&text) <= columns {
                true => prop_assert_eq!(short, text),
                false => {
                    // The part left out begins and ends between clusters, and is no longer than need be.
                    let (begin, end) = short.split_once('…').unwrap();
                    let (begin, end) = (begin.len(), text.len() - end.len());
                    let bounds: Vec<_> = text.grapheme_indices(true).map(|(at, _)| at).collect();
                    let is_bound = |at| at == text.len() || bounds.contains(&at);
                    prop_assert!(begin < end && is_bound(begin) && is_bound(end), "{short:?} of {text:?}");
                    let widest = text.graphemes(true).map(|cluster| cluster.width()).max();
                    prop_assert!(width(&short) + 2 * widest.unwrap() > columns, "{short:?} in {columns}");
                }
            }
        }
    }

    #[test]
    fn each_cluster_is_measured_once() {
        for text in [
            "\u{200b}".repeat(40_000),
            format!("a{}", "\u{301}".repeat(40_000)),
            "ab".repeat(20_000),
        ] {
            for columns in [0, 1, 12, 39_999] {
                let mut measured = 0;
                shortened_by(&text, columns, |cluster| {
                    measured += cluster.len();
                    cluster.width()
                });
                assert_eq!(measured, text.len());
            }
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
