//! The README and the pages agree with the code: what they quote, name and link to.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&package).parent();
    root.expect("examples/ is in the root").to_owned()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page of the repository, relative to its root.
fn pages() -> Vec<PathBuf> {
    fn walk(folder: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = folder.join(&name);
            let is_hidden = name.to_string_lossy().starts_with('.');
            if root().join(&path).is_dir() {
                if !is_hidden && name != "target" && name != "cuda-bundle" {
                    walk(&path, pages);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages = Vec::new();
    walk(Path::new(""), &mut pages);
    pages
}

#[test]
fn the_readme_shows_the_example_that_is_run() {
    let example = read("examples/readme.rs");
    let (_, code) = example.split_once("\n\n").expect("a header and the code");
    assert!(read("README.md").contains(&format!("```rust\n{code}```\n")));
}

#[test]
fn links_lead_to_existing_files() {
    let pages = pages();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let folder = page.parent().unwrap();
        let text = read(&page);
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split(')').next()) {
            let file = root().join(folder).join(link.split('#').next().unwrap());
            let is_outside = link.contains("://") || link.starts_with("mailto:");
            assert!(
                is_outside || file.exists(),
                "{} links to {link}",
                page.display()
            );
        }
    }
}

#[test]
fn files_named_in_pages_exist() {
    let folders = [
        "torchcache",
        "tests/",
        "examples/",
        "benches/",
        "docs/",
        "xtask/",
        ".cargo/",
    ];
    for page in pages() {
        let text = read(&page);
        // Names of the repository's files; others are of users' files or patterns.
        let names = text.split('`').skip(1).step_by(2).filter(|name| {
            name.contains('/')
                && folders.iter().any(|folder| name.starts_with(folder))
                && !name.contains(|c: char| c.is_whitespace() || "{}*<>$…".contains(c))
        });
        for name in names {
            let exists = [root(), root().join(page.parent().unwrap())]
                .map(|folder| folder.join(name).exists());
            assert!(exists.contains(&true), "{} names {name}", page.display());
        }
    }
}

#[test]
fn messages_quoted_in_the_guide_are_those_of_the_code() {
    let guide = read("docs/guide.md").replace('\n', " ");
    let code = read("torchcache/src/error.rs") + &read("torchcache/src/identity/manifest.rs");
    for quoted in [
        "requires grad while gradients are recorded",
        "the output requires grad although no watched parameter does",
        "the weights of `fc.ws` changed; fields and options did not",
    ] {
        assert!(guide.contains(quoted), "guide: {quoted}");
        assert!(code.contains(quoted), "code: {quoted}");
    }
}
