//! The accesses of a launch to global memory.

use std::collections::HashMap;

use crate::error::Fault;

const PAGE_BYTES: u64 = 4096;

/// Which bytes a launch has read and written.
#[derive(Default)]
pub(crate) struct GlobalAccesses {
    pages: HashMap<u64, Box<Page>>,
}

/// A bit for each byte.
struct Page {
    read: [u64; (PAGE_BYTES / 64) as usize],
    written: [u64; (PAGE_BYTES / 64) as usize],
}

impl GlobalAccesses {
    /// Adds an access of at most 64 bytes to an address that is a multiple of its size. Blocks and threads may
    /// run in any order, so a byte is only read, or written once.
    pub(crate) fn add(&mut self, write: bool, address: u64, bytes: usize) -> Result<(), Fault> {
        let page = self.pages.entry(address / PAGE_BYTES).or_insert_with(|| {
            Box::new(Page {
                read: [0; _],
                written: [0; _],
            })
        });
        let word = (address % PAGE_BYTES / 64) as usize;
        let bits = (u64::MAX >> (64 - bytes)) << (address % 64);
        let (read, written) = (&mut page.read[word], &mut page.written[word]);
        let conflicts = match write {
            true => *read | *written,
            false => *written,
        };
        if conflicts & bits != 0 {
            return Err(Fault::GlobalRace { write, address });
        }
        *if write { written } else { read } |= bits;
        Ok(())
    }
}
