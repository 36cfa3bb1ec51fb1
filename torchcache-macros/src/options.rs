//! The options of the attribute: their names, what each takes, and how a value is written. The
//! table of the library (`torchcache/src/options/table.rs`) has the same; a test compares them.

/// The start of the name of a field that overrides an option.
pub(crate) const OVERRIDE_PREFIX: &str = "torchcache_";

/// The longest `persistent_module_hash`.
pub(crate) const MAX_MODULE_HASH: usize = 128;

/// An enum of the library whose variants are written as text.
#[derive(Clone, Copy)]
pub(crate) struct Choice {
    /// What a variant is called in messages.
    pub(crate) what: &'static str,
    /// The name of the enum.
    pub(crate) type_name: &'static str,
    /// The text of each variant, and its name.
    pub(crate) variants: [(&'static str, &'static str); 3],
}

const EVICTION: Choice = Choice {
    what: "eviction policy",
    type_name: "Eviction",
    variants: [("lru", "Lru"), ("never", "Never"), ("auto", "Auto")],
};

const REMOTE_MODE: Choice = Choice {
    what: "remote mode",
    type_name: "RemoteMode",
    variants: [
        ("read-write", "ReadWrite"),
        ("read-only", "ReadOnly"),
        ("write-only", "WriteOnly"),
    ],
};

/// The variants of `tch::Kind` that floating-point outputs can be rounded to.
pub(crate) const FLOAT_KINDS: [&str; 4] = ["Half", "BFloat16", "Float", "Double"];

const TABLE: [(&str, OptionKind); 21] = [
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
    ("remote", OptionKind::Url),
    ("remote_mode", OptionKind::RemoteMode),
    ("remote_timeout", OptionKind::Seconds),
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
    /// Of an object store.
    Url,
    RemoteMode,
}

impl OptionKind {
    /// The kind of the option called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let known = TABLE.into_iter().find(|(known, _)| *known == name);
        known.map(|(_, kind)| kind)
    }

    /// The enum that it takes, if it is one.
    pub(crate) fn choice(self) -> Option<Choice> {
        match self {
            Self::Eviction => Some(EVICTION),
            Self::RemoteMode => Some(REMOTE_MODE),
            _ => None,
        }
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
            Self::Url => "\"s3://bucket/prefix\"",
            Self::RemoteMode => "\"read-only\"",
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
            Self::Url => "the URL of an object store, such as `\"s3://bucket/prefix\"`",
            Self::RemoteMode => "`\"read-write\"`, `\"read-only\"` or `\"write-only\"`",
        };
        text.to_owned()
    }
}

/// The names of all options.
pub(crate) fn names() -> [&'static str; TABLE.len()] {
    TABLE.map(|(name, _)| name)
}

impl Choice {
    /// The variant that this text stands for.
    pub(crate) fn variant(self, text: &str) -> Option<&'static str> {
        let known = self.variants.into_iter().find(|(known, _)| *known == text);
        known.map(|(_, variant)| variant)
    }
}
