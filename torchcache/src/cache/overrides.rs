//! `torchcache_<option>` fields: options of one instance, read at every call.

use std::path::PathBuf;

use tch::{Device, Kind};

use crate::identity::{Fingerprint, Fingerprinter, Watcher};
use crate::options::size::Size;
use crate::options::table::{for_each_option, option_kind};
use crate::options::{Eviction, OptionsBuilder, RemoteFeature, RemoteMode};

/// A field type that can override an option of type `T`: the option's own type, a type that
/// converts to it without loss, and `Option` of these, where `None` keeps the attribute's value.
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

/// Implements `Setting` for field types that convert by an expression, and for `Option` of them.
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
    RemoteMode: RemoteMode = |value| *value;
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
    Option<Device>: Device = |value| Some(*value);
    Option<Kind>: Kind = |value| Some(*value);
    Option<usize>: usize = |value| Some(*value);
}

/// For options that are `Option`s: in a field, `None` keeps the attribute's value, and `Some(None)`
/// sets the option to `None`.
macro_rules! optional_settings {
    ($($inner:ty),*) => {$(
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

impl Fingerprint for RemoteMode {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.variant(match self {
            RemoteMode::ReadWrite => "ReadWrite",
            RemoteMode::ReadOnly => "ReadOnly",
            RemoteMode::WriteOnly => "WriteOnly",
        });
    }
}

/// Receives the override fields of an instance, a method per option. Called by generated code.
#[doc(hidden)]
#[derive(Debug)]
pub struct Overrides<'a> {
    mode: OverrideMode<'a>,
}

#[derive(Debug)]
enum OverrideMode<'a> {
    Watch(&'a mut Watcher),
    Apply(&'a mut OptionsBuilder),
}

impl<'a> Overrides<'a> {
    /// Compares the fields with those of the last call.
    pub(crate) fn watch(watcher: &'a mut Watcher) -> Self {
        Overrides {
            mode: OverrideMode::Watch(watcher),
        }
    }

    /// Applies the fields to `options`.
    pub(crate) fn apply(options: &'a mut OptionsBuilder) -> Self {
        Overrides {
            mode: OverrideMode::Apply(options),
        }
    }

    fn set<T: Fingerprint>(
        &mut self,
        value: Option<T>,
        apply: impl FnOnce(OptionsBuilder, T) -> OptionsBuilder,
    ) {
        match &mut self.mode {
            OverrideMode::Watch(watcher) => value.fingerprint(&mut Fingerprinter::watch(watcher)),
            OverrideMode::Apply(options) => {
                if let Some(value) = value {
                    **options = apply(std::mem::take(options), value);
                }
            }
        }
    }
}

macro_rules! define_overrides {
    ($($(#[$doc:meta])* $name:ident: $kind:tt = $default:expr, $shown:literal;)*) => {
        #[doc(hidden)]
        impl Overrides<'_> {$(
            /// The field that overrides the option of this name.
            pub fn $name(&mut self, field: &option_kind!(field $kind)) {
                self.set(field.setting(), |options, value| {
                    option_kind!(apply $kind options $name value)
                });
            }
        )*}
    };
}

for_each_option!(define_overrides);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Snapshot;
    use crate::options::Options;

    #[test]
    fn a_field_overrides_and_none_keeps_the_attributes_value() {
        let mut options = Options::builder().cache_dtype(Kind::Half).version("1");
        let mut overrides = Overrides::apply(&mut options);
        overrides.enabled(&false);
        overrides.persistent(&None::<bool>);
        overrides.max_memory_cache_size(&Some("3 KB"));
        overrides.version(&None::<String>);
        overrides.cache_dtype(&None::<Kind>);
        overrides.memory_cache_device(&Some(None::<Device>));
        overrides.subsample_count(&7usize);
        overrides.verify(&Some(0.5));
        let expected = Options::builder()
            .enabled(false)
            .max_memory_cache_size(3_000)
            .version("1")
            .cache_dtype(Kind::Half)
            .memory_cache_device(None)
            .subsample_count(7)
            .verify(0.5);
        assert_eq!(options.build().unwrap(), expected.build().unwrap());
    }

    #[test]
    fn a_changed_field_is_noticed() {
        let (snapshot, _) = Snapshot::record(|watcher| Overrides::watch(watcher).enabled(&true));
        for (enabled, changed) in [(true, false), (false, true)] {
            let seen = snapshot.compare(|watcher| Overrides::watch(watcher).enabled(&enabled));
            assert_eq!(seen.changed, changed);
        }
    }
}
