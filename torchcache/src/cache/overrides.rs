//! `torchcache_<option>` fields: options of one instance, read at every call.

use std::path::PathBuf;

use tch::{Device, Kind};

use crate::identity::{Fingerprint, Fingerprinter, Watcher};
use crate::options::size::Size;
use crate::options::{Eviction, Options};

/// A field type that can override an option of type `T`.
///
/// The option's own type, whatever converts to it without loss, and `Option` of these, where
/// `None` leaves the attribute's value.
#[diagnostic::on_unimplemented(
    message = "a field of type `{Self}` cannot override an option of type `{T}`",
    label = "expected `{T}`, or an `Option` of it",
    note = "a size may also be `u64`, `usize`, `f64`, `&'static str` or `String`; text and paths may be `&'static str` or `String`"
)]
pub trait Setting<T> {
    /// The value to use, if any.
    #[doc(hidden)]
    fn setting(&self) -> Option<T>;
}

/// Settings whose field type converts into the option's type by an expression; and `Option` of it.
macro_rules! settings {
    ($($option:ty: $($field:ty = |$value:ident| $convert:expr),+;)*) => {$($(
        impl Setting<$option> for $field {
            fn setting(&self) -> Option<$option> {
                let $value = self;
                Some($convert)
            }
        }

        impl Setting<$option> for Option<$field> {
            fn setting(&self) -> Option<$option> {
                self.as_ref().and_then(Setting::setting)
            }
        }
    )+)*};
}

settings! {
    bool: bool = |value| *value;
    i32: i32 = |value| *value;
    u32: u32 = |value| *value;
    f64: f64 = |value| *value;
    Eviction: Eviction = |value| *value;
    Size: Size = |value| value.clone(),
        u64 = |value| Size::from(*value),
        u32 = |value| Size::from(u64::from(*value)),
        usize = |value| Size::from(*value as u64),
        f64 = |value| Size::from(*value),
        &'static str = |value| Size::from(*value),
        String = |value| Size::from(value);
    String: String = |value| value.clone(), &'static str = |value| (*value).to_owned();
    PathBuf: PathBuf = |value| value.clone(),
        String = |value| PathBuf::from(value),
        &'static str = |value| PathBuf::from(value);
}

/// Options that are `Option`s themselves: in a field, `None` still leaves the attribute's value,
/// and `Some(None)` sets the option to `None`.
macro_rules! optional_settings {
    ($($inner:ty),*) => {$(
        impl Setting<Option<$inner>> for $inner {
            fn setting(&self) -> Option<Option<$inner>> {
                Some(Some(*self))
            }
        }

        impl Setting<Option<$inner>> for Option<$inner> {
            fn setting(&self) -> Option<Option<$inner>> {
                self.map(Some)
            }
        }

        impl Setting<Option<$inner>> for Option<Option<$inner>> {
            fn setting(&self) -> Option<Option<$inner>> {
                *self
            }
        }
    )*};
}

optional_settings!(Device, Kind, usize);

impl Fingerprint for Size {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        match &self.0 {
            Ok(bytes) => bytes.fingerprint(f),
            Err(text) => text.fingerprint(f),
        }
    }
}

impl Fingerprint for Eviction {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.variant(match self {
            Eviction::Lru => "Lru",
            Eviction::Never => "Never",
            Eviction::Auto => "Auto",
        });
    }
}

/// Receives the override fields of an instance, a method per option. Called by generated code.
#[doc(hidden)]
#[derive(Debug)]
pub struct Overrides<'a> {
    mode: Mode<'a>,
}

#[derive(Debug)]
enum Mode<'a> {
    Watch(&'a mut Watcher),
    Apply(&'a mut Options),
}

impl<'a> Overrides<'a> {
    /// Compares the fields with those of the last call.
    pub(crate) fn watch(watcher: &'a mut Watcher) -> Self {
        Overrides {
            mode: Mode::Watch(watcher),
        }
    }

    /// Applies the fields.
    pub(crate) fn apply(options: &'a mut Options) -> Self {
        Overrides {
            mode: Mode::Apply(options),
        }
    }

    fn set<T: Fingerprint>(&mut self, value: Option<T>, apply: impl FnOnce(Options, T) -> Options) {
        match &mut self.mode {
            Mode::Watch(watcher) => value.fingerprint(&mut Fingerprinter::watch(watcher)),
            Mode::Apply(options) => {
                if let Some(value) = value {
                    **options = apply(std::mem::take(options), value);
                }
            }
        }
    }
}

macro_rules! overrides {
    ($($name:ident: $type:ty)*) => {
        #[doc(hidden)]
        impl Overrides<'_> {$(
            /// The field that overrides the option of this name.
            pub fn $name(&mut self, field: &impl Setting<$type>) {
                self.set(field.setting(), |options, value| options.$name(value));
            }
        )*}
    };
}

overrides! {
    enabled: bool
    memory_cache_device: Option<Device>
    max_memory_cache_size: Size
    eviction: Eviction
    subsample_count: Option<usize>
    persistent: bool
    persistent_cache_dir: PathBuf
    persistent_module_hash: String
    max_persistent_cache_size: Size
    zstd_compression: bool
    zstd_compression_level: i32
    zstd_compression_threads: u32
    cache_dtype: Option<Kind>
    use_mmap_on_load: bool
    version: String
    verify: f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_override_and_none_leaves_the_attributes_value() {
        let mut options = Options::new().cache_dtype(Kind::Half).version("1");
        let mut overrides = Overrides::apply(&mut options);
        overrides.enabled(&false);
        overrides.persistent(&None::<bool>);
        overrides.max_memory_cache_size(&Some("3 KB"));
        overrides.version(&None::<String>);
        overrides.cache_dtype(&None::<Kind>);
        overrides.memory_cache_device(&Some(None::<Device>));
        overrides.subsample_count(&7usize);
        overrides.verify(&Some(0.5));
        assert_eq!(
            options,
            Options::new()
                .enabled(false)
                .max_memory_cache_size(3_000)
                .version("1")
                .cache_dtype(Kind::Half)
                .memory_cache_device(None)
                .subsample_count(7)
                .verify(0.5)
        );
    }

    #[test]
    fn a_changed_field_is_noticed() {
        let mut watcher = Watcher::new();
        watcher.record();
        Overrides::watch(&mut watcher).enabled(&true);
        for (enabled, changed) in [(true, false), (false, true)] {
            watcher.compare();
            Overrides::watch(&mut watcher).enabled(&enabled);
            assert_eq!(watcher.finish().changed, changed);
        }
    }
}
