//! The options of the attribute: their names, what each takes, and how a value is written. The
//! table of the library (`torchcache/src/options/table.rs`) has the same; a test compares them.

/// The start of the name of a field that overrides an option.
pub(crate) const OVERRIDE_PREFIX: &str = "torchcache_";

/// The longest `persistent_module_hash`.
pub(crate) const MAX_MODULE_HASH: usize = 128;

/// The names of the eviction policies, and the variants of `Eviction`.
pub(crate) const POLICIES: [(&str, &str); 3] =
    [("lru", "Lru"), ("never", "Never"), ("auto", "Auto")];

/// The variants of `tch::Kind` that floating-point outputs can be rounded to.
pub(crate) const FLOAT_KINDS: [&str; 4] = ["Half", "BFloat16", "Float", "Double"];

const TABLE: [(&str, OptionKind); 18] = [
    ("enabled", OptionKind::Flag),
    ("memory_cache_device", OptionKind::Device),
    ("max_memory_cache_size", OptionKind::Size { least: 0 }),
    ("eviction", OptionKind::Eviction),
    ("subsample_count", OptionKind::Count),
    ("persistent", OptionKind::Flag),
    ("persistent_cache_dir", OptionKind::Directory),
    ("persistent_module_hash", OptionKind::ModuleHash),
    ("max_persistent_cache_size", OptionKind::Size { least: 1 }),
    ("zstd_compression", OptionKind::Flag),
    ("zstd_compression_level", OptionKind::Level),
    ("zstd_compression_threads", OptionKind::Threads),
    ("cache_dtype", OptionKind::Dtype),
    ("use_mmap_on_load", OptionKind::Flag),
    ("version", OptionKind::Text),
    ("verify", OptionKind::Share),
    ("whole_batch", OptionKind::Flag),
    ("single_flight_timeout", OptionKind::Seconds),
];

/// The options that a single method takes as well.
pub(crate) const OF_METHODS: [&str; 4] =
    ["verify", "version", "whole_batch", "single_flight_timeout"];

/// What an option takes.
#[derive(Clone, Copy)]
pub(crate) enum OptionKind {
    Flag,
    Device,
    /// In bytes.
    Size {
        least: u64,
    },
    Eviction,
    Count,
    Directory,
    ModuleHash,
    Level,
    Threads,
    Dtype,
    Text,
    /// From 0.0 to 1.0.
    Share,
    /// From 0.0 to those of a day.
    Seconds,
}

impl OptionKind {
    /// The kind of the option called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let known = TABLE.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| kind)
    }

    /// A value as it is written.
    pub(crate) fn example(self) -> &'static str {
        match self {
            Self::Flag => "true",
            Self::Device => "Device::Cpu",
            Self::Size { .. } => "\"5 GB\"",
            Self::Eviction => "\"auto\"",
            Self::Count => "1000",
            Self::Directory => "\"features\"",
            Self::ModuleHash => "\"resnet18-v1\"",
            Self::Level => "3",
            Self::Threads => "1",
            Self::Dtype => "Kind::Half",
            Self::Text => "\"1\"",
            Self::Share => "0.01",
            Self::Seconds => "10.0",
        }
    }

    /// The values that are accepted, for messages.
    pub(crate) fn expected(self) -> String {
        let text = match self {
            Self::Flag => "`true` or `false`",
            Self::Device => "a device such as `Device::Cpu`, or `None`",
            Self::Size { least: 0 } => {
                "a size from 0 B to below 16 EiB, such as `5_000_000_000`, `5e9` or `\"5 GB\"`"
            }
            Self::Size { .. } => {
                "a size above 0 B and below 16 EiB, such as `5_000_000_000`, `5e9` or `\"5 GB\"`"
            }
            Self::Eviction => "`\"lru\"`, `\"never\"` or `\"auto\"`",
            Self::Count => "a whole number of at least 1, or `None`",
            Self::Directory => {
                "a path that is not empty, has no NUL and does not start with `~` or `$`, which only \
                 a shell expands, such as `\"features\"`; leave the option out for a private \
                 temporary directory"
            }
            Self::ModuleHash => {
                return format!(
                    "1 to {MAX_MODULE_HASH} letters, digits, `-`, `_` or `.`, not starting with \
                     `.`, since it names a directory; leave the option out to have it computed"
                );
            }
            Self::Level => "a whole number from -7 to 22",
            Self::Threads => "a whole number from 0 (one per core) to 256",
            Self::Dtype => {
                "`Kind::Half`, `Kind::BFloat16`, `Kind::Float`, `Kind::Double`, `Kind::Float8e4m3fn`, \
                 `Kind::Float8e5m2` or `Kind::QInt8`, to which floating-point outputs are rounded, or `None`"
            }
            Self::Text => "a string such as `\"1\"`",
            Self::Share => "a share from 0.0 (off) to 1.0, such as `0.01`",
            Self::Seconds => "seconds from 0.0 (off) to 86400.0 (a day), such as `10.0`",
        };
        text.to_owned()
    }
}

/// The names of all options.
pub(crate) fn names() -> [&'static str; TABLE.len()] {
    TABLE.map(|(name, _)| name)
}

/// The variant of `Eviction` that a policy's name stands for.
pub(crate) fn policy_named(name: &str) -> Option<&'static str> {
    let known = POLICIES.into_iter().find(|(known, _)| *known == name);
    known.map(|(_, variant)| variant)
}
