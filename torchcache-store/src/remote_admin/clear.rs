//! Removes whole caches. Rows that a machine adds meanwhile stay.

use super::discover::{RemoteCache, RemoteRoot};
use super::remover::Remover;
use crate::admin::CheckProgress;
use crate::remote::ObjectError;

/// What [`RemoteRoot::clear`] removed, or would remove.
#[derive(Debug, Default)]
pub struct RemoteClearReport {
    /// The number of segments, of newer versions too.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether the cache is gone. It stays while a machine adds rows.
    pub cache_removed: bool,
    /// The keys of objects that could not be removed, or changed as a hint that others were, with the error of each.
    pub failed: Vec<(String, ObjectError)>,
}

impl RemoteRoot {
    /// Removes every object of a cache as it was listed, and none of other programs. With `dry_run`, only reports what
    /// would be removed, without regard to permissions. `progress` gets the number of objects.
    ///
    /// A compaction that runs at the same time may bring rows back.
    pub fn clear(
        &self,
        cache: &RemoteCache,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> RemoteClearReport {
        let mut report = RemoteClearReport::default();
        if dry_run {
            report.segments = cache.segment_count() as u64;
            report.bytes = cache.bytes();
            report.cache_removed = true;
            return report;
        }
        let mut remover = Remover::new(&self.requests);
        progress.expect(cache.segment_count() as u64 + cache.others().count() as u64);
        // First, or compactions would be finished.
        let (records, others): (Vec<_>, Vec<_>) = cache
            .others()
            .partition(|it| it.key.starts_with(&cache.layout.compactions()));
        let records: Vec<String> = records.into_iter().map(|it| it.key.clone()).collect();
        remover.remove(&records, progress);
        let segments = cache.segments.iter();
        let keys = segments.map(|it| cache.layout.segment(&it.name));
        let are_gone = remover.remove(&keys.collect::<Vec<_>>(), progress);
        for (segment, is_gone) in cache.segments.iter().zip(are_gone) {
            if is_gone {
                report.segments += 1;
                report.bytes = report.bytes.saturating_add(segment.size);
            }
        }
        // A cache whose segments stay keeps its manifest.
        if remover.failed.is_empty() {
            remover.remove_others(&cache.layout, others, progress);
        }
        report.failed = remover.failed;
        if report.failed.is_empty() {
            report.cache_removed = match self.list_cache(cache.name()) {
                Ok(left) => left.is_empty(),
                Err(error) => {
                    report.failed.push((cache.layout.root().to_owned(), error));
                    false
                }
            };
        }
        // A hint that is gone has changed, too.
        if report.segments > 0
            && !report.cache_removed
            && let Err(error) = self.set_latest(&cache.layout)
        {
            report.failed.push((cache.layout.latest(), error));
        }
        report
    }
}
