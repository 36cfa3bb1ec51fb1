//! Joins small segments, and removes the sources an hour later. The module's documentation has the steps, and why no row is
//! lost wherever they end.

use std::collections::{BTreeMap, HashSet};
use std::slice;
use std::time::{Duration, Instant, SystemTime};

use super::discover::{CompactionRecord, RemoteCache, RemoteRoot, SegmentObject};
use super::grouping::{add_worthwhile, groups};
use super::join::{JoinError, Joined};
use super::records::read_footers;
use super::remover::Remover;
use super::requests::ReadError;
use crate::admin::{CheckProgress, SegmentState};
use crate::key::Key;
use crate::remote::{ObjectError, ObjectErrorKind, ObjectName, parse_names, write_names};

/// Sources are removed so long after the segment that joins them was put, and unfinished compactions are given up: machines
/// list everything once an hour.
const SETTLE: Duration = Duration::from_secs(3600);

/// A compaction puts nothing so long after it listed the cache: its record might have been given up.
const MAX_DURATION: Duration = Duration::from_secs(1800);

/// What [`RemoteRoot::compact`] did, or would do.
#[derive(Debug, Default)]
pub struct CompactReport {
    /// Segments that were put.
    pub joined: Vec<JoinedSegments>,
    /// Sources of earlier compactions that were removed.
    pub removed_segments: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Sources that stay for now: the segments that join them were put less than an hour ago.
    pub waiting_segments: u64,
    /// Keys of objects that cannot be joined, read or removed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Small segments that were joined, or would be.
#[derive(Debug)]
pub struct JoinedSegments {
    /// The name of the cache.
    pub cache: String,
    /// The number of sources.
    pub sources: u64,
    /// Their bytes.
    pub source_bytes: u64,
    /// The number of rows; `None` in a dry run.
    pub rows: Option<u64>,
    /// Copies of rows that were left out, since a newer source has them; `None` in a dry run.
    pub superseded: Option<u64>,
}

/// The sources of compactions whose result exists, and so whose rows are elsewhere.
#[derive(Debug)]
pub(super) struct JoinedSources {
    pub(super) all: HashSet<ObjectName>,
    /// Those that can be removed now.
    pub(super) removable: HashSet<ObjectName>,
}

/// What a record says.
#[derive(Debug)]
pub(super) struct Compaction {
    joined: ObjectName,
    record: CompactionRecord,
    /// Sorted, each once.
    sources: Vec<ObjectName>,
}

impl Compaction {
    fn shares_source(&self, sources: &HashSet<ObjectName>) -> bool {
        self.sources.iter().any(|source| sources.contains(source))
    }
}

/// The segments and records of a cache while it is compacted.
struct Work<'r> {
    root: &'r RemoteRoot,
    cache: &'r RemoteCache,
    begun: Instant,
    segments: BTreeMap<ObjectName, SegmentObject>,
    compactions: Vec<Compaction>,
    /// All records could be read.
    may_join: bool,
    report: &'r mut CompactReport,
}

impl RemoteRoot {
    /// Joins the small segments of a cache, and removes the sources of compactions that ended an hour ago. With `dry_run`,
    /// only reports what would be joined and removed. Memory: three segments of 64 MiB. `progress` gets the bytes that are
    /// joined.
    ///
    /// # Errors
    /// If the cache cannot be listed, or the store denies or does not answer a request that all further ones need.
    pub fn compact(
        &self,
        name: &str,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> Result<CompactReport, ObjectError> {
        let begun = self.requests.now();
        let cache = self.list_cache(name)?;
        let mut report = CompactReport::default();
        let mut work = Work::new(self, &cache, begun, &mut report)?;
        if let Some(now) = work.store_time(dry_run)? {
            work.remove_sources(now, dry_run);
            work.finish_joins(now, dry_run)?;
            work.join_small(now, dry_run, progress)?;
        }
        Ok(report)
    }

    /// Removes the sources of compactions that ended an hour before `now`, as [`compact`](Self::compact) does.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub(super) fn finish_compactions(
        &self,
        cache: &RemoteCache,
        now: SystemTime,
    ) -> Result<CompactReport, ObjectError> {
        let mut report = CompactReport::default();
        let mut work = Work::new(self, cache, self.requests.now(), &mut report)?;
        work.remove_sources(now, false);
        Ok(report)
    }

    /// Reads which segments others have the rows of. Without the time of the store, none can be removed.
    pub(super) fn joined_sources(
        &self,
        cache: &RemoteCache,
        now: Option<SystemTime>,
    ) -> Result<JoinedSources, ObjectError> {
        let mut report = CompactReport::default();
        let mut work = Work::new(self, cache, self.requests.now(), &mut report)?;
        let joined = work.compactions.iter();
        let joined = joined.filter(|it| work.segments.contains_key(&it.joined));
        let all = joined.flat_map(|it| it.sources.iter().copied()).collect();
        if let Some(now) = now {
            work.remove_sources(now, true);
        }
        let names = cache.segments.iter().map(|it| it.name);
        let removable = names.filter(|name| !work.segments.contains_key(name));
        let removable = removable.collect();
        Ok(JoinedSources { all, removable })
    }

    /// Reads compaction records. Those that are not what their names say are left out, and `damaged` gets the keys of those
    /// that cannot be read.
    fn compactions(
        &self,
        records: &[CompactionRecord],
        mut damaged: impl FnMut(&str),
    ) -> Result<Vec<Compaction>, ObjectError> {
        let objects: Vec<_> = records.iter().map(|record| &record.object).collect();
        let contents = self.read_small(&objects, |content| parse_names(content).is_some());
        let mut compactions = Vec::new();
        for (record, content) in records.iter().zip(contents) {
            let content = match content {
                Err(ReadError::Request(error)) if error.is_not_found() => continue,
                Err(ReadError::Refused) => {
                    damaged(&record.object.key);
                    continue;
                }
                content => content?,
            };
            let names = parse_names(&content).unwrap_or_default();
            let names = names.into_iter().map(ObjectName::parse);
            let Some(mut sources) = names.collect::<Option<Vec<ObjectName>>>() else {
                continue;
            };
            sources.sort_unstable();
            sources.dedup();
            let joined = record.joined;
            if joined == ObjectName::joined(&sources, joined.footer_bytes) {
                compactions.push(Compaction {
                    joined,
                    record: record.clone(),
                    sources,
                });
            }
        }
        Ok(compactions)
    }
}

impl<'r> Work<'r> {
    fn new(
        root: &'r RemoteRoot,
        cache: &'r RemoteCache,
        begun: Instant,
        report: &'r mut CompactReport,
    ) -> Result<Work<'r>, ObjectError> {
        let mut damaged = Vec::new();
        let compactions = root.compactions(&cache.compactions, |key| {
            let reason =
                "its bytes are damaged, so nothing is joined; remove the object if this lasts";
            damaged.push((key.to_owned(), reason.to_owned()));
        })?;
        let may_join = damaged.is_empty();
        report.failed.extend(damaged);
        Ok(Work {
            root,
            cache,
            begun,
            segments: cache.segments.iter().map(|it| (it.name, *it)).collect(),
            compactions,
            may_join,
            report,
        })
    }

    /// The time by the clock of the store; in a dry run by that of this machine, where the hint may not be changed. `None`
    /// where there is nothing to join.
    fn store_time(&self, dry_run: bool) -> Result<Option<SystemTime>, ObjectError> {
        if self.compactions.is_empty() && self.segments.len() < 2 {
            return Ok(None);
        }
        match self.root.store_time(&self.cache.layout) {
            Err(error) if dry_run && error.kind == ObjectErrorKind::Denied => {
                Ok(Some(self.root.requests.time_of_day()))
            }
            now => now,
        }
    }

    fn fail(&mut self, key: String, reason: impl ToString) {
        self.report.failed.push((key, reason.to_string()));
    }

    /// Puts the segments of compactions that began earlier, or gives these up.
    fn finish_joins(&mut self, now: SystemTime, dry_run: bool) -> Result<(), ObjectError> {
        let is_put = |it: &Compaction| self.segments.contains_key(&it.joined);
        let unfinished: Vec<usize> = (0..self.compactions.len())
            .filter(|n| !is_put(&self.compactions[*n]))
            .collect();
        for n in unfinished {
            let compaction = &self.compactions[n];
            let sources: HashSet<ObjectName> = compaction.sources.iter().copied().collect();
            let others = self
                .compactions
                .iter()
                .filter(|it| it.joined != compaction.joined);
            let is_alone = !others.into_iter().any(|it| it.shares_source(&sources));
            let present: Vec<&SegmentObject> = compaction
                .sources
                .iter()
                .filter_map(|name| self.segments.get(name))
                .collect();
            let is_complete = present.len() == compaction.sources.len();
            let bytes: u64 = present.iter().map(|it| it.size).sum();
            let can_join = is_alone && is_complete;
            if dry_run {
                let planned = self.planned(present.len(), bytes);
                self.report.joined.extend(can_join.then_some(planned));
                continue;
            }
            let joined = can_join.then(|| self.root.join(self.cache, &present));
            match joined {
                Some(Ok(joined)) if joined.name == compaction.joined => {
                    self.put(&sources, bytes, joined)?;
                }
                Some(Err(JoinError::Request(error))) => {
                    let key = self.cache.layout.compaction(&compaction.joined);
                    self.fail(key, error);
                }
                _ if is_older(compaction.record.object.modified, now) => {
                    let key = self.cache.layout.compaction(&compaction.joined);
                    self.root.requests.remove(&[key]).remove(0)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the sources of compactions whose result was put an hour ago and is intact.
    fn remove_sources(&mut self, now: SystemTime, dry_run: bool) {
        for compaction in std::mem::take(&mut self.compactions) {
            let left: Vec<SegmentObject> = compaction
                .sources
                .iter()
                .filter_map(|name| self.segments.get(name).copied())
                .collect();
            match self.segments.get(&compaction.joined).copied() {
                Some(joined) if is_older(joined.modified, now) => {
                    self.replace(&compaction, &joined, &left, dry_run);
                }
                Some(_) => self.report.waiting_segments += left.len() as u64,
                None => {}
            }
            self.compactions.push(compaction);
        }
    }

    fn replace(
        &mut self,
        compaction: &Compaction,
        joined: &SegmentObject,
        sources: &[SegmentObject],
        dry_run: bool,
    ) {
        if dry_run {
            for source in sources {
                self.report.removed_segments += 1;
                self.report.removed_bytes += source.size;
                self.segments.remove(&source.name);
            }
            return;
        }
        if let Err((key, reason)) = self.check_joined(joined, sources) {
            return self.fail(key, reason);
        }
        let mut remover = Remover::new(&self.root.requests);
        let keys = sources.iter();
        let keys = keys.map(|source| self.cache.layout.segment(&source.name));
        let are_gone = remover.remove(&keys.collect::<Vec<_>>(), &());
        for (source, is_gone) in sources.iter().zip(are_gone) {
            if is_gone {
                self.report.removed_segments += 1;
                self.report.removed_bytes += source.size;
                self.segments.remove(&source.name);
            }
        }
        // As long as it is there, its sources are not joined again.
        if remover.failed.is_empty() {
            remover.remove(slice::from_ref(&compaction.record.object.key), &());
        }
        for (key, error) in remover.failed {
            self.fail(key, error);
        }
    }

    /// Checks that a segment is intact and has all rows of its sources.
    fn check_joined(
        &self,
        joined: &SegmentObject,
        sources: &[SegmentObject],
    ) -> Result<(), (String, String)> {
        if sources.is_empty() {
            return Ok(());
        }
        let layout = &self.cache.layout;
        let failed =
            |name: &ObjectName, reason: &dyn ToString| (layout.segment(name), reason.to_string());
        let state = self.root.check_segments(self.cache, &[joined]).remove(0);
        match state {
            SegmentState::Intact { .. } => {}
            SegmentState::Corrupt { first_error, .. } => {
                return Err(failed(&joined.name, &first_error));
            }
            SegmentState::NotRead(error) => return Err(failed(&joined.name, &error)),
        }
        let all: Vec<&SegmentObject> = std::iter::once(joined).chain(sources).collect();
        let mut footers = read_footers(&self.root.requests, layout, &all).into_iter();
        let footer = footers.next().transpose();
        let footer = footer.map_err(|error| failed(&joined.name, &error))?;
        let keys: HashSet<Key> = footer
            .iter()
            .flat_map(|it| it.rows())
            .map(|row| row.key)
            .collect();
        for (source, footer) in sources.iter().zip(footers) {
            match footer {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(failed(&source.name, &error)),
                Ok(footer) if footer.rows().all(|row| keys.contains(&row.key)) => {}
                Ok(_) => {
                    let what = format!("it lacks rows of {}, which it should join", source.name);
                    return Err(failed(&joined.name, &what));
                }
            }
        }
        Ok(())
    }

    /// Joins small segments that no compaction has.
    /// Those that were put within the last hour stay: others may get names between theirs.
    fn join_small(
        &mut self,
        now: SystemTime,
        dry_run: bool,
        progress: &dyn CheckProgress,
    ) -> Result<(), ObjectError> {
        if !self.may_join {
            return Ok(());
        }
        let taken: HashSet<ObjectName> = self
            .compactions
            .iter()
            .flat_map(|it| it.sources.iter().chain([&it.joined]))
            .copied()
            .collect();
        let may_join = |it: &SegmentObject| !taken.contains(&it.name) && is_older(it.modified, now);
        let mut groups = groups(self.segments.values(), may_join);
        progress.expect(groups.iter().flatten().map(|it| it.size).sum());
        while let Some(group) = groups.pop() {
            let bytes = group.iter().map(|it| it.size).sum();
            progress.advance(bytes);
            if dry_run {
                let planned = self.planned(group.len(), bytes);
                self.report.joined.push(planned);
                continue;
            }
            let sources: Vec<&SegmentObject> = group.iter().collect();
            match self.root.join(self.cache, &sources) {
                Ok(joined) => {
                    let names = group.iter().map(|it| it.name).collect();
                    self.put(&names, bytes, joined)?;
                }
                Err(JoinError::Source(name, error)) => {
                    if !error.is_not_found() {
                        self.fail(self.cache.layout.segment(&name), error);
                    }
                    // The others on both sides of it.
                    for part in group.split(|source| source.name == name) {
                        progress.expect(part.iter().map(|it| it.size).sum());
                        add_worthwhile(part, &mut groups);
                    }
                }
                Err(JoinError::Request(error)) => {
                    self.fail(self.cache.layout.segment(&group[0].name), error);
                }
            }
        }
        Ok(())
    }

    /// Puts a segment that joins others, unless another compaction has one of these.
    fn put(
        &mut self,
        sources: &HashSet<ObjectName>,
        source_bytes: u64,
        joined: Joined,
    ) -> Result<(), ObjectError> {
        let requests = &self.root.requests;
        let layout = &self.cache.layout;
        if requests.now() > self.begun + MAX_DURATION {
            return Ok(());
        }
        let mut sorted: Vec<&ObjectName> = sources.iter().collect();
        sorted.sort_unstable();
        // Also in place of one that is there: it is as new as this attempt.
        let content = write_names(sorted);
        requests.set(&layout.compaction(&joined.name), content.as_bytes())?;
        let mut records = Vec::new();
        let prefix = layout.compactions();
        requests.list(&prefix, |object| {
            let name = ObjectName::parse(&object.key[prefix.len()..]);
            let other = name.filter(|name| *name != joined.name);
            records.extend(other.map(|joined| CompactionRecord { joined, object }));
        })?;
        let mut are_known = self.may_join;
        let others = self.root.compactions(&records, |_| are_known = false)?;
        // The record stays, since another process may join the same ones.
        if !are_known
            || others.iter().any(|it| it.shares_source(sources))
            || requests.now() > self.begun + MAX_DURATION
        {
            return Ok(());
        }
        requests.put_new(&layout.segment(&joined.name), &joined.bytes)?;
        self.root.set_latest(layout)?;
        self.report.joined.push(JoinedSegments {
            rows: Some(joined.rows),
            superseded: Some(joined.superseded),
            ..self.planned(sources.len(), source_bytes)
        });
        Ok(())
    }

    /// So many sources of so many bytes, which are not joined yet.
    fn planned(&self, sources: usize, source_bytes: u64) -> JoinedSegments {
        JoinedSegments {
            cache: self.cache.name().to_owned(),
            sources: sources as u64,
            source_bytes,
            rows: None,
            superseded: None,
        }
    }
}

fn is_older(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age >= SETTLE)
}
