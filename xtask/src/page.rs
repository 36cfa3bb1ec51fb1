//! Pages of `docs/` with parts between markers, which programs write, in whatever prose people have
//! put around them.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// A page, as the repository names it, and what it begins with when it is new.
pub(crate) struct Page {
    pub(crate) path: &'static str,
    pub(crate) heading: &'static str,
}

impl Page {
    /// Replaces a part of the page, or adds it at the end with its title.
    pub(crate) fn put(&self, root: &Path, name: &str, title: &str, text: &str) -> Result<()> {
        let path = root.join(self.path);
        let before = fs::read_to_string(&path).ok();
        let after = self.with_part(before.as_deref(), name, title, text)?;
        fs::write(&path, after).map_err(Error::io(format!("write {}", path.display())))?;
        eprintln!("wrote {}", path.display());
        Ok(())
    }

    fn with_part(&self, page: Option<&str>, name: &str, title: &str, text: &str) -> Result<String> {
        let (begin, end) = markers(name);
        let page = page.unwrap_or(self.heading);
        let body = format!("{begin}\n\n{}\n\n{end}", text.trim());
        match (page.split_once(&begin), page.matches(&begin).count()) {
            (None, _) if !page.contains(&end) => {
                let page = page.trim_end();
                Ok(format!("{page}\n\n## {title}\n\n{body}\n"))
            }
            (Some((before, rest)), 1) => match rest.split_once(&end) {
                Some((_, after)) => Ok(format!("{before}{body}{after}")),
                None => Err(self.torn(name)),
            },
            _ => Err(self.torn(name)),
        }
    }

    fn torn(&self, name: &str) -> Error {
        let (begin, end) = markers(name);
        Error::Failed(format!(
            "{} must hold `{begin}` and after it `{end}`, once each, or neither: mend it, or remove \
             both and the part is added at the end",
            self.path
        ))
    }
}

fn markers(name: &str) -> (String, String) {
    (
        format!("<!-- begin: {name} -->"),
        format!("<!-- end: {name} -->"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Page = Page {
        path: "docs/page.md",
        heading: "# Page\n",
    };

    #[test]
    fn a_new_page_gets_each_part_with_its_title() {
        let page = PAGE.with_part(None, "one", "One", "first\n").unwrap();
        let page = PAGE.with_part(Some(&page), "two", "Two", "second").unwrap();
        let expected = "# Page\n\n## One\n\n<!-- begin: one -->\n\nfirst\n\n<!-- end: one -->\n\n\
                        ## Two\n\n<!-- begin: two -->\n\nsecond\n\n<!-- end: two -->\n";
        assert_eq!(page, expected);
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = PAGE.with_part(None, "one", "One", "first").unwrap();
        let page = PAGE.with_part(Some(&page), "two", "Two", "second").unwrap();
        let page = page + "\nProse of someone.\n";
        let again = PAGE.with_part(Some(&page), "one", "One", "anew").unwrap();
        assert_eq!(again, page.replace("\nfirst\n", "\nanew\n"));
        let first = PAGE.with_part(Some(&again), "one", "One", "first").unwrap();
        assert_eq!(first, page);
    }

    #[test]
    fn a_page_with_one_marker_of_two_is_not_guessed_at() {
        let (begin, end) = markers("one");
        for page in [
            format!("{begin}\ntext"),
            format!("text\n{end}"),
            format!("{end}\n{begin}"),
            format!("{begin}\n{end}\n{begin}\n{end}"),
        ] {
            let Err(Error::Failed(text)) = PAGE.with_part(Some(&page), "one", "One", "x") else {
                panic!("accepted: {page}")
            };
            assert!(text.contains(&begin) && text.contains(PAGE.path), "{text}");
        }
    }
}
