//! Puts read marks: which segments this machine read rows of, by day. A mark has what all processes of the machine read,
//! so each adds to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::client::{Caller, Client};
use super::name::{Layout, ObjectName};
use super::object_store::{ObjectError, ObjectErrorKind, RangeRead};
use super::read_marks::ReadMark;
use super::segment::RemoteSegment;
use super::time;
use crate::sync::{Mutex, MutexGuard};

/// How long after the first row of a day its mark is put, and after a failure the next attempt is made. What is read later
/// on that day is added when it is over, or the process ends.
const DELAY: Duration = Duration::from_secs(600);

/// How long putting a mark may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest mark that is added to.
const MAX_BYTES: u64 = 4 << 20;

const NANOS_OF_DAY: u64 = 86_400 * 1_000_000_000;

#[derive(Debug)]
pub(super) struct ReadMarking {
    /// `None` where no marks are put.
    machine: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Segments that are in no mark yet, by the days on which they were read.
    unmarked: BTreeMap<u64, BTreeSet<ObjectName>>,
    /// When the next mark of the day may be put.
    due: Option<Instant>,
    /// The day whose mark was put.
    marked_day: u64,
    /// This machine may not put marks.
    is_denied: bool,
}

impl ReadMarking {
    pub(super) fn new(machine: Option<u64>) -> ReadMarking {
        ReadMarking {
            machine,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present day, in days since 1970.
    pub(super) fn today(&self, client: &Client) -> u64 {
        time::nanos(&*client.clock) / NANOS_OF_DAY
    }

    /// Notes that rows of a segment were read today.
    pub(super) fn note_read(&self, segment: &RemoteSegment, today: u64) {
        if self.machine.is_some() && segment.note_read(today) {
            let mut state = self.state();
            let names = state.unmarked.entry(today).or_default();
            names.insert(segment.name);
        }
    }

    /// Whether a mark can be put.
    pub(super) fn has_unmarked(&self) -> bool {
        let state = self.state();
        self.machine.is_some() && !state.unmarked.is_empty() && !state.is_denied
    }

    /// Puts the marks that are due. With `is_ending`, all of them are.
    pub(super) fn work(&self, client: &Client, layout: &Layout, is_ending: bool) {
        let Some(machine) = self.machine else { return };
        let (today, now) = (self.today(client), client.clock.now());
        let days: Vec<(u64, BTreeSet<ObjectName>)> = {
            let mut state = self.state();
            if state.unmarked.is_empty() || state.is_denied {
                return;
            }
            let due = *state.due.get_or_insert(now + DELAY);
            let is_due = |day: u64| is_ending || day < today || state.marked_day < today;
            if !is_ending && now < due {
                return;
            }
            let days = state.unmarked.iter().filter(|(day, _)| is_due(**day));
            days.map(|(day, names)| (*day, names.clone())).collect()
        };
        for (day, names) in days {
            let noon = UNIX_EPOCH + Duration::from_nanos(day * NANOS_OF_DAY + NANOS_OF_DAY / 2);
            let put = put(client, layout, ReadMark::new(noon, machine), &names);
            let mut state = self.state();
            match put {
                Ok(()) => {
                    state.marked_day = day;
                    state.due = None;
                    if let Some(unmarked) = state.unmarked.get_mut(&day) {
                        unmarked.retain(|name| !names.contains(name));
                    }
                    state.unmarked.retain(|_, names| !names.is_empty());
                }
                Err(error) => {
                    state.is_denied = error.kind == ObjectErrorKind::Denied;
                    state.due = Some(now + DELAY);
                    return;
                }
            }
        }
    }
}

/// Adds names to a mark.
fn put(
    client: &Client,
    layout: &Layout,
    mark: ReadMark,
    names: &BTreeSet<ObjectName>,
) -> Result<(), ObjectError> {
    let until = client.clock.now() + TIMEOUT;
    let key = layout.read_mark(&mark);
    let mut all = names.clone();
    let page = client.list(&key, None, until)?;
    let present = page.objects.into_iter().find(|object| object.key == key);
    if let Some(present) = present {
        let range = 0..present.size.min(MAX_BYTES);
        let mut content = Err(ObjectErrorKind::TimedOut.into());
        let reads = [RangeRead {
            key: key.clone(),
            range,
        }];
        client.read(Caller::Background, &reads, until, |_, read| content = read);
        let content = content?;
        let damaged = || ObjectError::new(ObjectErrorKind::Other, "the read mark is damaged");
        let marked = ReadMark::names(&content).ok_or_else(damaged)?.into_iter();
        let marked: BTreeSet<ObjectName> = marked.filter_map(ObjectName::parse).collect();
        if names.is_subset(&marked) {
            return Ok(());
        }
        all.extend(marked);
    }
    client.set(&key, ReadMark::content(all).as_bytes(), until)
}
