//! The table of queued rows: from key to batch and row, so that each of them is a hit. It knows
//! nothing of order, time and room, which are the queue's.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::batch::{Losses, RowBatch};
use crate::key::{Key, fingerprint};

/// The rows of a batch that have to be written. Rows that were present already are left out.
#[derive(Clone, Debug)]
pub(crate) struct QueuedRows {
    /// The number of the batch, from 1, in the order of arrival.
    pub(crate) seq: u64,
    pub(crate) batch: Arc<RowBatch>,
    pub(crate) numbers: Vec<u32>,
}

/// Every row that waits or is being written.
#[derive(Debug, Default)]
pub(crate) struct PendingRows {
    table: HashTable<Pending>,
    /// The number of the newest batch.
    newest: u64,
}

/// A queued row. It holds the fingerprint so that growing the table reads no key.
#[derive(Debug)]
struct Pending {
    fingerprint: u64,
    batch: Arc<RowBatch>,
    row: u32,
    /// Other users of the store who put the row while it was queued.
    others: Vec<Arc<Losses>>,
}

impl Pending {
    fn holds(&self, fingerprint: u64, key: &Key) -> bool {
        self.fingerprint == fingerprint && self.batch.key(self.row) == key
    }
}

impl PendingRows {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The number of the newest batch.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// The batch and row that hold the value of a key.
    pub(crate) fn find(&self, key: &Key) -> Option<(&Arc<RowBatch>, u32)> {
        let wanted = fingerprint(key);
        let pending = self
            .table
            .find(wanted, |pending| pending.holds(wanted, key))?;
        Some((&pending.batch, pending.row))
    }

    /// Inserts those of the numbered rows whose keys are not in the table, and returns them. Of a key
    /// that comes twice in one batch, the first row wins.
    pub(crate) fn insert(
        &mut self,
        batch: &Arc<RowBatch>,
        mut numbers: Vec<u32>,
    ) -> Option<QueuedRows> {
        let table = &mut self.table;
        table.reserve(numbers.len(), |pending| pending.fingerprint);
        numbers.retain(|row| {
            let key = batch.key(*row);
            let fingerprint = fingerprint(key);
            let same = |pending: &Pending| pending.holds(fingerprint, key);
            let slot = table.entry(fingerprint, same, |pending| pending.fingerprint);
            let Slot::Vacant(slot) = slot else {
                return false;
            };
            slot.insert(Pending {
                fingerprint,
                batch: batch.clone(),
                row: *row,
                others: Vec::new(),
            });
            true
        });
        if numbers.is_empty() {
            return None;
        }
        self.newest += 1;
        Some(QueuedRows {
            seq: self.newest,
            batch: batch.clone(),
            numbers,
        })
    }

    /// Counts a queued row for another user of the store as well, if it is lost.
    pub(crate) fn share(&mut self, key: &Key, user: &Arc<Losses>) {
        let wanted = fingerprint(key);
        let same = |pending: &Pending| pending.holds(wanted, key);
        if let Some(pending) = self.table.find_mut(wanted, same)
            && !Arc::ptr_eq(pending.batch.losses(), user)
            && !pending.others.iter().any(|other| Arc::ptr_eq(other, user))
        {
            pending.others.push(user.clone());
        }
    }

    /// Removes rows that are on disk or lost: those at the positions `lost`. Does nothing for rows that were
    /// cleared before, except that they count.
    pub(crate) fn remove(&mut self, rows: &QueuedRows, lost: Range<usize>) {
        for (at, row) in rows.numbers.iter().enumerate() {
            let is_lost = lost.contains(&at);
            let same =
                |pending: &Pending| pending.row == *row && Arc::ptr_eq(&pending.batch, &rows.batch);
            let key = rows.batch.key(*row);
            let slot = self.table.find_entry(fingerprint(key), same);
            let removed = slot.ok().map(|slot| slot.remove().0);
            if is_lost {
                rows.batch.losses().add(1);
                let others = removed.iter().flat_map(|pending| &pending.others);
                others.for_each(|other| other.add(1));
            }
        }
        if self.table.is_empty() {
            self.table = HashTable::new(); // frees what a burst made it grow to
        }
    }

    /// Removes the rows of these keys.
    pub(crate) fn remove_keys(&mut self, keys: &HashSet<Key>) {
        for key in keys {
            let wanted = fingerprint(key);
            let same = |pending: &Pending| pending.holds(wanted, key);
            if let Ok(slot) = self.table.find_entry(wanted, same) {
                slot.remove();
            }
        }
    }

    /// Removes all rows. Dropping them may run code of the caller, so no lock may be held then.
    pub(crate) fn clear(&mut self) -> PendingRows {
        let newest = self.newest;
        std::mem::replace(
            self,
            PendingRows {
                table: HashTable::new(),
                newest,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        *blake3::hash(&n.to_le_bytes()).as_bytes()
    }

    /// QueuedRows whose value is the number of their batch.
    fn insert(pending: &mut PendingRows, keys: &[u64], value: u8) -> Option<QueuedRows> {
        let keys: Vec<Key> = keys.iter().map(|n| key(*n)).collect();
        let values = vec![value; keys.len()];
        let schema = b"".as_slice().into();
        let batch = RowBatch::new(keys, schema, values, 1).expect("the parts fit");
        let numbers = (0..batch.rows() as u32).collect();
        pending.insert(&Arc::new(batch), numbers)
    }

    fn value(pending: &PendingRows, n: u64) -> Option<u8> {
        let (batch, row) = pending.find(&key(n))?;
        Some(batch.value(row)[0])
    }

    #[test]
    fn the_first_batch_with_a_key_wins_until_removed() {
        let mut pending = PendingRows::default();
        let first = insert(&mut pending, &[1, 2, 2], 1).expect("they are new");
        assert_eq!((first.seq, &*first.numbers), (1, [0, 1].as_slice()));
        let second = insert(&mut pending, &[2, 3], 2).expect("one is new");
        assert_eq!((second.seq, &*second.numbers), (2, [1].as_slice()));
        assert!(insert(&mut pending, &[3, 1], 3).is_none(), "none is new");
        assert_eq!((pending.newest(), pending.len()), (2, 3));
        let values = |pending: &PendingRows| [1, 2, 3].map(|n| value(pending, n));
        assert_eq!(values(&pending), [Some(1), Some(1), Some(2)]);

        pending.remove(&second, 0..0); // in any order
        assert_eq!(values(&pending), [Some(1), Some(1), None]);
        let third = insert(&mut pending, &[3], 3).expect("it is new again");
        assert_eq!(third.seq, 3);
        pending.remove(&first, 0..0);
        assert_eq!(values(&pending), [None, None, Some(3)]);
        pending.remove(&third, 0..0);
        assert!(pending.is_empty());
    }

    #[test]
    fn removing_cleared_rows_leaves_later_ones() {
        let mut pending = PendingRows::default();
        let before = insert(&mut pending, &[1, 2], 1).expect("they are new");
        assert_eq!(pending.clear().len(), 2);
        let after = insert(&mut pending, &[1, 2], 2).expect("they are new again");
        assert_eq!(after.seq, 2);
        pending.remove(&before, 0..0);
        assert_eq!([1, 2].map(|n| value(&pending, n)), [Some(2); 2]);
    }
}
