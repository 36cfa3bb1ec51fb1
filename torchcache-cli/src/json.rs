//! The JSON of caches. The fields are listed in `docs/cli.md`.

use std::path::PathBuf;

use serde_json::{Value, json};
use torchcache_store::admin::{CacheSummary, PrunedSegment, SegmentSummary};

use crate::describe::{NumberedSchema, corrupt_segments, device, newer_versions, ratio, versions};
use crate::text::path_text;
use crate::time::rfc3339;

/// A cache in the list of `ls`.
pub(crate) fn cache(name: &str, path: &str, summary: &CacheSummary) -> Value {
    let manifest = summary.manifest.as_ref().ok();
    json!({
        "name": name,
        "path": path,
        "module": manifest.map(|manifest| &manifest.module),
        "rows": summary.rows(),
        "bytes": summary.bytes(),
        "ratio": ratio(summary),
        "last_read": summary.last_read().map(rfc3339),
        "created": summary.created.map(rfc3339),
        "segments": summary.segments.len(),
        "corrupt_segments": corrupt_segments(summary),
        "versions": versions(summary),
        "newer_versions": newer_versions(summary),
        "temp_files": summary.temp_files,
    })
}

/// Directories and segments that were skipped, with the reason.
pub(crate) fn skipped(all: &[(PathBuf, String)]) -> Value {
    let all = all.iter();
    all.map(|(path, reason)| json!({ "path": path_text(path), "reason": reason }))
        .collect()
}

/// Files and directories that could not be removed, with the error.
pub(crate) fn failed(all: &[(PathBuf, std::io::Error)]) -> Value {
    let all = all.iter();
    all.map(|(path, error)| json!({ "path": path_text(path), "error": error.to_string() }))
        .collect()
}

/// A segment that was removed.
pub(crate) fn pruned_segment(segment: &PrunedSegment) -> Value {
    json!({
        "name": segment.name,
        "bytes": segment.bytes,
        "rows": segment.rows,
        "last_read": rfc3339(segment.last_read),
    })
}

/// A segment of a cache.
pub(crate) fn segment(segment: &SegmentSummary) -> Value {
    let contents = segment.contents.as_ref();
    json!({
        "name": segment.name,
        "bytes": segment.bytes,
        "rows": contents.ok().map(|contents| contents.rows),
        "version": contents.ok().map(|contents| contents.version),
        "last_read": segment.last_read.map(rfc3339),
        "error": contents.err().map(ToString::to_string),
    })
}

/// The rows of a schema.
pub(crate) fn schema(schema: &NumberedSchema) -> Value {
    let parts = schema.schema.as_ref().map(|schema| {
        let parts = schema.names().into_iter().zip(&schema.tensors);
        let parts = parts.map(|(name, part)| {
            json!({
                "name": name,
                "stored": part.stored.to_string(),
                "output": part.output.to_string(),
                "shape": part.shape,
                "device": device(part),
            })
        });
        parts.collect::<Vec<_>>()
    });
    json!({
        "number": schema.number,
        "rows": schema.group.rows,
        "row_bytes": schema.group.row_bytes,
        "stored_bytes": schema.group.stored_bytes,
        "structure": schema.schema.as_ref().map(|schema| &schema.structure),
        "parts": parts,
    })
}
