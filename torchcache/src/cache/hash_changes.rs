//! [`HashChanges`]: module hashes that change without end, so that no row is found again.

/// After so many changes there is a hint.
pub(super) const MAX_CHANGES: u64 = 10;

/// How often the module hash changed while no row was found again.
#[derive(Debug)]
pub(super) struct HashChanges {
    count: u64,
    /// The rows found, and the calls, before the first of them.
    found: u64,
    calls: u64,
}

impl HashChanges {
    pub(super) const fn new() -> Self {
        HashChanges {
            count: 0,
            found: 0,
            calls: 0,
        }
    }

    /// Counts a change, after so many rows were found in so many calls. Returns how many there were since
    /// rows were found, or since a module hash lasted for more than a call or two.
    pub(super) fn add(&mut self, found: u64, calls: u64) -> u64 {
        if found > self.found || calls.saturating_sub(self.calls) > 2 * self.count {
            *self = HashChanges {
                count: 0,
                found,
                calls,
            };
        }
        self.count += 1;
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_count_while_no_row_is_found_and_no_hash_lasts() {
        let mut changes = HashChanges::new();
        // After a long time with one hash, each call changes it.
        let counts: Vec<u64> = (0..12).map(|call| changes.add(7, 100 + call)).collect();
        assert_eq!(counts, (1..=12).collect::<Vec<_>>());
        assert_eq!(changes.add(8, 112), 1, "a row was found");
        // An evaluation of many batches between two updates.
        let counts: Vec<u64> = (1..12)
            .map(|epoch| changes.add(8, 112 + 100 * epoch))
            .collect();
        assert!(counts.iter().all(|&count| count <= 2), "{counts:?}");
    }
}
