//! What caches hold, for programs: numbers as numbers, names whole, times as RFC 3339 has them. The
//! fields are listed in `docs/cli.md`.

use std::path::PathBuf;

use serde_json::{Value, json};
use torchcache_store::admin::{Cache, SegmentInfo, Summary};

use crate::describe::{Sort, device, newer, ratio, versions};
use crate::time::rfc3339;

/// What `ls` tells of a cache.
pub(crate) fn cache(cache: &Cache, summary: &Summary) -> Value {
    let manifest = summary.manifest.as_ref().ok();
    json!({
        "name": cache.name(),
        "path": cache.path().to_string_lossy(),
        "module": manifest.map(|manifest| &manifest.module),
        "rows": summary.rows(),
        "bytes": summary.bytes(),
        "ratio": ratio(summary),
        "last_read": summary.last_read().map(rfc3339),
        "created": summary.created.map(rfc3339),
        "segments": summary.segments.len(),
        "unreadable_segments": unreadable(summary),
        "versions": versions(summary),
        "newer_versions": newer(summary),
        "unfinished_files": summary.unfinished,
    })
}

/// What was left alone, and why.
pub(crate) fn left_alone(all: &[(PathBuf, String)]) -> Value {
    let all = all.iter();
    all.map(|(path, why)| json!({ "path": path.to_string_lossy(), "why": why }))
        .collect()
}

/// What could not be removed, and why.
pub(crate) fn failed(all: &[(PathBuf, std::io::Error)]) -> Value {
    let all = all.iter();
    all.map(|(path, error)| json!({ "path": path.to_string_lossy(), "error": error.to_string() }))
        .collect()
}

/// How many segments cannot be read.
fn unreadable(summary: &Summary) -> usize {
    summary.segments.len() - summary.contents().count()
}

/// A segment of a cache.
pub(crate) fn segment(segment: &SegmentInfo) -> Value {
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

/// A sort of rows.
pub(crate) fn sort(sort: &Sort) -> Value {
    let parts = sort.schema.as_ref().map(|schema| {
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
        "number": sort.number,
        "rows": sort.group.rows,
        "row_bytes": sort.group.row_bytes,
        "stored_bytes": sort.group.stored_bytes,
        "structure": sort.schema.as_ref().map(|schema| &schema.structure),
        "parts": parts,
    })
}
