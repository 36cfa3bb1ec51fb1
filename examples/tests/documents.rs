//! The README and the pages in `docs/` agree with the code: what they quote, list and link to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use torchcache::{Options, OptionsBuilder};

fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where this package is");
    Path::new(&package)
        .parent()
        .expect("examples/ lies in the root")
        .to_owned()
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of the fenced blocks in a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    let block = |text: &str| text.split("```").next().unwrap_or_default().to_owned();
    blocks.map(block).collect()
}

/// The cells of a table's rows whose first cell is code.
fn rows(page: &str, header: &str) -> Vec<Vec<String>> {
    let (_, table) = page.split_once(header).expect("the table is there");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect()
    };
    rows.map(cells).collect()
}

#[test]
fn the_example_of_the_readme_is_the_one_that_is_run() {
    let example = read("examples/readme.rs");
    let (_, code) = example.split_once("\n\n").expect("a header and the code");
    // In two blocks: the module, and how it is used.
    let shown = blocks(&read("README.md"), "rust");
    assert_eq!(format!("{}\n{}", shown[0], shown[1]), code);
}

#[test]
fn the_table_of_options_lists_every_option_with_its_default() {
    let options = format!("{:#?}", Options::default());
    let fields = options
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.split_once(": "));
    let known: Vec<_> = fields.map(|(name, _)| name).collect();
    let rows = rows(&read("README.md"), "| option | default |");
    let listed: Vec<_> = rows.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(listed, known);

    let defaults = Options::default();
    let default_of = |name: &str| match name {
        "enabled" => defaults.enabled().to_string(),
        "memory_cache_device" => format!("Device::{:?}", defaults.memory_cache_device().unwrap()),
        "max_memory_cache_size" => {
            format!("{} GB", defaults.max_memory_cache_size() / 1_000_000_000)
        }
        "eviction" => format!("{:?}", format!("{:?}", defaults.eviction()).to_lowercase()),
        "subsample_count" => format!("{:?}", defaults.subsample_count()),
        "persistent" => defaults.persistent().to_string(),
        "persistent_cache_dir" => format!("{:?}", defaults.persistent_cache_dir()),
        "persistent_module_hash" => format!("{:?}", defaults.persistent_module_hash()),
        "max_persistent_cache_size" => {
            format!(
                "{} GB",
                defaults.max_persistent_cache_size() / 1_000_000_000
            )
        }
        "zstd_compression" => defaults.zstd_compression().to_string(),
        "zstd_compression_level" => defaults.zstd_compression_level().to_string(),
        "zstd_compression_threads" => defaults.zstd_compression_threads().to_string(),
        "cache_dtype" => format!("{:?}", defaults.cache_dtype()),
        "use_mmap_on_load" => defaults.use_mmap_on_load().to_string(),
        "version" => format!("{:?}", defaults.version()),
        "verify" => format!("{:?}", defaults.verify()),
        other => panic!("{other} is new: say its default here"),
    };
    for row in &rows {
        assert_eq!(row[1], default_of(&row[0]), "default of {}", row[0]);
    }
}

#[test]
fn the_options_said_to_be_in_the_identity_are_those_that_change_it() {
    let yes: Vec<_> = rows(&read("README.md"), "| option | default |")
        .into_iter()
        .filter(|row| row[3] == "yes")
        .map(|row| row[0].clone())
        .collect();
    assert_eq!(yes, ["subsample_count", "cache_dtype", "version"]);
    let hash = |options: OptionsBuilder| {
        let options = options.version("1").build().unwrap();
        let cached = torchcache::Cached::new(tch::nn::func(tch::Tensor::relu), (), options);
        let cached = cached.unwrap();
        let _ = cached.forward(&tch::Tensor::from_slice(&[1.0f32]));
        cached.cache().module_hash()
    };
    let plain = hash(Options::builder());
    assert_eq!(
        hash(
            Options::builder()
                .max_memory_cache_size("3 MB")
                .eviction(torchcache::Eviction::Never)
                .verify(0.5)
        ),
        plain
    );
    assert_ne!(hash(Options::builder().subsample_count(4)), plain);
    assert_ne!(hash(Options::builder().cache_dtype(tch::Kind::Half)), plain);
}

/// The sources that lie directly in a folder.
fn sources(folder: &str) -> BTreeSet<String> {
    let entries =
        fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let sources = names.filter(|name| name.ends_with(".rs"));
    sources.map(|name| format!("{folder}{name}")).collect()
}

#[test]
fn the_tree_in_the_architecture_page_is_the_tree() {
    let page = read("docs/architecture.md");
    let (mut listed, mut found) = (BTreeSet::new(), BTreeSet::new());
    let mut folder = "";
    for line in blocks(&page, "text")[0].lines() {
        if line.starts_with(' ') {
            let (file, description) = line.trim().split_once(' ').expect("a file and what it is");
            assert!(!description.trim().is_empty(), "{file} has no description");
            listed.insert(format!("{folder}{file}"));
        } else {
            folder = line;
            found.extend(sources(folder));
        }
    }
    let missing: Vec<_> = found.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&found).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not listed: {missing:?}; listed but not there: {gone:?}"
    );
    for package in [
        "torchcache",
        "torchcache-macros",
        "torchcache-store",
        "torchcache-cli",
        "xtask",
    ] {
        let folders = fs::read_dir(root().join(package).join("src")).unwrap();
        let folders = folders
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.path().is_dir());
        for folder in folders.map(|entry| entry.file_name().into_string().unwrap()) {
            let line = format!("\n{package}/src/{folder}/\n");
            assert!(
                folder == "tests" || page.contains(&line),
                "{package}/src/{folder} is not listed"
            );
        }
    }
}

#[test]
fn links_lead_to_files_that_are_there() {
    for page in [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/guide.md",
        "docs/reliability.md",
        "docs/cli.md",
        "examples/data/digits/README.md",
        "examples/data/wordnet/README.md",
        "examples/semantic_search/README.md",
    ] {
        let folder = root().join(page);
        let folder = folder.parent().unwrap();
        for link in read(page)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = link.split('#').next().unwrap();
            if !file.contains("://") {
                assert!(folder.join(file).exists(), "{page} links to {link}");
            }
        }
    }
}

#[test]
fn files_named_in_the_architecture_page_are_there() {
    let page = read("docs/architecture.md");
    for name in page
        .split('`')
        .filter(|name| name.contains('/') && !name.contains(char::is_whitespace))
    {
        assert!(
            root().join(name).exists() || name == "target/" || name == "src/tests/",
            "{name}"
        );
    }
}

#[test]
fn messages_quoted_in_the_guide_are_those_of_the_code() {
    let guide = read("docs/guide.md").replace('\n', " ");
    let code = read("torchcache/src/error.rs") + &read("torchcache/src/identity/manifest.rs");
    for quoted in [
        "requires grad while gradients are recorded",
        "the output requires grad although no parameter that the cache watches does",
        "the weights of `fc.ws` changed; code, fields and options did not",
    ] {
        assert!(guide.contains(quoted), "guide: {quoted}");
        assert!(code.contains(quoted), "code: {quoted}");
    }
}
