//! Frees space: removes whole segments, least recently read first, or whole caches.
//!
//! When a segment was read is known from read marks, which machines without permission to write do not leave. So segments
//! that were put within a grace period stay, whatever else is said.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::time::{Duration, SystemTime};

use super::compact::JoinedSources;
use super::discover::{RemoteCache, RemoteRoot, SegmentObject};
use super::records::read_claims;
use super::remover::Remover;
use crate::admin::{CheckProgress, Keep, PrunedSegment};
use crate::remote::{ObjectError, ObjectErrorKind, ObjectName};
use crate::segment::SegmentError;
use crate::size::sum;

/// The trailers of so many segments are requested together.
const CLAIMS_AT_ONCE: usize = 64;

/// A read mark that says nothing of any segment is removed so long after it was put. Until then it says when the cache
/// was read, though what was read may have been joined since. A machine that goes on reading puts its next mark within
/// about a day.
const MARK_AGE: Duration = Duration::from_secs(2 * 86_400);

/// What [`RemotePrunePlan`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteKeep {
    /// As for caches on disk. A segment was last read when it was put, or when the newest read mark that names it was.
    pub keep: Keep,
    /// Segments that were put within this time stay.
    pub grace: Duration,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default)]
pub struct RemotePruneReport {
    /// The caches that segments were removed from, by name.
    pub caches: Vec<RemotePrunedCache>,
    /// The bytes of the remaining segments, without the skipped ones.
    pub remaining_bytes: u64,
    /// Segments that would be removed if they had not been put within the grace period.
    pub recent_segments: u64,
    /// Their bytes.
    pub recent_bytes: u64,
    /// Read marks that say nothing any more, and were removed.
    pub marks: u64,
    /// Sources of compactions that were removed: their rows are in other segments.
    pub joined_sources: u64,
    /// Keys of objects that were skipped, with the reason: a newer version, or a failed read.
    pub skipped: Vec<(String, String)>,
    /// Keys of objects that could not be removed, or changed as a hint that others were, with the error of each.
    pub failed: Vec<(String, ObjectError)>,
}

/// What was removed of a cache.
#[derive(Clone, Debug)]
pub struct RemotePrunedCache {
    /// The name of the cache.
    pub name: String,
    /// The module, or why the manifest cannot be read: [`ErrorKind::NotFound`] if there is none.
    pub module: Result<String, ErrorKind>,
    /// The segments, in the order of their removal.
    pub segments: Vec<PrunedSegment>,
    /// Whether nothing remains of the cache.
    pub cache_removed: bool,
}

impl RemotePruneReport {
    /// The bytes of the removed segments.
    pub fn removed_bytes(&self) -> u64 {
        let segments = self.caches.iter().flat_map(|cache| &cache.segments);
        sum(segments.map(|segment| segment.bytes))
    }
}

/// A segment that may be removed.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The index of its cache.
    cache: usize,
    segment: SegmentObject,
    last_read: SystemTime,
    rows: Option<u64>,
}

/// What is to be removed, by one listing.
#[derive(Debug)]
pub struct RemotePrunePlan<'r> {
    root: &'r RemoteRoot,
    caches: Vec<RemoteCache>,
    modules: Vec<Result<String, ErrorKind>>,
    /// In this order.
    chosen: Vec<Candidate>,
    /// The caches without segments that are to be removed.
    empty: Vec<usize>,
    /// The keys of read marks that say nothing any more.
    marks: Vec<String>,
    /// By the clock of the store, unless that is not known.
    now: SystemTime,
    /// The sources of compactions of each cache. Those that can be removed are removed first.
    joined: Vec<JoinedSources>,
    /// With what is known before anything is removed.
    report: RemotePruneReport,
}

impl<'r> RemotePrunePlan<'r> {
    /// Lists the caches, reads manifests, read marks and compaction records, and chooses what `keep` does not keep. Removes
    /// nothing, but changes a hint to learn the time of the store, which ages are measured by.
    ///
    /// # Errors
    /// If one of these requests fails: without the read marks, rows that are in use would be removed.
    pub fn new(root: &'r RemoteRoot, keep: RemoteKeep) -> Result<RemotePrunePlan<'r>, ObjectError> {
        let mut plan = RemotePrunePlan {
            root,
            caches: root.list()?.caches,
            modules: Vec::new(),
            chosen: Vec::new(),
            empty: Vec::new(),
            marks: Vec::new(),
            now: root.requests.time_of_day(),
            joined: Vec::new(),
            report: RemotePruneReport::default(),
        };
        let store_time = plan.store_time()?;
        plan.read_joined(store_time)?;
        plan.now = store_time.unwrap_or(plan.now);
        let now = plan.now;
        let manifests = root.manifests(&plan.caches).into_iter();
        plan.modules = manifests
            .map(|manifest| manifest.map(|it| it.module).map_err(|error| error.kind()))
            .collect();
        let candidates = plan.candidates(now)?;
        plan.choose(candidates, keep, now);
        Ok(plan)
    }

    /// The time by the clock of the store. `None` without a segment, and where the hint may not be changed: credentials may
    /// only read, or only remove objects.
    fn store_time(&mut self) -> Result<Option<SystemTime>, ObjectError> {
        for cache in self.caches.iter().filter(|it| !it.segments.is_empty()) {
            match self.root.store_time(&cache.layout) {
                // It is being cleared.
                Ok(None) => {}
                Err(error) if error.kind == ObjectErrorKind::Denied => {
                    let reason = format!("ages are by the clock of this machine: {error}");
                    self.report.skipped.push((cache.layout.latest(), reason));
                    return Ok(None);
                }
                now => return now,
            }
        }
        Ok(None)
    }

    /// Reads which segments are sources of compactions.
    fn read_joined(&mut self, store_time: Option<SystemTime>) -> Result<(), ObjectError> {
        for cache in &self.caches {
            let joined = self.root.joined_sources(cache, store_time)?;
            self.report.joined_sources += joined.removable.len() as u64;
            self.joined.push(joined);
        }
        Ok(())
    }

    /// Removes the sources of compactions that ended.
    fn finish_compactions(&mut self) {
        self.report.joined_sources = 0;
        let joined = self.caches.iter().zip(&self.joined);
        for (cache, _) in joined.filter(|(_, it)| !it.removable.is_empty()) {
            match self.root.finish_compactions(cache, self.now) {
                Ok(finished) => {
                    self.report.joined_sources += finished.removed_segments;
                    self.report.skipped.extend(finished.failed);
                }
                Err(error) => self.report.failed.push((cache.layout.compactions(), error)),
            }
        }
    }

    /// The segments in the order of their last reads.
    fn candidates(&mut self, now: SystemTime) -> Result<Vec<Candidate>, ObjectError> {
        let mut candidates = Vec::new();
        for (index, (cache, joined)) in self.caches.iter().zip(&self.joined).enumerate() {
            let reads = self.root.last_reads(cache)?;
            let mut needed = HashSet::new();
            // Sources are removed by compactions.
            let others = cache.segments.iter();
            for segment in others.filter(|it| !joined.all.contains(&it.name)) {
                let read = reads.get(&segment.name);
                needed.extend(read.map(|read| read.mark));
                let read = read.map_or(segment.modified, |it| it.at.max(segment.modified));
                candidates.push(Candidate {
                    cache: index,
                    segment: *segment,
                    last_read: read,
                    rows: None,
                });
            }
            let is_old = |modified| now.duration_since(modified).is_ok_and(|age| age > MARK_AGE);
            let marks = cache.marks.iter().enumerate();
            let marks = marks.filter(|(n, mark)| !needed.contains(n) && is_old(mark.modified));
            self.marks.extend(marks.map(|(_, mark)| mark.key.clone()));
        }
        candidates.sort_by_key(|it| (it.last_read, it.segment.name));
        Ok(candidates)
    }

    fn choose(
        &mut self,
        candidates: Vec<Candidate>,
        RemoteKeep { keep, grace }: RemoteKeep,
        now: SystemTime,
    ) {
        let total = sum(candidates.iter().map(|it| it.segment.size));
        let mut excess = match keep {
            Keep::MaxBytes(limit) => total.saturating_sub(limit),
            _ => 0,
        };
        let is_older = |time: SystemTime, age| now.duration_since(time).is_ok_and(|it| it > age);
        let whole = match keep {
            Keep::LatestPerModule(count) => self.all_but_latest(count),
            _ => HashSet::new(),
        };
        let is_unwanted = |it: &Candidate| match keep {
            Keep::MaxBytes(_) => true,
            Keep::ReadWithin(age) => is_older(it.last_read, age),
            Keep::LatestPerModule(_) => whole.contains(&it.cache),
        };
        let is_bounded = matches!(keep, Keep::MaxBytes(_));
        self.report.remaining_bytes = total;
        let (old, recent): (Vec<_>, Vec<_>) = candidates
            .into_iter()
            .filter(is_unwanted)
            .partition(|it| is_older(it.segment.modified, grace));
        let mut old = old.into_iter().peekable();
        loop {
            let mut planned = 0;
            let mut next: Vec<Candidate> = Vec::new();
            while next.len() < CLAIMS_AT_ONCE
                && let Some(candidate) = old.next_if(|_| !is_bounded || planned < excess)
            {
                planned += candidate.segment.size;
                next.push(candidate);
            }
            if next.is_empty() {
                break;
            }
            for candidate in self.with_claims(next) {
                excess = excess.saturating_sub(candidate.segment.size);
                self.report.remaining_bytes -= candidate.segment.size;
                self.chosen.push(candidate);
            }
        }
        for candidate in recent {
            if is_bounded && excess == 0 {
                break;
            }
            excess = excess.saturating_sub(candidate.segment.size);
            self.report.recent_segments += 1;
            self.report.recent_bytes += candidate.segment.size;
        }
        let caches = self.caches.iter().enumerate();
        let empty = caches.filter(|(index, cache)| {
            let created = || cache.others().map(|it| it.modified).max();
            let is_unused = |age| created().is_some_and(|at| is_older(at, age));
            cache.segments.is_empty()
                && match keep {
                    Keep::MaxBytes(_) => false,
                    Keep::ReadWithin(age) => is_unused(age.max(grace)),
                    Keep::LatestPerModule(_) => whole.contains(index) && is_unused(grace),
                }
        });
        self.empty = empty.map(|(index, _)| index).collect();
    }

    /// Of each module, all caches but the `count` most recently read.
    fn all_but_latest(&self, count: usize) -> HashSet<usize> {
        let mut modules: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            if let Ok(module) = module {
                modules.entry(module).or_default().push(index);
            }
        }
        let last_used = |index: &usize| {
            let cache = &self.caches[*index];
            cache.last_read().or(cache.created())
        };
        let others = modules.into_values().flat_map(|mut indices| {
            indices.sort_by_key(|index| Reverse(last_used(index)));
            indices.into_iter().skip(count)
        });
        others.collect()
    }

    /// Reads how many rows segments have, and leaves out those of newer versions and those that are gone.
    fn with_claims(&mut self, candidates: Vec<Candidate>) -> Vec<Candidate> {
        let mut chosen = Vec::new();
        for of_cache in candidates.chunk_by(|a, b| a.cache == b.cache) {
            let layout = &self.caches[of_cache[0].cache].layout;
            let segments: Vec<&SegmentObject> = of_cache.iter().map(|it| &it.segment).collect();
            let claims = read_claims(&self.root.requests, layout, &segments);
            for (candidate, claim) in of_cache.iter().zip(claims) {
                let rows = match claim {
                    Ok(rows) => Some(rows),
                    // A corrupt segment is removed in its turn.
                    Err(error) if error.is_corruption() => None,
                    Err(error) => {
                        self.report.remaining_bytes -= candidate.segment.size;
                        if !error.is_not_found() {
                            self.skip(candidate, &error);
                        }
                        continue;
                    }
                };
                chosen.push(Candidate { rows, ..*candidate });
            }
        }
        chosen
    }

    fn skip(&mut self, candidate: &Candidate, error: &SegmentError) {
        let key = self.key(candidate);
        self.report.skipped.push((key, error.to_string()));
    }

    fn key(&self, candidate: &Candidate) -> String {
        let layout = &self.caches[candidate.cache].layout;
        layout.segment(&candidate.segment.name)
    }

    /// The number of objects that are to be removed.
    pub fn object_count(&self) -> u64 {
        (self.chosen.len() + self.marks.len()) as u64
    }

    /// What would be removed.
    pub fn report(&self) -> RemotePruneReport {
        let mut pruned = Pruned::default();
        for candidate in &self.chosen {
            pruned.segment(self, candidate);
        }
        let chosen = self.chosen.iter().map(|it| (it.cache, it.segment.name));
        let chosen: HashSet<(usize, ObjectName)> = chosen.collect();
        let touched: Vec<usize> = pruned.0.keys().copied().chain(self.empty.clone()).collect();
        for index in touched {
            let joined = &self.joined[index].removable;
            let mut names = self.caches[index].segments.iter().map(|it| it.name);
            let is_removed = |name| joined.contains(&name) || chosen.contains(&(index, name));
            pruned.cache(self, index).cache_removed = names.all(is_removed);
        }
        RemotePruneReport {
            caches: pruned.into_caches(),
            marks: self.marks.len() as u64,
            ..self.report.clone()
        }
    }

    /// Removes what is planned, and nothing else: what machines added or read since the plan was made stays. Segments that
    /// vanished meanwhile count as removed. `progress` gets the number of [objects](Self::object_count).
    pub fn carry_out(mut self, progress: &dyn CheckProgress) -> RemotePruneReport {
        self.finish_compactions();
        let mut remaining = self.report.remaining_bytes + self.leave_out_read();
        progress.expect(self.object_count());
        let mut remover = Remover::new(&self.root.requests);
        let mut pruned = Pruned::default();
        let keys: Vec<String> = self.chosen.iter().map(|it| self.key(it)).collect();
        let are_gone = remover.remove(&keys, progress);
        for (candidate, is_gone) in self.chosen.iter().zip(are_gone) {
            match is_gone {
                true => pruned.segment(&self, candidate),
                false => remaining += candidate.segment.size,
            }
        }
        let marks = remover.remove(&self.marks, progress).into_iter();
        let marks = marks.filter(|is_gone| *is_gone).count() as u64;
        let touched: Vec<usize> = pruned.0.keys().copied().chain(self.empty.clone()).collect();
        for index in touched {
            let removed = self.remove_empty(index, &mut remover);
            if removed || pruned.0.contains_key(&index) {
                let cache = pruned.cache(&self, index);
                cache.cache_removed = removed;
                // A hint that is gone has changed, too.
                let layout = &self.caches[index].layout;
                if !removed
                    && !cache.segments.is_empty()
                    && let Err(error) = self.root.set_latest(layout)
                {
                    remover.failed.push((layout.latest(), error));
                }
            }
        }
        self.report.failed.extend(remover.failed);
        self.report.marks = marks;
        self.report.remaining_bytes = remaining;
        RemotePruneReport {
            caches: pruned.into_caches(),
            ..self.report
        }
    }

    /// Leaves out the segments that machines read since the plan was made. Returns their bytes.
    fn leave_out_read(&mut self) -> u64 {
        let touched: HashSet<usize> = self.chosen.iter().map(|it| it.cache).collect();
        let mut kept = 0;
        for index in touched {
            let cache = &self.caches[index];
            let reads = self.root.list_cache(cache.name()).and_then(|mut now| {
                let known: HashSet<&str> = cache.marks.iter().map(|it| &*it.key).collect();
                now.marks.retain(|mark| !known.contains(&*mark.key));
                self.root.last_reads(&now)
            });
            let failed = reads.as_ref().err().cloned();
            let failed = failed.map(|error| (cache.layout.root().to_owned(), error));
            self.report.failed.extend(failed);
            self.chosen.retain(|it| {
                let was_read = |reads: &HashMap<_, _>| reads.contains_key(&it.segment.name);
                let is_kept = it.cache == index && reads.as_ref().map_or(true, was_read);
                kept += if is_kept { it.segment.size } else { 0 };
                !is_kept
            });
        }
        kept
    }

    /// Removes the other objects of a cache that has no segments any more, unless machines added some. Returns whether
    /// nothing remains.
    fn remove_empty(&self, index: usize, remover: &mut Remover<'_>) -> bool {
        let cache = &self.caches[index];
        let left = match self.root.list_cache(cache.name()) {
            Ok(left) => left,
            Err(error) => {
                let key = cache.layout.root().to_owned();
                remover.failed.push((key, error));
                return false;
            }
        };
        let known: HashSet<&str> = cache.others().map(|it| &*it.key).collect();
        // The hint may have been put to learn the time.
        let is_known = |key: &str| known.contains(key) || key == cache.layout.latest();
        left.segments.is_empty()
            && left.others().all(|object| is_known(&object.key))
            && remover.remove_others(&cache.layout, left.others(), &())
    }
}

/// What was removed, by the index of the cache.
#[derive(Default)]
struct Pruned(BTreeMap<usize, RemotePrunedCache>);

impl Pruned {
    fn cache(&mut self, plan: &RemotePrunePlan<'_>, index: usize) -> &mut RemotePrunedCache {
        self.0.entry(index).or_insert_with(|| RemotePrunedCache {
            name: plan.caches[index].name().to_owned(),
            module: plan.modules[index].clone(),
            segments: Vec::new(),
            cache_removed: false,
        })
    }

    fn segment(&mut self, plan: &RemotePrunePlan<'_>, candidate: &Candidate) {
        let pruned = PrunedSegment {
            name: candidate.segment.name.to_string(),
            bytes: candidate.segment.size,
            rows: candidate.rows,
            last_read: candidate.last_read,
        };
        self.cache(plan, candidate.cache).segments.push(pruned);
    }

    fn into_caches(self) -> Vec<RemotePrunedCache> {
        self.0.into_values().collect()
    }
}
