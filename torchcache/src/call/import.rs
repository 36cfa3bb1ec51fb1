//! Rows that a caller has, on their way into the tiers: [`TorchCache::import`].

use std::sync::Arc;
use std::time::Instant;

use tch::Device;

use super::outcome::{Flattened, Unfit};
use super::store::{Origin, TierWriter};
use crate::cache::epoch::Epoch;
use crate::cache::handle::TorchCache;
use crate::cache::stats::Counters;
use crate::cache::tiers::Tiers;
use crate::error::Detail;
use crate::key::Key;
use crate::memory::rows::PackedRows;
use crate::schema::TensorSchema;

/// What [`TorchCache::import`] did with the rows of a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// Rows that were given to the tiers.
    pub imported: u64,
    /// Rows that were cached already, and keep their values, or repeat an earlier row of the call.
    pub present: u64,
}

/// The value that is imported, and the structure of its type.
#[derive(Debug)]
pub(super) struct GivenRows {
    pub(super) output: Flattened,
    pub(super) structure: String,
}

/// Rows that passed all checks, and are given to the tiers once the closure has ended.
#[derive(Debug)]
pub(super) struct CheckedImport {
    pub(super) name: String,
    pub(super) tiers: Tiers,
    pub(super) counters: Arc<Counters>,
    pub(super) epoch: Option<Epoch>,
    pub(super) keys: Vec<Key>,
    pub(super) rows: PackedRows,
    /// Where memory keeps them.
    pub(super) device: Device,
    pub(super) done: Imported,
}

impl GivenRows {
    /// Nothing to import, for a call without rows.
    ///
    /// # Errors
    ///
    /// It has rows.
    pub(super) fn expect_none(&self) -> Result<Imported, Detail> {
        match self.output.check(&self.structure, 0) {
            Err(unfit @ Unfit::Rows { .. }) => Err(unfit_import(unfit, 0)),
            _ => Ok(Imported::default()),
        }
    }
}

impl CheckedImport {
    pub(super) fn store(self, handle: &TorchCache) -> Imported {
        let start = Instant::now();
        let writer = TierWriter {
            handle,
            name: || self.name.clone(),
            tiers: &self.tiers,
            counters: &self.counters,
            epoch: self.epoch,
        };
        if !self.keys.is_empty() {
            writer.store(&self.keys, &self.rows, self.device, Origin::Computed);
        }
        Counters::add(&self.counters.imported, self.keys.len());
        Counters::time(&self.counters.time.storing, start);
        self.done
    }
}

/// Why a value is not that of a call of `rows`.
pub(super) fn unfit_import(unfit: Unfit, rows: i64) -> Detail {
    match unfit {
        Unfit::Rows { part, got } => Detail::ImportedRows { part, got, rows },
        Unfit::Gradient => Detail::ImportedGradient,
        Unfit::Reason(reason) => Detail::NotImported(reason.to_string()),
    }
}

/// The kind and row shape of each tensor, for messages.
pub(super) fn describe(schema: &TensorSchema) -> String {
    let tensors = schema.names().into_iter().zip(schema.kinds());
    let tensors = tensors.zip(&schema.tensors);
    let tensors = tensors.map(|((name, (_, kind)), spec)| {
        let shape = &spec.shape;
        match &*name {
            "output" => format!("{kind:?} {shape:?}"),
            name => format!("`{name}` {kind:?} {shape:?}"),
        }
    });
    let mut text = tensors.collect::<Vec<_>>().join(", ");
    if !schema.lengths.is_empty() {
        text += &format!(" with lengths and plain values {:?}", schema.lengths);
    }
    text
}
