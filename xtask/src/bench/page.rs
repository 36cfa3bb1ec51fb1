//! `docs/benchmarks.md`: parts between markers, which their benchmarks write, in whatever prose
//! people have put around them.

use crate::bench::parts::Part;
use crate::error::{Error, Result};

/// The page before its first part.
const NEW: &str = "# Benchmarks\n";

/// The page with one part replaced, or added at the end with its title.
pub(crate) fn with_part(page: Option<&str>, part: &Part, text: &str) -> Result<String> {
    let (begin, end) = markers(part.name);
    let page = page.unwrap_or(NEW);
    let body = format!("{begin}\n\n{}\n\n{end}", text.trim());
    match (page.split_once(&begin), page.matches(&begin).count()) {
        (None, _) if !page.contains(&end) => {
            let page = page.trim_end();
            Ok(format!("{page}\n\n## {}\n\n{body}\n", part.title))
        }
        (Some((before, rest)), 1) => match rest.split_once(&end) {
            Some((_, after)) => Ok(format!("{before}{body}{after}")),
            None => Err(torn(part)),
        },
        _ => Err(torn(part)),
    }
}

fn markers(name: &str) -> (String, String) {
    (
        format!("<!-- begin: {name} -->"),
        format!("<!-- end: {name} -->"),
    )
}

fn torn(part: &Part) -> Error {
    let (begin, end) = markers(part.name);
    Error::Failed(format!(
        "docs/benchmarks.md must hold `{begin}` and after it `{end}`, once each, or neither: mend \
         it, or remove both and the part is added at the end"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::parts::PARTS;

    #[test]
    fn a_new_page_gets_each_part_with_its_title() {
        let [one, two, ..] = &PARTS;
        let page = with_part(None, one, "first\n").unwrap();
        let page = with_part(Some(&page), two, "second").unwrap();
        let expected = format!(
            "# Benchmarks\n\n## {}\n\n<!-- begin: {} -->\n\nfirst\n\n<!-- end: {} -->\n\n## {}\n\n\
             <!-- begin: {} -->\n\nsecond\n\n<!-- end: {} -->\n",
            one.title, one.name, one.name, two.title, two.name, two.name
        );
        assert_eq!(page, expected);
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let [one, two, ..] = &PARTS;
        let page = with_part(None, one, "first").unwrap();
        let page = with_part(Some(&page), two, "second").unwrap() + "\nProse of someone.\n";
        let again = with_part(Some(&page), one, "anew").unwrap();
        assert_eq!(again, page.replace("\nfirst\n", "\nanew\n"));
        assert_eq!(with_part(Some(&again), one, "first").unwrap(), page);
    }

    #[test]
    fn a_page_with_one_marker_of_two_is_not_guessed_at() {
        let part = &PARTS[0];
        let (begin, end) = markers(part.name);
        for page in [
            format!("{begin}\ntext"),
            format!("text\n{end}"),
            format!("{end}\n{begin}"),
            format!("{begin}\n{end}\n{begin}\n{end}"),
        ] {
            let Err(Error::Failed(text)) = with_part(Some(&page), part, "x") else {
                panic!("accepted: {page}")
            };
            assert!(text.contains(&begin), "{text}");
        }
    }
}
