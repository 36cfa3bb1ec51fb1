//! The rows of the memory tier that lie on the CPU: slots that threads fill, read and empty
//! without a lock.

#![expect(
    unsafe_code,
    reason = "rows of one mapping are shared between threads one by one"
)]

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use memmap2::{MmapMut, MmapRaw};
use torchcache_store::RowValues;

/// Rows of one length in memory of their own, between threads that fill, read and empty them.
///
/// No lock guards a row; the state of its slot does. It is empty, or one thread is filling it, or
/// it is full and any number of [`PinnedRows`] hold it as it is. What the state does not allow is refused
/// and not waited for, so nobody is ever held up.
pub(crate) struct RowArena {
    memory: MmapRaw,
    row_bytes: usize,
    states: Box<[AtomicU32]>,
}

const EMPTY: u32 = 0;
/// Each pin adds one.
const FULL: u32 = 1;
const FILLING: u32 = u32::MAX;

/// From this size on, a arena asks for huge pages: as many faults fewer when it is filled.
const HUGE_PAGE: usize = 2 << 20;

impl RowArena {
    /// Room for `rows` rows. The system gives memory to those that are filled.
    ///
    /// # Errors
    ///
    /// Address space that cannot be had.
    pub(crate) fn new(rows: usize, row_bytes: usize) -> io::Result<Self> {
        let length = rows.checked_mul(row_bytes).ok_or(ErrorKind::OutOfMemory)?;
        let memory = MmapMut::map_anon(length.max(1))?;
        #[cfg(target_os = "linux")]
        if length >= HUGE_PAGE {
            // Without them it works as well.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(RowArena {
            memory: memory.into(),
            row_bytes,
            states: (0..rows).map(|_| AtomicU32::new(EMPTY)).collect(),
        })
    }

    /// Has the system give memory to empty rows before they are filled, which is most of what filling
    /// them would take. What they hold by then stays.
    pub(crate) fn populate(&self, rows: Range<usize>) {
        let length = rows.len() * self.row_bytes;
        #[cfg(target_os = "linux")]
        if length > 0 {
            // A kernel before 5.14 does not know how: then filling does it.
            let begin = rows.start * self.row_bytes;
            let how = memmap2::Advice::PopulateWrite;
            let _ = self.memory.advise_range(how, begin, length);
        }
    }

    /// How many rows there is room for.
    pub(crate) fn rows(&self) -> usize {
        self.states.len()
    }

    /// How many bytes a row has.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Copies a row into an empty slot; `false` where the slot is not empty.
    pub(crate) fn fill(&self, slot: usize, row: &[u8]) -> bool {
        assert_eq!(row.len(), self.row_bytes, "a row of another arena");
        let state = &self.states[slot];
        if state
            .compare_exchange(EMPTY, FILLING, Acquire, Relaxed)
            .is_err()
        {
            return false;
        }
        // SAFETY: the slot lies within the mapping, which was made for `states.len()` rows. Its
        // state was just taken from empty to filling, which one thread can do; until it is full,
        // nobody else reads or writes these bytes. The source does not overlap: `PinnedRows` give out
        // full slots only, and this one is being filled.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.slot(slot), row.len()) };
        state.store(FULL, Release);
        true
    }

    /// Lets the slot be filled anew; `false` while somebody fills or pins it.
    pub(crate) fn empty(&self, slot: usize) -> bool {
        match self.states[slot].compare_exchange(FULL, EMPTY, AcqRel, Relaxed) {
            Ok(_) => true,
            Err(state) => state == EMPTY,
        }
    }

    /// Whether somebody fills or pins the slot.
    pub(crate) fn is_pinned(&self, slot: usize) -> bool {
        !matches!(self.states[slot].load(Relaxed), EMPTY | FULL)
    }

    fn pin(&self, slot: usize) -> bool {
        let more = |state: u32| (FULL..FILLING - 1).contains(&state).then(|| state + 1);
        self.states[slot]
            .fetch_update(Acquire, Relaxed, more)
            .is_ok()
    }

    fn unpin(&self, slot: usize) {
        self.states[slot].fetch_sub(1, Release);
    }

    fn slot(&self, slot: usize) -> *mut u8 {
        self.memory.as_mut_ptr().wrapping_add(slot * self.row_bytes)
    }
}

impl std::fmt::Debug for RowArena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowArena")
            .field("rows", &self.rows())
            .field("row_bytes", &self.row_bytes)
            .finish_non_exhaustive()
    }
}

/// Rows on arenas that stay as they are for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct PinnedRows {
    arenas: Vec<Arc<RowArena>>,
    /// Which of them, and the slot there.
    rows: Vec<(u32, u32)>,
}

impl PinnedRows {
    /// PinnedRows a row beside the others; `false` where the slot holds none.
    pub(crate) fn add(&mut self, arena: &Arc<RowArena>, slot: u32) -> bool {
        if !arena.pin(slot as usize) {
            return false;
        }
        // There are few arenas, and the last one is likely the same.
        let known = self.arenas.iter().rposition(|it| Arc::ptr_eq(it, arena));
        let number = known.unwrap_or_else(|| {
            self.arenas.push(arena.clone());
            self.arenas.len() - 1
        });
        self.rows.push((number as u32, slot));
        true
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

impl RowValues for PinnedRows {
    fn row(&self, row: usize) -> &[u8] {
        let (arena, slot) = self.rows[row];
        let arena = &self.arenas[arena as usize];
        // SAFETY: the slot lies within the mapping, which `arena` keeps. It was full when it was
        // pinned, and a pinned slot is neither emptied nor filled, so these bytes are initialised
        // and do not change until `self`, which the slice borrows from, is dropped.
        unsafe { std::slice::from_raw_parts(arena.slot(slot as usize), arena.row_bytes) }
    }
}

impl Drop for PinnedRows {
    fn drop(&mut self) {
        for &(arena, slot) in &self.rows {
            self.arenas[arena as usize].unpin(slot as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_row_is_read_until_it_is_emptied() {
        let arena = Arc::new(RowArena::new(2, 3).unwrap());
        assert!(
            !PinnedRows::default().add(&arena, 0),
            "an empty slot has no row"
        );
        assert!(arena.fill(0, &[1, 2, 3]));
        assert!(
            !arena.fill(0, &[4, 5, 6]),
            "a full slot is not filled again"
        );
        let mut pins = PinnedRows::default();
        assert!(pins.add(&arena, 0) && pins.add(&arena, 0));
        assert!(!arena.empty(0), "somebody reads it");
        assert_eq!(
            (pins.row(0), pins.row(1)),
            ([1, 2, 3].as_slice(), [1, 2, 3].as_slice())
        );
        drop(pins);
        assert!(arena.empty(0) && arena.fill(0, &[4, 5, 6]));
        let mut pins = PinnedRows::default();
        assert!(pins.add(&arena, 0));
        assert_eq!(pins.row(0), [4, 5, 6]);
    }

    #[test]
    fn pinned_rows_outlive_what_made_them() {
        let arena = Arc::new(RowArena::new(1, 1).unwrap());
        let mut pins = PinnedRows::default();
        assert!(arena.fill(0, &[7]) && pins.add(&arena, 0));
        drop(arena);
        assert_eq!(pins.row(0), [7]);
    }

    #[test]
    fn rows_without_bytes_have_slots_as_well() {
        let arena = Arc::new(RowArena::new(2, 0).unwrap());
        let mut pins = PinnedRows::default();
        assert!(arena.fill(1, &[]) && pins.add(&arena, 1));
        assert!(pins.row(0).is_empty());
    }

    #[test]
    fn what_no_address_space_can_hold_is_an_error() {
        assert!(RowArena::new(usize::MAX / 2, 3).is_err());
    }

    #[test]
    fn no_reader_ever_sees_a_row_half_filled() {
        let arena = Arc::new(RowArena::new(1, 4096).unwrap());
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let arena = arena.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    for round in 0..4000u16 {
                        arena.empty(0);
                        arena.fill(0, &[thread ^ round as u8; 4096]);
                        let mut pins = PinnedRows::default();
                        if pins.add(&arena, 0) {
                            let row = pins.row(0);
                            assert!(row.iter().all(|byte| *byte == row[0]));
                            seen += 1;
                        }
                    }
                    seen
                })
            })
            .collect();
        let seen: u32 = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        assert!(seen > 0);
    }

    #[test]
    fn rows_that_get_their_memory_early_keep_what_they_hold() {
        let arena = Arc::new(RowArena::new(1000, 5000).unwrap());
        assert!(arena.fill(3, &[7; 5000]));
        arena.populate(0..1000);
        arena.populate(999..1000);
        arena.populate(1000..1000);
        let mut pins = PinnedRows::default();
        assert!(pins.add(&arena, 3) && !pins.add(&arena, 4));
        assert_eq!(pins.row(0), [7; 5000]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn rows_get_their_memory_before_they_are_filled() {
        let arena = RowArena::new(64, 1 << 20).unwrap();
        let resident = || -> usize {
            let begin = arena.memory.as_ptr() as usize;
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut is_inside = false;
            for line in maps.lines() {
                let range = line.split(' ').next().and_then(|it| it.split_once('-'));
                let address = |text| usize::from_str_radix(text, 16);
                if let Some((Ok(from), Ok(to))) =
                    range.map(|(from, to)| (address(from), address(to)))
                {
                    is_inside = (from..to).contains(&begin);
                } else if is_inside && let Some(size) = line.strip_prefix("Rss:") {
                    return size.trim().trim_end_matches(" kB").parse().unwrap();
                }
            }
            panic!("the system does not know the arena");
        };
        let before = resident();
        arena.populate(16..32);
        let populated = resident() - before;
        assert!((16 << 10..=20 << 10).contains(&populated), "{populated} kB");
    }
}
