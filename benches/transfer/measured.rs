//! What the runs measure, as they pass it between processes.

use serde::{Deserialize, Serialize};

/// A run without the cache.
#[derive(Serialize, Deserialize)]
pub(crate) struct Plain {
    pub(crate) peak_bytes: u64,
}

/// A run with memory for all features.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ample {
    pub(crate) device: String,
    pub(crate) images: u64,
    /// Images without their duplicates.
    pub(crate) distinct: u64,
    /// Seconds of each block of the first epoch.
    pub(crate) first_with: Vec<f64>,
    pub(crate) first_without: Vec<f64>,
    pub(crate) later: Later,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) peak_bytes: u64,
}

/// A second process with memory for a quarter of the features.
#[derive(Serialize, Deserialize)]
pub(crate) struct Starved {
    pub(crate) bound: u64,
    pub(crate) first: f64,
    pub(crate) later: Later,
    pub(crate) from_disk: f64,
    pub(crate) peak_bytes: u64,
}

/// Seconds of an epoch of hits, of the same epoch of the head alone, and of the hashing in it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Later {
    pub(crate) epoch: f64,
    pub(crate) head: f64,
    pub(crate) hashing: f64,
}
