//! Pages of `docs/` with generated parts between markers. The text around them is written by hand.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

/// A page, relative to the root of the repository.
pub(crate) struct Page(pub(crate) &'static str);

impl Page {
    /// Replaces the text between the markers of a part.
    pub(crate) fn put(&self, root: &Path, part: &str, text: &str) -> Result<()> {
        let path = root.join(self.0);
        let put = || -> Result<()> {
            let page = fs::read_to_string(&path)?;
            let page = replaced(&page, part, text).ok_or_else(|| {
                let (begin, end) = markers(part);
                anyhow!("expected `{begin}` and after it `{end}`, once each")
            })?;
            Ok(fs::write(&path, page)?)
        };
        put().with_context(|| format!("cannot write a part of {}", path.display()))?;
        eprintln!("wrote the part {part} of {}", path.display());
        Ok(())
    }
}

fn replaced(page: &str, part: &str, text: &str) -> Option<String> {
    let (begin, end) = markers(part);
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    let once = page.matches(&begin).count() == 1 && page.matches(&end).count() == 1;
    once.then(|| format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

fn markers(part: &str) -> (String, String) {
    (
        format!("<!-- begin: {part} -->"),
        format!("<!-- end: {part} -->"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let page = |text: &str| {
            format!("# Page\n\n<!-- begin: one -->\n\n{text}\n\n<!-- end: one -->\n\nProse.\n")
        };
        assert_eq!(
            replaced(&page("first"), "one", "second\n"),
            Some(page("second"))
        );
    }

    #[test]
    fn markers_must_be_there_once_each_in_order() {
        let (begin, end) = markers("one");
        for page in [
            "text".to_owned(),
            format!("{begin}\ntext"),
            format!("text\n{end}"),
            format!("{end}\n{begin}"),
            format!("{begin}\n{end}\n{begin}\n{end}"),
        ] {
            assert_eq!(replaced(&page, "one", "x"), None, "{page}");
        }
    }
}
