//! [`Fingerprint`] for the types of tch: tensors, layers, `VarStore` and `CModule`.
//!
//! The configuration of conv, norm and embedding layers is private, but their derived `Debug` shows
//! it. The weights of LSTM, GRU, `Sequential` and `Func` are private as well: they have no
//! implementation, and the compile error says what to do.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use tch::{CModule, Tensor, nn};

use super::fingerprint::{Fingerprint, Fingerprinter};
use super::parts::unique;
use crate::sync::lock_for;

impl Fingerprint for Tensor {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.tensor(self);
    }
}

impl Fingerprint for nn::Linear {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.field("ws", &self.ws);
        f.field("bs", &self.bs);
    }
}

/// Layers with a private configuration, and their public fields. The order is part of module hashes.
macro_rules! configured_layers {
    ($($layer:ident $(<$dimensions:ident>)?: $($field:ident)+;)*) => {$(
        impl $(<$dimensions: Debug>)? Fingerprint for nn::$layer $(<$dimensions>)? {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.configuration(self);
                $(f.field(stringify!($field), &self.$field);)+
            }
        }
    )*};
}

configured_layers! {
    Conv<ND>: ws bs;
    ConvTransposeND<ND>: ws bs;
    BatchNorm: running_mean running_var ws bs nd;
    LayerNorm: ws bs normalized_shape;
    GroupNorm: ws bs num_groups num_channels;
    Embedding: ws;
}

impl Fingerprint for nn::VarStore {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        variables(&self.variables_, f);
    }
}

/// The variables of a store: hashed in the order of their names, compared in the order of the map,
/// which does not change as long as the map does not.
pub(crate) fn variables(variables: &Mutex<nn::Variables>, f: &mut Fingerprinter<'_>) {
    // The caller may hold it already.
    let Some(locked) = lock_for(variables, LOCK_TIMEOUT) else {
        return f.locked();
    };
    if f.compares() {
        let named = locked.named_variables.iter();
        return named.for_each(|(name, tensor)| f.field(name, tensor));
    }
    // Hashing takes long: others may need the store meanwhile.
    let mut named: Vec<_> = locked
        .named_variables
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    drop(locked);
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, tensor) in &named {
        f.field(name, tensor);
    }
}

/// How long a call waits for a lock that it needs to read a module.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Hashed as the file that `save` writes: code, parameters, buffers and attributes. Its address and
/// parameters are watched; after a change of a buffer call `refresh()`.
impl Fingerprint for CModule {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        if f.compares() {
            // Two loaded modules have different addresses while both live.
            let address = format!("{self:?}");
            f.plain("address", address.as_bytes(), &address);
        }
        f.content("CModule", &[], || match saved(self) {
            Ok(bytes) => {
                let readable = format!("TorchScript of {} bytes", bytes.len());
                (bytes, readable)
            }
            // A module that cannot be read must equal no other.
            Err(reason) => (unique().to_vec(), format!("not saved: {reason}")),
        });
        for (name, tensor) in self.named_parameters().unwrap_or_default() {
            f.field(&name, &tensor);
        }
    }
}

fn saved(module: &CModule) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    // The archive contains the name of its file, which must be the same every time.
    let path = directory.path().join("module.pt");
    module.save(&path).map_err(|error| error.to_string())?;
    std::fs::read(&path).map_err(|error| error.to_string())
}
