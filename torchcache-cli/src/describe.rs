//! Words for what caches hold: their types, and what the bytes of their rows mean.

use std::io::ErrorKind;

use torchcache_store::admin::{RowGroupSummary, Summary};
use torchcache_store::schema::{OutputDevice, Schema, TensorSpec};

use crate::text::plain;

/// What rows of one schema are, as far as it can be read.
#[derive(Debug)]
pub(crate) struct Sort {
    /// Its number, from 1, in an order that only what the rows are decides.
    pub(crate) number: usize,
    pub(crate) group: RowGroupSummary,
    /// `None` if it is of another version, or not of torchcache.
    pub(crate) schema: Option<Schema>,
}

impl Sort {
    /// Numbers the sorts of rows.
    pub(crate) fn of(groups: impl IntoIterator<Item = RowGroupSummary>) -> Vec<Sort> {
        let numbered = groups.into_iter().zip(1..);
        let sorts = numbered.map(|(group, number)| Sort {
            number,
            schema: readable(&group),
            group,
        });
        sorts.collect()
    }

    /// On one line: `pooled float32[384], layers.0 float32[128, 384]`.
    pub(crate) fn words(&self) -> String {
        let Some(schema) = &self.schema else {
            return self.unknown();
        };
        let parts = schema.names().into_iter().zip(&schema.tensors);
        let parts = parts.map(|(name, part)| {
            let (name, kind, shape) = (plain(&name), kind(part), shape(part));
            format!("{name} {kind}{shape}{}", on(part))
        });
        parts.collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn unknown(&self) -> String {
        format!(
            "{} bytes each, of a schema that this version cannot read",
            self.group.row_bytes
        )
    }
}

/// The schema of rows that are as long as it says.
fn readable(group: &RowGroupSummary) -> Option<Schema> {
    let schema = Schema::decode(&group.schema)?;
    (schema.row_bytes() == Some(group.row_bytes as usize)).then_some(schema)
}

/// The kind as it is stored, and that of hits if it is another.
pub(crate) fn kind(part: &TensorSpec) -> String {
    match part.stored == part.output {
        true => part.stored.to_string(),
        false => format!("{} → {}", part.stored, part.output),
    }
}

/// The device that rows are returned on; `None` if that is the module's.
pub(crate) fn device(part: &TensorSpec) -> Option<String> {
    match part.device {
        OutputDevice::Module => None,
        device => Some(device.to_string()),
    }
}

/// The same behind a kind or shape: ` on CUDA 0`.
pub(crate) fn on(part: &TensorSpec) -> String {
    device(part).map_or(String::new(), |device| format!(" on {device}"))
}

/// The shape of a row.
pub(crate) fn shape(part: &TensorSpec) -> String {
    format!("{:?}", part.shape)
}

/// The type of a cache: its module.
pub(crate) fn module(summary: &Summary) -> String {
    match &summary.manifest {
        Ok(manifest) => plain(&manifest.module),
        Err(error) => no_module(error.kind()),
    }
}

/// What stands in its place where the manifest does not say it.
pub(crate) fn no_module(why: ErrorKind) -> String {
    match why {
        ErrorKind::NotFound => "(no manifest)".to_owned(),
        _ => "(unreadable manifest)".to_owned(),
    }
}

/// Value bytes to stored bytes, of all rows that can be read; `None` where there are none.
pub(crate) fn ratio(summary: &Summary) -> Option<f64> {
    let groups = summary.contents().flat_map(|contents| &contents.groups);
    let (value, stored) = groups.fold((0, 0), |(value, stored), group| {
        let value = u64::saturating_add(value, group.value_bytes());
        (value, u64::saturating_add(stored, group.stored_bytes))
    });
    (stored > 0).then(|| value as f64 / stored as f64)
}

/// What the star means.
pub(crate) const NEWER: &str = "* only a newer torchcache reads it; left alone";

/// The format versions of the segments that can be read.
pub(crate) fn versions(summary: &Summary) -> Vec<u32> {
    let mut versions: Vec<_> = summary
        .contents()
        .map(|contents| contents.version)
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// The format versions that only a newer torchcache reads.
pub(crate) fn newer(summary: &Summary) -> Vec<u32> {
    let segments = summary.segments.iter();
    let mut versions: Vec<_> = segments
        .filter_map(|segment| segment.contents.as_ref().err()?.newer_version())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}

/// The versions of the segment format, with a star at those that only a newer torchcache reads.
pub(crate) fn formats(summary: &Summary) -> String {
    let known = versions(summary).into_iter().map(|it| it.to_string());
    let newer = newer(summary).into_iter().map(|it| format!("{it}*"));
    let all: Vec<_> = known.chain(newer).collect();
    match all.is_empty() {
        true => "-".to_owned(),
        false => all.join(", "),
    }
}
