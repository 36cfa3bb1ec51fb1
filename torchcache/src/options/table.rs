//! The table of options. Fields, getters, builder methods, override fields and the table in the
//! documentation are made from it. A test compares the attribute's own table with it.

/// Calls `$callback` with the table: documentation whose first line is a summary, then the name, the
/// kind, the default and the default as text of each option.
macro_rules! for_each_option {
    ($callback:ident) => {
        $callback! {
            /// Whether calls use the cache.
            enabled: [copy bool] = true, "true";

            /// The device that rows are kept on in memory; `None` is that of the output.
            memory_cache_device: [optional Device] = Some(Device::Cpu), "Device::Cpu";

            /// The bound of the memory tier in bytes, keys and bookkeeping included.
            ///
            /// Caches with one module hash and directory share memory and bound: the latest setting holds.
            /// On the CPU all caches of the process share the bound `TORCHCACHE_MAX_MEMORY` as well, by
            /// default half of the memory of the machine or of the limit of its control group.
            max_memory_cache_size: [size] = 1_000_000_000, "1 GB";

            /// What a full tier does.
            eviction: [copy Eviction] = Eviction::Auto, "\"auto\"";

            /// The number of elements hashed per row and tensor, evenly spaced; `None` is all.
            ///
            /// Part of the identity. Rows that differ only between these elements share a key: leave
            /// it `None` unless that cannot happen.
            subsample_count: [optional usize] = None, "None";

            /// Whether rows are kept on disk as well.
            persistent: [copy bool] = false, "false";

            /// The directory of the disk tier.
            ///
            /// `None` is `TORCHCACHE_DIR` where that is set, else a private temporary directory that
            /// is removed at exit, which is logged as a warning. `~` and variables are not expanded.
            persistent_cache_dir: [optional path] = None, "None";

            /// The module hash, instead of one computed from code and weights.
            ///
            /// Rows are kept apart by the path and name of the annotated type or function only; those of
            /// [`Cached`](crate::Cached) modules are shared.
            persistent_module_hash: [optional text] = None, "None";

            /// The bound in bytes of what is on disk, rows of earlier runs included.
            ///
            /// Set, it bounds the directory that you name, all module hashes together: the segments that
            /// were read least recently are removed, whichever hash they are of. Of the caches of a
            /// process that share a directory, the largest bound holds. Not set, each module hash has a
            /// bound of its own.
            max_persistent_cache_size: [bound] = 10_000_000_000, "10 GB";

            /// Whether rows are compressed on disk; needs `persistent`.
            zstd_compression: [copy bool] = false, "false";

            /// The zstd level, from -7 to 22.
            zstd_compression_level: [copy i32] = 3, "3";

            /// The number of threads that compress, up to 256; 0 is one per core.
            zstd_compression_threads: [copy u32] = 1, "1";

            /// The kind that floating-point outputs are rounded to; `None` is as computed.
            ///
            /// Part of the identity. Every returned value is rounded, that of the computing call
            /// included, and returned in the forward's own kind. A call with a value that the kind cannot hold
            /// bypasses the cache: a finite one that would be infinite, and NaN and infinity where the kind lacks them.
            ///
            /// | kind | bytes | largest error | beyond it |
            /// | --- | --- | --- | --- |
            /// | `Double` | 8 | 2^-53 of the value | |
            /// | `Float` | 4 | 2^-24 of the value | 2^128 - 2^103 or more |
            /// | `Half` | 2 | 2^-11 of the value, from 2^-14 on | 65,520 or more |
            /// | `BFloat16` | 2 | 2^-8 of the value | 2^128 - 2^119 or more |
            /// | `Float8e5m2` | 1 | 2^-3 of the value, from 2^-14 on; 2^-17 below | 61,440 or more |
            /// | `Float8e4m3fn` | 1 | 2^-4 of the value, from 2^-6 on; 2^-10 below | more than 464; infinity |
            /// | `QInt8` | 1, and 4 a row and tensor | 1/254 of the row's largest value | infinity, NaN |
            ///
            /// `QInt8` stores the row of each tensor as integers from -127 to 127 and their scale, an `f32`: the
            /// largest absolute value of the row / 127, and at least 2^-126, so that errors of 2^-127 are possible in
            /// rows of smaller numbers. The arithmetic is that of `Float`, which adds up to 2^-22 of the row's largest
            /// value; the value is then rounded to the forward's kind. Rows that would not be smaller, such as a single
            /// `Float`, are stored as they are.
            cache_dtype: [optional Kind] = None, "None";

            /// Whether segments are read through `mmap` instead of `pread`.
            ///
            /// If another program truncates a segment while it is mapped, the process is killed
            /// (SIGBUS): leave it off where others write to the directory, and on network file
            /// systems.
            use_mmap_on_load: [copy bool] = false, "false";

            /// A salt, to change when code outside of the identity has changed, such as a helper.
            ///
            /// Part of the identity.
            version: [text] = "", "\"\"";

            /// The share of hits, from 0.0 to 1.0, that are computed again and compared.
            ///
            /// Hits are drawn at random; those of a call are computed in one forward of their own. Rows
            /// that disagree are counted in [`Stats::mismatched`](crate::Stats::mismatched) and the
            /// first is logged; the call returns the cached rows in any case. A mismatch means that a
            /// row does not depend on itself alone (a module in train mode, dropout, a mean over the
            /// batch, which shows with a share below 1.0) or that code outside of the identity has
            /// changed.
            ///
            /// Values agree within 1e-5, plus, relative to the largest value of the row, 2.6e-4 for
            /// `Float`, 2e-2 for `Half` and 3.2e-2 for `BFloat16`; within 1e-7 plus a relative 1e-7
            /// for `Double`; exactly for integers and `Bool`. Complex kinds are compared by their
            /// parts, rounded rows as the coarser kind: within a relative 0.25 for `Float8e5m2`, 0.125 for
            /// `Float8e4m3fn` and 8.4e-3 for `QInt8`, which is a unit.
            ///
            /// Quantized rows may be off by one, or by two if they have an offset too, plus what the kind of
            /// their scale allows. These are rows of `Int8`, `Uint8` or `Int16` that reach the end of the
            /// range (127, 254 or 32,767), as those do that are scaled by their own largest value, next to a
            /// positive float for all or for equal parts of them in the same output; those of `Uint8` also
            /// have another value above 127. Other integers, such as maps of classes next to logits or to a
            /// score, are compared exactly, also where 255 stands for no class, unless another class is
            /// above 127.
            ///
            /// ```
            /// use tch::{Device, Kind, Tensor, nn};
            /// use torchcache::{Cached, Options};
            ///
            /// let noisy = nn::func(|xs| xs.dropout(0.1, true));
            /// let noisy = Cached::new(noisy, (), Options::builder().verify(1.0).build()?)?;
            /// let xs = Tensor::rand([8, 100], (Kind::Float, Device::Cpu));
            /// noisy.forward(&xs);
            /// noisy.forward(&xs);
            /// let stats = noisy.cache().stats();
            /// assert_eq!((stats.verified, stats.mismatched), (8, 8));
            /// # Ok::<(), torchcache::Error>(())
            /// ```
            verify: [copy f64] = 0.0, "0.0";

            /// Whether a call with missing rows runs the forward on its whole batch.
            ///
            /// By default the forward gets the missing rows alone. Set it for a module that only takes
            /// whole batches, such as one traced with a fixed batch size. Missing rows are then stored,
            /// and the others keep their cached value.
            whole_batch: [copy bool] = false, "false";

            /// How many seconds a call waits for rows that another thread computes; 0.0 neither waits nor is waited for.
            ///
            /// Threads that miss a row at the same time compute it once. A call computes what it is first to
            /// miss, and then waits for the other rows. It computes those itself where it waited for this long,
            /// or the other thread failed, or the module changed, and counts the others in
            /// [`Stats::awaited`](crate::Stats::awaited). A call waits for none while others may wait for one that it is
            /// inside of, nor where it runs on its whole batch anyway.
            ///
            /// Set it to 0.0 for a body that waits for threads which call the same cache.
            single_flight_timeout: [copy f64] = 10.0, "10.0";

            /// The object store that machines share rows through; needs `persistent` and the feature `remote`.
            ///
            /// `s3://bucket/prefix` or `file:///directory`; `gs://bucket/prefix` with the feature `gcs`, and
            /// `az://container/prefix` with `azure`. `None` is `TORCHCACHE_REMOTE` where that is set, which a cache that is
            /// not persistent ignores. Endpoint, region and credentials are those of the variables that the cloud's own tools
            /// use, such as `AWS_ENDPOINT_URL`. Not part of the identity.
            ///
            /// Rows that are neither in memory nor on disk are looked up there, and those found are kept on disk and in
            /// memory. Rows that this process computes are uploaded in the background:
            /// [`flush_remote`](crate::TorchCache::flush_remote) waits for that. A failure of the remote makes rows misses,
            /// and calls wait for it no longer than [`remote_timeout`](Self::remote_timeout). Where the forward was seen to
            /// take less than a quarter of the time that rows take to arrive, they are computed instead, and
            /// [`RemoteStats::skipped`](crate::RemoteStats::skipped) counts them.
            remote: [url] = None, "None";

            /// Whether rows are read from the remote, written to it, or both.
            ///
            /// `TORCHCACHE_REMOTE_MODE`, which is `read-write`, `read-only` or `write-only`, takes precedence over it.
            remote_mode: [copy RemoteMode] = RemoteMode::ReadWrite, "\"read-write\"";

            /// How many seconds one call waits for the remote at most; with 0.0, rows come by
            /// [`read_ahead`](crate::TorchCache::read_ahead) alone.
            ///
            /// Rows that arrived in time are used, and the others are computed.
            remote_timeout: [copy f64] = 2.0, "2.0";
        }
    };
}

/// The types and conversions of a kind of option.
macro_rules! option_kind {
    (stored [copy $type:ty]) => { $type };
    (stored [size]) => { u64 };
    (stored [bound]) => { Bound };
    (stored [text]) => { String };
    (stored [url]) => { Option<String> };
    (stored [optional text]) => { Option<String> };
    (stored [optional path]) => { Option<PathBuf> };
    (stored [optional $type:ty]) => { Option<$type> };

    (default [bound] $default:expr) => { Bound { bytes: $default, is_set: false } };
    (default [text] $default:expr) => { String::from($default) };
    (default $kind:tt $default:expr) => { $default };

    (returned [bound]) => { u64 };
    (returned [text]) => { &str };
    (returned [url]) => { Option<&str> };
    (returned [optional text]) => { Option<&str> };
    (returned [optional path]) => { Option<&Path> };
    (returned $kind:tt) => { $crate::options::table::option_kind!(stored $kind) };

    (read [bound] $field:expr) => { $field.bytes };
    (read [text] $field:expr) => { &$field };
    (read [url] $field:expr) => { $field.as_deref() };
    (read [optional text] $field:expr) => { $field.as_deref() };
    (read [optional path] $field:expr) => { $field.as_deref() };
    (read $kind:tt $field:expr) => { $field };

    (taken [copy $type:ty]) => { $type };
    (taken [size]) => { impl Into<Size> };
    (taken [bound]) => { impl Into<Size> };
    (taken [text]) => { impl Into<String> };
    (taken [url]) => { impl Into<String> + RemoteFeature };
    (taken [optional text]) => { impl Into<String> };
    (taken [optional path]) => { impl Into<PathBuf> };
    (taken [optional $type:ty]) => { impl Into<Option<$type>> };

    (set [copy $type:ty] $builder:ident $name:ident $value:ident) => {
        $builder.options.$name = $value
    };
    (set [size] $builder:ident $name:ident $value:ident) => {
        match $value.into().0 {
            Ok(bytes) => $builder.options.$name = bytes,
            Err(text) => $builder.refuse_size(stringify!($name), text),
        }
    };
    (set [bound] $builder:ident $name:ident $value:ident) => {
        match $value.into().0 {
            Ok(bytes) => $builder.options.$name = Bound { bytes, is_set: true },
            Err(text) => $builder.refuse_size(stringify!($name), text),
        }
    };
    (set [url] $builder:ident $name:ident $value:ident) => {
        $builder.options.$name = Some($value.into())
    };
    (set [optional text] $builder:ident $name:ident $value:ident) => {
        $builder.options.$name = Some($value.into())
    };
    (set [optional path] $builder:ident $name:ident $value:ident) => {
        $builder.options.$name = Some($value.into())
    };
    (set $kind:tt $builder:ident $name:ident $value:ident) => {
        $builder.options.$name = $value.into()
    };

    // What an override field is.
    (field [url]) => { impl Setting<String> + RemoteFeature };
    (field $kind:tt) => { impl Setting<$crate::options::table::option_kind!(overridden $kind)> };

    (apply [url] $options:ident $name:ident $value:ident) => { $options.checked_remote($value) };
    (apply $kind:tt $options:ident $name:ident $value:ident) => { $options.$name($value) };

    // The type that it converts into.
    (overridden [url]) => { String };
    (overridden [copy $type:ty]) => { $type };
    (overridden [size]) => { Size };
    (overridden [bound]) => { Size };
    (overridden [text]) => { String };
    (overridden [optional text]) => { String };
    (overridden [optional path]) => { PathBuf };
    (overridden [optional $type:ty]) => { Option<$type> };
}

pub(crate) use {for_each_option, option_kind};
