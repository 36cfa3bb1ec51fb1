//! [`RowArena`]: slots for the rows of the memory tier on the CPU, filled, read and emptied without a
//! lock. The [state](SlotStates) of a slot controls access to its bytes, which the borrow checker cannot.

#![expect(unsafe_code, reason = "threads share one mapping slot by slot")]

use std::io::{self, ErrorKind};
use std::ops::Range;

use memmap2::{MmapMut, MmapRaw};
use torchcache_store::RowValues;

use super::budget::Share;
use super::slots::{Pins, SlotStates, Slots};

/// Slots for rows of one length, in a mapping of their own.
pub(crate) struct RowArena {
    memory: MmapRaw,
    row_bytes: usize,
    states: SlotStates,
    /// Of the memory of the process, given back with the mapping.
    _share: Share,
}

/// From this size on, an arena asks for huge pages, so that filling it takes fewer page faults.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

impl RowArena {
    /// Maps slots for `rows` rows. The system allocates memory for those that are filled.
    ///
    /// # Errors
    ///
    /// A mapping that fails, or after which the system would not map as much again: the program needs
    /// memory as well.
    pub(crate) fn new(rows: usize, row_bytes: usize) -> io::Result<Self> {
        let length = rows.checked_mul(row_bytes).ok_or(ErrorKind::OutOfMemory)?;
        let memory = MmapMut::map_anon(length.max(1))?;
        drop(MmapMut::map_anon(length.max(1))?);
        #[cfg(target_os = "linux")]
        if length >= HUGE_PAGE {
            // Optional: ignored where the system refuses.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(RowArena {
            memory: memory.into(),
            row_bytes,
            states: SlotStates::new(rows),
            _share: Share::default(),
        })
    }

    /// Keeps a share of a budget as long as the mapping.
    pub(crate) fn with_share(self, share: Share) -> Self {
        RowArena {
            _share: share,
            ..self
        }
    }

    /// Has the system allocate memory for slots before they are filled, which is most of the cost of
    /// filling them. Full slots keep their rows.
    pub(crate) fn populate(&self, rows: Range<usize>) {
        #[cfg(target_os = "linux")]
        if !rows.is_empty() && self.row_bytes > 0 {
            // Kernels before 5.14 refuse: then filling the slot allocates.
            let (begin, length) = (rows.start * self.row_bytes, rows.len() * self.row_bytes);
            let advice = memmap2::Advice::PopulateWrite;
            let _ = self.memory.advise_range(advice, begin, length);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = rows;
    }

    /// The number of slots.
    pub(crate) fn rows(&self) -> usize {
        self.states.count()
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Copies a row into an empty slot; `false` where the slot is not empty.
    pub(crate) fn fill(&self, slot: usize, row: &[u8]) -> bool {
        assert_eq!(row.len(), self.row_bytes, "a row of another arena");
        if !self.states.begin_filling(slot) {
            return false;
        }
        // SAFETY: the slot is within the mapping, which was made for as many rows as there are states. This
        // thread has just taken the slot from empty to filling; until it is full, no other thread reads or
        // writes these bytes. The source does not overlap: `PinnedRows` return full slots only.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.slot(slot), row.len()) };
        self.states.end_filling(slot);
        true
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

impl Slots for RowArena {
    fn states(&self) -> &SlotStates {
        &self.states
    }
}

/// Rows in arenas that are neither emptied nor overwritten until this is dropped.
pub(crate) type PinnedRows = Pins<RowArena>;

impl RowValues for PinnedRows {
    fn row(&self, row: usize) -> &[u8] {
        let (arena, slot) = self.place(row);
        let arena = &self.chunks()[arena];
        // SAFETY: the slot is within the mapping, which `arena` keeps alive. It was full when it was
        // pinned, and a pinned slot is neither emptied nor filled: so these bytes are initialised
        // and do not change until `self`, which the slice borrows from, is dropped.
        unsafe { std::slice::from_raw_parts(arena.slot(slot), arena.row_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_pinned_slot_is_not_emptied() {
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
        let mut pinned = PinnedRows::default();
        assert!(pinned.add(&arena, 0) && pinned.add(&arena, 0));
        assert!(!arena.states().empty(0), "the slot is pinned");
        assert_eq!(
            (pinned.row(0), pinned.row(1)),
            ([1, 2, 3].as_slice(), [1, 2, 3].as_slice())
        );
        drop(pinned);
        assert!(arena.states().empty(0) && arena.fill(0, &[4, 5, 6]));
        let mut pinned = PinnedRows::default();
        assert!(pinned.add(&arena, 0));
        assert_eq!(pinned.row(0), [4, 5, 6]);
    }

    #[test]
    fn pinned_rows_keep_their_arena() {
        let arena = Arc::new(RowArena::new(1, 1).unwrap());
        let mut pinned = PinnedRows::default();
        assert!(arena.fill(0, &[7]) && pinned.add(&arena, 0));
        drop(arena);
        assert_eq!(pinned.row(0), [7]);
    }

    #[test]
    fn empty_rows_have_slots() {
        let arena = Arc::new(RowArena::new(2, 0).unwrap());
        let mut pinned = PinnedRows::default();
        assert!(arena.fill(1, &[]) && pinned.add(&arena, 1));
        assert!(pinned.row(0).is_empty());
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(RowArena::new(usize::MAX / 2, 3).is_err());
    }

    #[test]
    fn readers_never_see_a_half_filled_row() {
        let arena = Arc::new(RowArena::new(1, 4096).unwrap());
        let threads: Vec<_> = (0..4u8)
            .map(|thread| {
                let arena = arena.clone();
                std::thread::spawn(move || {
                    let mut seen = 0;
                    for round in 0..4000u16 {
                        arena.states().empty(0);
                        arena.fill(0, &[thread ^ round as u8; 4096]);
                        let mut pinned = PinnedRows::default();
                        if pinned.add(&arena, 0) {
                            let row = pinned.row(0);
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
    fn populating_keeps_full_rows() {
        let arena = Arc::new(RowArena::new(1000, 5000).unwrap());
        assert!(arena.fill(3, &[7; 5000]));
        arena.populate(0..1000);
        arena.populate(999..1000);
        arena.populate(1000..1000);
        let mut pinned = PinnedRows::default();
        assert!(pinned.add(&arena, 3) && !pinned.add(&arena, 4));
        assert_eq!(pinned.row(0), [7; 5000]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn populating_allocates_memory() {
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
            panic!("the mapping is not in /proc/self/smaps");
        };
        let before = resident();
        arena.populate(16..32);
        let populated = resident() - before;
        assert!((16 << 10..=20 << 10).contains(&populated), "{populated} kB");
    }
}
