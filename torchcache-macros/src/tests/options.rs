//! The table of options against that of the library, which makes the option builder.

use crate::options::{OptionKind, names};

/// How the library's table writes a kind.
fn library_kind(kind: OptionKind) -> &'static str {
    match kind {
        OptionKind::Flag => "copy bool",
        OptionKind::Device => "optional Device",
        OptionKind::Size { least: 0 } => "size",
        OptionKind::Size { .. } => "bound",
        OptionKind::Eviction => "copy Eviction",
        OptionKind::Count => "optional usize",
        OptionKind::Directory => "optional path",
        OptionKind::ModuleHash => "optional text",
        OptionKind::Level => "copy i32",
        OptionKind::Threads => "copy u32",
        OptionKind::Dtype => "optional Kind",
        OptionKind::Text => "text",
        OptionKind::Share | OptionKind::Seconds => "copy f64",
        OptionKind::Url => "url",
        OptionKind::RemoteMode => "copy RemoteMode",
    }
}

#[test]
fn the_attribute_and_the_library_have_the_same_options() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../torchcache/src/options/table.rs"
    );
    let table = std::fs::read_to_string(path).unwrap();
    let library = table.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(": [")?;
        let (kind, _) = rest.split_once("] = ")?;
        (!name.starts_with('/')).then_some((name, kind))
    });
    let own = names().map(|name| (name, library_kind(OptionKind::from_name(name).unwrap())));
    assert_eq!(library.collect::<Vec<_>>(), own);
}
