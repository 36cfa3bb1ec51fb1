//! Which segments the remote has: when that is found out, and by which requests.
//!
//! One thread at a time has `scan`, during its requests. The lock `schedule` is held for memory operations only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Caller, Client};
use super::exclusive::Exclusive;
use super::footers::FooterFiles;
use super::live::RemoteRows;
use super::name::{self, Layout, ObjectName};
use super::object_store::{ObjectError, ObjectErrorKind, RangeRead};
use super::segment::{RemoteRow, RemoteSegment};
use super::time;
use super::warnings::Warning;
use crate::key::{Key, fingerprint};
use crate::segment::{Footer, SegmentError};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// How long after a refresh the next one may come, at first and at most. It doubles while no row is found that was missing.
const MIN_INTERVAL: Duration = Duration::from_secs(30);
const MAX_INTERVAL: Duration = Duration::from_secs(300);

/// A listing begins at names that are so much older than the newest, since clocks differ and uploads take time.
const LIST_MARGIN: Duration = Duration::from_secs(900);

/// After so long everything is listed: it shows what was removed, and names from clocks that are far behind.
const FULL_LIST_INTERVAL: Duration = Duration::from_secs(3600);

/// A hint of which a listing shows nothing has everything listed, but not more often than this.
const MIN_FULL_LIST_INTERVAL: Duration = MAX_INTERVAL;

/// How long a refresh in the background may take. One that does not end goes on at the next.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest footer that is read or written.
pub(crate) const MAX_FOOTER_BYTES: u32 = 32 << 20;

/// The most segments that are known, the newest.
const MAX_SEGMENTS: usize = 1 << 16;

/// How often the footer of an object is read that turns out not to be one. Bytes may be damaged on the way.
const MAX_ATTEMPTS: u8 = 3;

/// The most rows of a segment that are read again after their records were damaged.
const MAX_DOUBTED: usize = 1 << 16;

/// So many missing keys are remembered between two refreshes.
const MAX_MISSING: usize = 1 << 10;

/// Whether so many segments still exist is found out by a request for each, of more by listing all.
const MOST_PROBED: usize = 64;

/// So many footers are requested together; after a failure of all of them no more are.
const FOOTERS_AT_ONCE: usize = 64;

/// What is known of the objects.
#[derive(Debug, Default)]
struct Scan {
    /// The segments that were listed, with their sizes.
    listed: BTreeMap<ObjectName, u64>,
    /// How often an object was not the segment that its name says.
    attempts: HashMap<ObjectName, u8>,
    /// The hint before the last listing; `None` if there was no listing.
    hint: Option<Option<Vec<u8>>>,
    /// The time of day at the last listing.
    listed_at: u64,
    /// When everything was listed last.
    full_at: Option<Instant>,
    /// The hint changed since, and a listing of what is new did not show why.
    is_full_owed: bool,
}

/// When to refresh.
#[derive(Debug)]
struct Schedule {
    /// When the last refresh ended.
    last: Option<Instant>,
    interval: Duration,
    /// A lookup missed since, or the last refresh failed.
    is_wanted: bool,
    /// The first keys that were missing since.
    missing: Vec<Key>,
    /// An object was gone, so everything is listed next.
    is_full_wanted: bool,
}

#[derive(Debug)]
pub(super) struct RemoteCatalog {
    client: Arc<Client>,
    pub(super) layout: Layout,
    footers: FooterFiles,
    max_rows: usize,
    pub(super) rows: RemoteRows,
    scan: Exclusive<Scan>,
    schedule: Mutex<Schedule>,
    /// The first refresh ended.
    refreshed: Condvar,
    /// Objects, rows and footers whose bytes are not those that were written.
    pub(super) corrupt: AtomicU64,
}

/// A segment whose rows are to be indexed.
struct Load {
    name: ObjectName,
    size: u64,
    /// It is live, but some rows were shadowed.
    segment: Option<Arc<RemoteSegment>>,
}

impl RemoteCatalog {
    pub(super) fn new(
        client: Arc<Client>,
        layout: Layout,
        footers: FooterFiles,
        max_rows: usize,
    ) -> RemoteCatalog {
        RemoteCatalog {
            client,
            layout,
            footers,
            max_rows,
            rows: RemoteRows::default(),
            scan: Exclusive::new(Scan::default()),
            schedule: Mutex::new(Schedule {
                last: None,
                interval: MIN_INTERVAL,
                is_wanted: true,
                missing: Vec::new(),
                is_full_wanted: false,
            }),
            refreshed: Condvar::new(),
            corrupt: AtomicU64::new(0),
        }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the rows of these keys are, as far as it is known. A row that is missing asks for a refresh.
    pub(super) fn locate(&self, keys: &[Key]) -> Vec<Option<RemoteRow>> {
        let rows = self.rows.find(keys);
        if rows.iter().any(Option::is_none) {
            let mut schedule = self.schedule();
            schedule.is_wanted = true;
            let room = MAX_MISSING.saturating_sub(schedule.missing.len());
            let missing = keys.iter().zip(&rows).filter(|(_, row)| row.is_none());
            let missing = missing.take(room).map(|(key, _)| *key);
            schedule.missing.extend(missing);
        }
        rows
    }

    /// Waits until the first refresh has ended, well or not, at most until the deadline, and not for a store that answers
    /// nothing. Returns whether it has.
    pub(super) fn wait_for_first(&self, deadline: Instant) -> bool {
        let Client { clock, breaker, .. } = &*self.client;
        let Some(answers) = breaker.answers() else {
            return self.schedule().last.is_some();
        };
        let begun = clock.now();
        let mut schedule = self.schedule();
        while schedule.last.is_none() {
            let left = deadline.saturating_duration_since(clock.now());
            if left.is_zero() {
                drop(schedule);
                if begun < deadline {
                    breaker.note_silence(answers);
                }
                return false;
            }
            let woken = self.refreshed.wait_timeout(schedule, left);
            schedule = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Refreshes if a row was missing and the interval is over.
    pub(super) fn refresh_if_due(&self) {
        let Schedule {
            last,
            interval,
            is_wanted,
            ..
        } = *self.schedule();
        let is_over = last.is_none_or(|last| self.client.clock.now() >= last + interval);
        if is_wanted && is_over {
            // Failures are counted by the client; the schedule has the next attempt.
            let until = self.client.clock.now() + REFRESH_TIMEOUT;
            let _ = self.refresh(until);
        }
    }

    /// Looks for new segments and reads their footers, until the deadline.
    fn refresh(&self, until: Instant) -> Result<(), ObjectError> {
        let scan = self.scan.take(&*self.client.clock, until);
        let mut scan = scan.ok_or(ObjectErrorKind::TimedOut)?;
        let mut missing = std::mem::take(&mut self.schedule().missing);
        // Not those that this process has put since.
        let mut rows = self.rows.find(&missing).into_iter();
        missing.retain(|_| rows.next().is_some_and(|row| row.is_none()));
        let looked = self.look(&mut scan, until);
        let result = looked.and_then(|()| self.load(&mut scan, until));
        let is_found = self.rows.find(&missing).iter().any(Option::is_some);
        let mut schedule = self.schedule();
        schedule.interval = match is_found || schedule.last.is_none() {
            true => MIN_INTERVAL,
            false => (2 * schedule.interval).min(MAX_INTERVAL),
        };
        schedule.last = Some(self.client.clock.now());
        schedule.is_wanted = !matches!(result, Ok(true));
        drop(schedule);
        self.refreshed.notify_all();
        result.map(drop)
    }

    /// Finds out which segments there are.
    fn look(&self, scan: &mut Scan, until: Instant) -> Result<(), ObjectError> {
        // Before the listing: what is added during it changes the hint again.
        let hint = self.hint(until)?;
        let is_older = |interval| {
            let now = self.client.clock.now();
            scan.full_at.is_none_or(|at| now >= at + interval)
        };
        let may_be_full = is_older(MIN_FULL_LIST_INTERVAL);
        let mut is_full = self.schedule().is_full_wanted
            || is_older(FULL_LIST_INTERVAL)
            || (scan.is_full_owed && may_be_full);
        if !is_full && scan.hint.as_ref() == Some(&hint) {
            return Ok(());
        }
        if !is_full {
            // The hint says that there is more than this shows: the clock of its writer is behind, or segments were
            // removed.
            scan.is_full_owed |= !self.list_new(scan, until)?;
            is_full = scan.is_full_owed && may_be_full;
        }
        if is_full {
            // Before it, for objects that are gone meanwhile.
            self.schedule().is_full_wanted = false;
            let listed = self.list_all(scan, until);
            listed.inspect_err(|_| self.schedule().is_full_wanted = true)?;
            scan.full_at = Some(self.client.clock.now());
            scan.is_full_owed = false;
        }
        scan.hint = Some(hint);
        Ok(())
    }

    /// The hint as it is now; `None` if there is none.
    fn hint(&self, until: Instant) -> Result<Option<Vec<u8>>, ObjectError> {
        match self.client.get(&self.layout.latest(), until) {
            Ok(hint) => Ok(Some(hint)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes one request if the breaker allows that again. Returns whether the store answered.
    pub(super) fn probe(&self) -> bool {
        self.hint(self.client.clock.now() + REFRESH_TIMEOUT).is_ok()
    }

    /// Changes the hint after an upload. Where no other process is seen to have changed it since the last listing, that
    /// is no reason for another one.
    pub(super) fn set_hint(&self, until: Instant) -> Result<(), ObjectError> {
        let scan = self.scan.take(&*self.client.clock, until);
        let mut scan = scan.ok_or(ObjectErrorKind::TimedOut)?;
        let before = self.hint(until).ok();
        let hint = name::new_hint();
        self.client.set(&self.layout.latest(), &hint, until)?;
        if scan.hint.is_some() && scan.hint == before {
            scan.hint = Some(Some(hint));
        }
        Ok(())
    }

    /// Lists what is about as old as the newest segment. Returns whether there are segments that were not known.
    fn list_new(&self, scan: &mut Scan, until: Instant) -> Result<bool, ObjectError> {
        // A name from a clock that is ahead would hide all others.
        let newest = scan.listed.last_key_value().map(|(name, _)| name.nanos);
        let since = newest.map_or(scan.listed_at, |newest| newest.min(scan.listed_at));
        let after = self.layout.segments_since(since, LIST_MARGIN);
        let listed = self.list(scan, Some(after), until)?;
        let is_new = {
            let is_known = |name: &ObjectName| scan.listed.contains_key(name);
            let new: Vec<&ObjectName> = listed.keys().filter(|name| !is_known(name)).collect();
            !self.rows.know(&new)
        };
        scan.listed.extend(listed);
        bound(&mut scan.listed);
        Ok(is_new)
    }

    /// Lists all segments, and detaches those that are gone.
    fn list_all(&self, scan: &mut Scan, until: Instant) -> Result<(), ObjectError> {
        // Those that this process adds meanwhile may be missing in the listing.
        let before = self.rows.names();
        let listed = self.list(scan, None, until)?;
        let gone = before.iter().filter(|name| !listed.contains_key(name));
        let gone: Vec<ObjectName> = gone.copied().collect();
        self.rows.detach(&gone);
        self.rows.forget_gone(|name| !listed.contains_key(name));
        scan.attempts.retain(|name, _| listed.contains_key(name));
        let live = self.rows.names();
        self.footers
            .retain(|name| listed.contains_key(name) || live.contains(name));
        scan.listed = listed;
        Ok(())
    }

    /// The segments of a listing. Objects whose names are no segments' are of another program.
    fn list(
        &self,
        scan: &mut Scan,
        mut after: Option<String>,
        until: Instant,
    ) -> Result<BTreeMap<ObjectName, u64>, ObjectError> {
        let begun = time::nanos(&*self.client.clock);
        let prefix = self.layout.segments();
        let mut listed = BTreeMap::new();
        loop {
            let page = self.client.list(&prefix, after.as_deref(), until)?;
            let named = page.objects.iter().filter_map(|object| {
                let name = ObjectName::parse(object.key.strip_prefix(&prefix)?)?;
                let fits =
                    name.footer_bytes <= MAX_FOOTER_BYTES && name.tail_bytes() <= object.size;
                fits.then_some((name, object.size))
            });
            listed.extend(named);
            bound(&mut listed);
            after = page.objects.into_iter().next_back().map(|it| it.key);
            if page.is_last {
                scan.listed_at = begun;
                return Ok(listed);
            }
        }
    }

    /// Indexes the rows of the newest segments, as many as the index may have, and detaches older ones. Returns
    /// whether that is complete: footers that did not come are read at the next refresh.
    fn load(&self, scan: &mut Scan, until: Instant) -> Result<bool, ObjectError> {
        let mut loads = self.choose(scan);
        loads.retain(|load| match self.footers.load(&load.name, load.size) {
            Some(footer) => {
                self.index(load, &footer);
                false
            }
            None => true,
        });
        let mut is_complete = true;
        for loads in loads.chunks(FOOTERS_AT_ONCE) {
            let reads = loads.iter().map(|load| RangeRead {
                key: self.layout.segment(&load.name),
                range: load.size - load.name.tail_bytes()..load.size,
            });
            let reads: Vec<RangeRead> = reads.collect();
            let (mut failed, mut are_answered) = (None, false);
            let done = |n: usize, read: Result<Vec<u8>, ObjectError>| match self.take_footer(
                &mut scan.attempts,
                &loads[n],
                read,
            ) {
                Ok(is_final) => {
                    are_answered = true;
                    is_complete &= is_final;
                }
                Err(error) => failed = Some(error),
            };
            self.client.read(Caller::Background, &reads, until, done);
            if let Some(error) = failed {
                is_complete = false;
                if !are_answered {
                    return Err(error);
                }
            }
        }
        Ok(is_complete)
    }

    /// Which segments have to be indexed, from the newest on.
    fn choose(&self, scan: &Scan) -> Vec<Load> {
        let (live, gone) = self.rows.segments();
        let mut all: BTreeMap<ObjectName, u64> = scan.listed.clone();
        all.extend(live.iter().map(|(name, segment)| (*name, segment.size)));
        let is_readable = |name: &ObjectName| {
            !gone.contains(name) && scan.attempts.get(name).is_none_or(|it| *it < MAX_ATTEMPTS)
        };
        let (mut loads, mut beyond, mut rows) = (Vec::new(), Vec::new(), 0);
        for (name, size) in all.into_iter().rev().filter(|(name, _)| is_readable(name)) {
            rows += name.max_rows();
            let segment = live.get(&name).cloned();
            match segment {
                Some(_) if rows > self.max_rows => beyond.push(name),
                None if rows > self.max_rows => {}
                Some(segment) if !segment.is_unshadowed() => {}
                segment => loads.push(Load {
                    name,
                    size,
                    segment,
                }),
            }
        }
        if rows > self.max_rows {
            let reason = format_args!("{rows} rows; at most {} are known", self.max_rows);
            self.client.warnings.note(Warning::IndexFull, reason);
        }
        self.rows.detach(&beyond);
        self.rows.sweep();
        loads
    }

    /// Takes over a footer that was read. Returns whether it is not to be read again.
    fn take_footer(
        &self,
        attempts: &mut HashMap<ObjectName, u8>,
        load: &Load,
        read: Result<Vec<u8>, ObjectError>,
    ) -> Result<bool, ObjectError> {
        let tail = match read {
            Err(error) if error.is_not_found() => {
                self.note_gone(&load.name);
                return Ok(true);
            }
            read => read?,
        };
        match Footer::from_tail(&tail, load.size) {
            Ok(footer) => {
                self.footers.keep(&load.name, &tail);
                self.index(load, &footer);
                Ok(true)
            }
            Err(error) => {
                let tries = attempts.entry(load.name).or_default();
                *tries = match error {
                    SegmentError::FutureVersion(_) => MAX_ATTEMPTS,
                    _ => *tries + 1,
                };
                self.corrupt.fetch_add(1, Ordering::Relaxed);
                self.client.warnings.note(Warning::Corrupt, &error);
                Ok(*tries >= MAX_ATTEMPTS)
            }
        }
    }

    fn index(&self, load: &Load, footer: &Footer) {
        match &load.segment {
            Some(segment) => self.rows.index(segment, footer),
            None => self.rows.insert(load.name, load.size, footer),
        }
    }

    /// Those of the keys whose rows need not be put: the remote has them now, and none was seen to be damaged. Looks for new
    /// segments first. Other machines may have removed segments since they were listed, and have changed the hint for
    /// another reason as well.
    pub(super) fn present(
        &self,
        keys: &[Key],
        until: Instant,
    ) -> Result<HashSet<Key>, ObjectError> {
        self.refresh(until)?;
        let mut present = self.rows.present(keys);
        let segments = present.values().map(|it| (it.id, it.clone()));
        let segments: Vec<_> = segments.collect::<HashMap<_, _>>().into_values().collect();
        match segments.len() {
            0 => return Ok(HashSet::new()),
            1..=MOST_PROBED => self.probe_segments(&segments, until)?,
            _ => {
                self.schedule().is_full_wanted = true;
                self.refresh(until)?;
            }
        }
        let live = self.rows.names();
        present.retain(|_, segment| live.contains(&segment.name));
        Ok(present.into_keys().collect())
    }

    /// Reads a byte of each of these segments, and detaches those that are gone.
    fn probe_segments(
        &self,
        segments: &[Arc<RemoteSegment>],
        until: Instant,
    ) -> Result<(), ObjectError> {
        let reads = segments.iter().map(|segment| RangeRead {
            key: self.layout.segment(&segment.name),
            range: segment.size - 1..segment.size,
        });
        let reads: Vec<RangeRead> = reads.collect();
        let mut result = Ok(());
        let done = |n: usize, read: Result<Vec<u8>, ObjectError>| match read {
            Ok(_) => {}
            Err(error) if error.is_not_found() => self.note_gone(&segments[n].name),
            Err(error) => result = Err(error),
        };
        self.client.read(Caller::Background, &reads, until, done);
        result
    }

    /// Keeps the end of a segment that this process put, and indexes its rows unless the index is full. They were read
    /// after so many calls of [`supersede`](Self::supersede).
    pub(super) fn add(
        &self,
        name: ObjectName,
        size: u64,
        footer: &Footer,
        tail: &[u8],
        supersessions: u64,
    ) {
        self.footers.keep(&name, tail);
        if self.rows.len() + footer.row_count() <= self.max_rows {
            self.rows.insert(name, size, footer);
            self.rows.reinstate(footer, supersessions);
        }
    }

    /// The rows that are read from a segment. Its footer is read again where it is not on the local disk.
    pub(super) fn rows_of(
        &self,
        segment: &RemoteSegment,
        until: Instant,
    ) -> Result<Vec<RemoteRow>, ObjectError> {
        let RemoteSegment { name, size, .. } = segment;
        let footer = match self.footers.load(name, *size) {
            Some(footer) => footer,
            None => {
                let read = RangeRead {
                    key: self.layout.segment(name),
                    range: size - name.tail_bytes()..*size,
                };
                let mut tail = Err(ObjectErrorKind::TimedOut.into());
                let done = |_, read| tail = read;
                self.client.read(Caller::Background, &[read], until, done);
                let corrupt = |error| ObjectError::new(ObjectErrorKind::Other, error);
                Footer::from_tail(&tail?, *size).map_err(corrupt)?
            }
        };
        let keys: Vec<Key> = footer.rows().map(|row| row.key).collect();
        let mut rows: Vec<RemoteRow> = self.rows.find(&keys).into_iter().flatten().collect();
        rows.retain(|row| row.segment.id == segment.id);
        Ok(rows)
    }

    /// An object was seen to be gone: its segment is detached, and everything is listed soon.
    pub(super) fn note_gone(&self, name: &ObjectName) {
        self.rows.note_gone(*name);
        let mut schedule = self.schedule();
        schedule.is_wanted = true;
        schedule.is_full_wanted = true;
        schedule.interval = MIN_INTERVAL;
    }

    /// The record of a row was not the one that was written. It may have been damaged on the way; at the second time it
    /// leaves the index, and another segment may have the row as well.
    pub(super) fn note_corrupt(&self, row: &RemoteRow, error: &SegmentError) {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        self.client.warnings.note(Warning::Corrupt, error);
        let RemoteRow { segment, row, .. } = row;
        {
            let mut doubted = segment.doubted();
            if doubted.len() < MAX_DOUBTED && doubted.insert(fingerprint(&row.key)) {
                return;
            }
        }
        self.rows.remove(&row.key, segment.id);
    }
}

/// Removes the oldest segments beyond those that are known at most.
fn bound(listed: &mut BTreeMap<ObjectName, u64>) {
    while listed.len() > MAX_SEGMENTS {
        listed.pop_first();
    }
}
