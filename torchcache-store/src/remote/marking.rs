//! Puts read marks: which segments this process read rows of. Each is an object of its own, so processes need not know
//! of each other.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::client::Client;
use super::name::{Layout, ObjectName, random};
use super::object_store::ObjectErrorKind;
use super::read_marks::ReadMark;
use super::segment::RemoteSegment;
use super::time;
use crate::sync::{Mutex, MutexGuard};

/// How long after the first row of a day its mark is put, and after a failure the next attempt is made. What is read later
/// on that day is in the mark of the next day, or in one that is put when the process ends.
const DELAY: Duration = Duration::from_secs(600);

/// How long putting a mark may take.
const TIMEOUT: Duration = Duration::from_secs(60);

const NANOS_OF_DAY: u64 = 86_400 * 1_000_000_000;

#[derive(Debug)]
pub(super) struct ReadMarking {
    is_enabled: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Segments that were read and are in no mark yet.
    unmarked: BTreeSet<ObjectName>,
    /// When the next mark may be put.
    due: Option<Instant>,
    /// The day whose mark was put.
    marked_day: u64,
    /// This machine may not put marks.
    is_denied: bool,
}

impl ReadMarking {
    pub(super) fn new(is_enabled: bool) -> ReadMarking {
        ReadMarking {
            is_enabled,
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
        if self.is_enabled && segment.note_read(today) {
            self.state().unmarked.insert(segment.name);
        }
    }

    /// Whether a mark can be put.
    pub(super) fn has_unmarked(&self) -> bool {
        let state = self.state();
        !state.unmarked.is_empty() && !state.is_denied
    }

    /// Puts a mark if one is due. With `is_ending`, it is if a segment is in none yet.
    pub(super) fn work(&self, client: &Client, layout: &Layout, is_ending: bool) {
        let (today, now) = (self.today(client), client.clock.now());
        let names = {
            let mut state = self.state();
            if state.unmarked.is_empty() || state.is_denied {
                return;
            }
            if !is_ending {
                if state.marked_day >= today {
                    return;
                }
                if now < *state.due.get_or_insert(now + DELAY) {
                    return;
                }
            }
            state.unmarked.clone()
        };
        // Children of one process draw the same bits.
        let random = random(u64::from(std::process::id()));
        let mark = ReadMark::new(client.clock.time_of_day(), random);
        let content = ReadMark::content(&names);
        let put = client.set(&layout.read_mark(&mark), content.as_bytes(), now + TIMEOUT);
        let mut state = self.state();
        match put {
            Ok(()) => {
                state.marked_day = today;
                state.due = None;
                state.unmarked.retain(|name| !names.contains(name));
            }
            Err(error) => {
                state.is_denied = error.kind == ObjectErrorKind::Denied;
                state.due = Some(now + DELAY);
            }
        }
    }
}
