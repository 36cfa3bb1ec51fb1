//! [`Fingerprint`] for the types of tch: tensors, layers and `VarStore`.
//!
//! The configuration of conv, norm and embedding layers is private, but their derived `Debug` shows
//! it. The weights of LSTM, GRU, `Sequential` and `Func` are private as well: they have no
//! implementation, and the compile error says what to do.

use std::fmt::Debug;
use std::sync::Mutex;

use tch::nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use tch::nn::{
    BatchNormConfig, ConvConfigND, ConvTransposeConfigND, EmbeddingConfig, GroupNormConfig, Init,
    LayerNormConfig, LinearConfig, PaddingMode, RNNConfig,
};
use tch::{Scalar, Tensor, nn};

use super::LOCK_TIMEOUT;
use super::fingerprint::{Fingerprint, Fingerprinter};
use crate::sync::lock_for;

impl Fingerprint for Tensor {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.tensor(self);
    }
}

/// All that a reference to a scalar shows, which cannot be cloned. An integer and a float may show the same.
impl Fingerprint for Scalar {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.field("integer", &self.to_int().ok());
        f.field("float", &self.to_float().ok());
        f.field("text", &self.to_string().ok());
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

/// Configurations, which their derived `Debug` shows.
macro_rules! configurations {
    ($($type:ident $(<$dimensions:ident>)?)*) => {$(
        impl $(<$dimensions: Debug>)? Fingerprint for $type $(<$dimensions>)? {
            fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
                f.configuration(self);
            }
        }
    )*};
}

configurations! {
    LinearConfig ConvConfigND<ND> ConvTransposeConfigND<ND> BatchNormConfig LayerNormConfig GroupNormConfig
    EmbeddingConfig RNNConfig PaddingMode Init FanInOut NonLinearity NormalOrUniform
}

impl Fingerprint for nn::VarStore {
    fn fingerprint(&self, f: &mut Fingerprinter<'_>) {
        f.has_variables();
        variables(&self.variables_, f);
    }
}

/// The variables of a store: hashed in the order of their names, compared in the order of the map,
/// which does not change as long as the map does not.
pub(crate) fn variables(variables: &Mutex<nn::Variables>, f: &mut Fingerprinter<'_>) {
    // The caller may hold it already.
    let Some(locked) = f.lock(|| lock_for(variables, LOCK_TIMEOUT)) else {
        return;
    };
    // Reading the elements takes long: others may need the store meanwhile.
    let named = locked.named_variables.iter();
    if f.compares() {
        let tensors: Vec<_> = named
            .map(|(name, tensor)| {
                f.plain("name", name.as_bytes(), name);
                tensor.shallow_clone()
            })
            .collect();
        drop(locked);
        let tensors = tensors.iter().enumerate();
        return tensors.for_each(|(position, tensor)| f.element(position, tensor));
    }
    let mut named: Vec<_> = named
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect();
    drop(locked);
    named.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, tensor) in &named {
        f.field(name, tensor);
    }
}
