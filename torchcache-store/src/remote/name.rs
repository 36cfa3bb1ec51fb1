//! The keys of objects: where those of a cache are, and what the name of a segment says.

use std::fmt::{self, Display};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::read_marks::ReadMark;
use crate::fs::temp_file::SUFFIX;
use crate::manifest;
use crate::segment::{ROW_LEN, TRAILER_LEN, VERSION};

/// The version of the layout, in every key.
const LAYOUT: &str = "torchcache-1";

/// The name of an object that is a segment: `<ns>-<pid>-<rand64>-<footer bytes>.tcs`, all hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectName {
    /// When it was named, by the clock of its writer. First, so that names sort by age.
    pub(crate) nanos: u64,
    process: u32,
    random: u64,
    /// The length of the footer, if the name does not lie.
    pub(crate) footer_bytes: u32,
}

impl ObjectName {
    /// A name that no other object has.
    pub(crate) fn new(nanos: u64, footer_bytes: u32) -> ObjectName {
        ObjectName {
            nanos,
            process: std::process::id(),
            random: random(nanos),
            footer_bytes,
        }
    }

    /// The name of the object that joins these: the same for the same sources, in any order. It is as old as the newest of
    /// them.
    pub(crate) fn joined(sources: &[ObjectName], footer_bytes: u32) -> ObjectName {
        let mut sorted: Vec<ObjectName> = sources.to_vec();
        sorted.sort_unstable();
        // Another version of the format may join them to other bytes.
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("joined, version {VERSION}\n").as_bytes());
        for source in &sorted {
            hasher.update(format!("{source}\n").as_bytes());
        }
        let hash = hasher.finalize();
        ObjectName {
            nanos: sorted.last().map_or(0, |newest| newest.nanos),
            process: 0,
            random: u64::from_le_bytes(std::array::from_fn(|i| hash.as_bytes()[i])),
            footer_bytes,
        }
    }

    /// The parts of a name that is written exactly as [`Display`] writes it.
    pub(crate) fn parse(name: &str) -> Option<ObjectName> {
        let mut parts = name.strip_suffix(SUFFIX)?.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let parsed = ObjectName {
            nanos: number()?,
            process: number()?.try_into().ok()?,
            random: number()?,
            footer_bytes: number()?.try_into().ok()?,
        };
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The bytes of footer and trailer, which end the object.
    pub(crate) fn tail_bytes(&self) -> u64 {
        u64::from(self.footer_bytes) + TRAILER_LEN as u64
    }

    /// The most rows that the segment can have.
    pub(crate) fn max_rows(&self) -> usize {
        self.footer_bytes as usize / ROW_LEN
    }
}

impl Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName {
            nanos,
            process,
            random,
            footer_bytes,
        } = self;
        write!(
            f,
            "{nanos:016x}-{process:x}-{random:016x}-{footer_bytes:x}{SUFFIX}"
        )
    }
}

/// 64 random bits.
pub(crate) fn random(seed: u64) -> u64 {
    RandomState::new().hash_one(seed)
}

/// A value of the hint that no one has set before.
pub(crate) fn new_hint() -> Vec<u8> {
    [0, 1].map(|seed| random(seed).to_le_bytes()).concat()
}

/// Where the objects of a cache are: `<prefix>/torchcache-1/<module hash>/`.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: String,
}

impl Layout {
    pub(crate) fn new(prefix: &str, module_hash: &str) -> Layout {
        let caches = Layout::caches(prefix);
        Layout {
            root: format!("{caches}{module_hash}/"),
        }
    }

    /// What the keys of all caches begin with.
    pub(crate) fn caches(prefix: &str) -> String {
        let prefix = prefix.trim_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        format!("{prefix}{slash}{LAYOUT}/")
    }

    /// What all keys of the cache begin with.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// What the keys of compaction records begin with.
    pub(crate) fn compactions(&self) -> String {
        format!("{}c/", self.root)
    }

    /// Which segments a segment joins.
    pub(crate) fn compaction(&self, joined: &ObjectName) -> String {
        format!("{}c/{joined}", self.root)
    }

    /// What the keys of segments begin with.
    pub(crate) fn segments(&self) -> String {
        format!("{}s/", self.root)
    }

    pub(crate) fn segment(&self, name: &ObjectName) -> String {
        format!("{}s/{name}", self.root)
    }

    /// The least key of segments that were named `margin` before this time or later.
    pub(crate) fn segments_since(&self, nanos: u64, margin: Duration) -> String {
        let margin = u64::try_from(margin.as_nanos()).unwrap_or(u64::MAX);
        format!("{}s/{:016x}", self.root, nanos.saturating_sub(margin))
    }

    /// What a machine read on a day.
    pub(crate) fn read_mark(&self, mark: &ReadMark) -> String {
        format!("{}r/{mark}", self.root)
    }

    /// What went into the module hash.
    pub(crate) fn manifest(&self) -> String {
        format!("{}{}", self.root, manifest::FILE)
    }

    /// The hint that segments were added.
    pub(crate) fn latest(&self) -> String {
        format!("{}latest", self.root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_no_others_are() {
        let name = ObjectName::new(0x18bd_1c2f_9a3e_4d50, 0x2a8);
        let text = name.to_string();
        assert_eq!(ObjectName::parse(&text), Some(name));
        assert_eq!((name.tail_bytes(), name.max_rows()), (0x2a8 + 48, 17));
        let good = "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8.tcs";
        assert!(ObjectName::parse(good).is_some());
        for bad in [
            "",
            ".tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845.tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8-1.tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-02a8.tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-+2a8.tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2A8.tcs",
            "18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-1000002a8.tcs",
            "8bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8.tcs",
            "018bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8.tcs",
            "18bd1c2f9a3e4d50-001f4a-9c0e6b7d21f3a845-2a8.tcs",
            "18bd1c2f9a3e4d50-1f4a-c0e6b7d21f3a845-2a8.tcs",
            "x/18bd1c2f9a3e4d50-1f4a-9c0e6b7d21f3a845-2a8.tcs",
        ] {
            assert_eq!(ObjectName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_are_below_the_prefix_and_sort_by_age() {
        for (prefix, start) in [("", ""), ("/", ""), ("a", "a/"), ("/team/x/", "team/x/")] {
            let layout = Layout::new(prefix, "feed");
            assert_eq!(layout.latest(), format!("{start}torchcache-1/feed/latest"));
            let old = layout.segment(&ObjectName::new(1 << 60, u32::MAX));
            let new = layout.segment(&ObjectName::new((1 << 60) + 2, 0));
            let between = layout.segments_since((1 << 60) + 11, Duration::from_nanos(10));
            assert!(old < between && between < new, "{old} {between} {new}");
            assert!(old.starts_with(&layout.segments()));
            assert!(layout.segments_since(5, Duration::from_secs(1)) < old);
        }
    }
}
