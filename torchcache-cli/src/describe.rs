//! Describes what caches hold: modules, schemas, format versions.

use std::io::ErrorKind;

use torchcache_store::admin::{CacheSummary, RowGroupSummary};
use torchcache_store::schema::{OutputDevice, Schema, TensorSpec};
use torchcache_store::segment::SegmentError;

use crate::text::plain;

/// Explains the star of [`formats`].
pub(crate) const NEWER: &str = "* only a newer torchcache reads it; skipped";

/// The rows of one schema, with the number that `--schema` takes.
#[derive(Debug)]
pub(crate) struct NumberedSchema {
    /// From 1, in an order that depends only on the schemas.
    pub(crate) number: usize,
    pub(crate) group: RowGroupSummary,
    /// `None` if it is of another version or not of torchcache.
    pub(crate) schema: Option<Schema>,
}

impl NumberedSchema {
    pub(crate) fn number_all(
        groups: impl IntoIterator<Item = RowGroupSummary>,
    ) -> Vec<NumberedSchema> {
        let numbered = groups.into_iter().zip(1..);
        let schemas = numbered.map(|(group, number)| NumberedSchema {
            number,
            schema: decode(&group),
            group,
        });
        schemas.collect()
    }

    /// On one line: `pooled float32[384], layers.0 float32[128, 384]`.
    pub(crate) fn one_line(&self) -> String {
        let Some(schema) = &self.schema else {
            return self.unknown();
        };
        let tensors = schema.names().into_iter().zip(&schema.tensors);
        let tensors = tensors.map(|(name, tensor)| {
            let (name, kind, shape) = (plain(&name), kind(tensor), shape(tensor));
            format!("{name} {kind}{shape}{}", on_device(tensor))
        });
        tensors.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn unknown(&self) -> String {
        let bytes = self.group.row_bytes;
        format!("{bytes} bytes each, of a schema that this version cannot read")
    }
}

/// The schema of a group whose rows have the length that the schema says.
fn decode(group: &RowGroupSummary) -> Option<Schema> {
    let schema = Schema::decode(&group.schema)?;
    (schema.row_bytes() == Some(group.row_bytes as usize)).then_some(schema)
}

/// The kind of a tensor as stored, and as returned if that differs.
pub(crate) fn kind(tensor: &TensorSpec) -> String {
    match tensor.stored == tensor.output {
        true => tensor.stored.to_string(),
        false => format!("{} → {}", tensor.stored, tensor.output),
    }
}

/// The device that rows are returned on; `None` for that of the call.
pub(crate) fn device(tensor: &TensorSpec) -> Option<String> {
    match tensor.device {
        OutputDevice::Module => None,
        device => Some(device.to_string()),
    }
}

/// [`device`] after a kind or shape: ` on CUDA 0`.
pub(crate) fn on_device(tensor: &TensorSpec) -> String {
    device(tensor).map_or(String::new(), |device| format!(" on {device}"))
}

/// The shape of a tensor of a row.
pub(crate) fn shape(tensor: &TensorSpec) -> String {
    format!("{:?}", tensor.shape)
}

/// The module of a cache.
pub(crate) fn module(summary: &CacheSummary) -> String {
    match &summary.manifest {
        Ok(manifest) => plain(&manifest.module),
        Err(error) => missing_module(error.kind()),
    }
}

/// Takes the place of a module if the manifest cannot be read.
pub(crate) fn missing_module(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::NotFound => "(no manifest)".to_owned(),
        _ => "(unreadable manifest)".to_owned(),
    }
}

/// The value bytes per stored byte of all readable rows; `None` without rows.
pub(crate) fn ratio(summary: &CacheSummary) -> Option<f64> {
    let groups = summary.contents().flat_map(|contents| &contents.groups);
    let (value, stored) = groups.fold((0, 0), |(value, stored), group| {
        let value = u64::saturating_add(value, group.value_bytes());
        (value, u64::saturating_add(stored, group.stored_bytes))
    });
    (stored > 0).then(|| value as f64 / stored as f64)
}

/// The format versions of the readable segments.
pub(crate) fn versions(summary: &CacheSummary) -> Vec<u32> {
    sorted(summary.contents().map(|contents| contents.version))
}

/// The format versions that only a newer torchcache reads.
pub(crate) fn newer_versions(summary: &CacheSummary) -> Vec<u32> {
    sorted(errors(summary).filter_map(SegmentError::newer_version))
}

/// The number of segments that are corrupt as a whole.
pub(crate) fn corrupt_segments(summary: &CacheSummary) -> u64 {
    errors(summary).filter(|it| it.is_corruption()).count() as u64
}

fn errors(summary: &CacheSummary) -> impl Iterator<Item = &SegmentError> {
    let segments = summary.segments.iter();
    segments.filter_map(|segment| segment.contents.as_ref().err())
}

fn sorted(versions: impl Iterator<Item = u32>) -> Vec<u32> {
    let versions: std::collections::BTreeSet<_> = versions.collect();
    versions.into_iter().collect()
}

/// All format versions, with a star at those that only a newer torchcache reads.
pub(crate) fn formats(summary: &CacheSummary) -> String {
    let known = versions(summary).into_iter().map(|it| it.to_string());
    let newer = newer_versions(summary)
        .into_iter()
        .map(|it| format!("{it}*"));
    let all: Vec<_> = known.chain(newer).collect();
    match all.is_empty() {
        true => "-".to_owned(),
        false => all.join(", "),
    }
}
