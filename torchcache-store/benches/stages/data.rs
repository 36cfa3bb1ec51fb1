//! The rows that are stored and read: as large as those of the three workloads, and one short row.

use std::sync::Arc;

use torchcache_store::{Key, RowBatch, RowValues};

use crate::common::key;

/// Calls of `rows` rows of one length.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) rows: usize,
    pub(crate) row_len: usize,
    pub(crate) calls: usize,
}

pub(crate) const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "vision",
        rows: 64,
        row_len: 2048,
        calls: 32,
    },
    Workload {
        name: "embed",
        rows: 256,
        row_len: 3072,
        calls: 32,
    },
    Workload {
        name: "tokens",
        rows: 32,
        row_len: 196_608,
        calls: 16,
    },
    Workload {
        name: "one row",
        rows: 1,
        row_len: 64,
        calls: 1024,
    },
];

/// The keys and values of one call.
pub(crate) struct Call {
    pub(crate) keys: Vec<Key>,
    pub(crate) values: Arc<Rows>,
}

pub(crate) struct Rows {
    pub(crate) bytes: Vec<u8>,
    row_len: usize,
}

impl RowValues for Rows {
    fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_len..][..self.row_len]
    }
}

impl Workload {
    /// The rows of a call, of floats around zero like most layers' outputs.
    pub(crate) fn call(&self, n: usize) -> Call {
        let keys: Vec<Key> = (0..self.rows)
            .map(|row| key((n * self.rows + row) as u64))
            .collect();
        let mut bytes = Vec::with_capacity(self.rows * self.row_len);
        for key in &keys {
            let mut noise = vec![0; 4 * self.row_len];
            blake3::Hasher::new_keyed(key)
                .finalize_xof()
                .fill(&mut noise);
            let (noise, _) = noise.as_chunks::<16>();
            bytes.extend(noise.iter().flat_map(|noise| bell(noise).to_le_bytes()));
        }
        let row_len = self.row_len;
        Call {
            keys,
            values: Arc::new(Rows { bytes, row_len }),
        }
    }

    /// A call of an epoch that visits the rows of all calls in random order.
    pub(crate) fn scattered(&self, n: usize) -> impl Iterator<Item = usize> {
        let all = self.rows * self.calls;
        (0..self.rows).map(move |row| ((n * self.rows + row) * 7919 + 31) % all)
    }
}

/// A bell-shaped float from sixteen random bytes.
fn bell(noise: &[u8; 16]) -> f32 {
    let halves = noise.as_chunks::<4>().0.iter();
    let sum: f64 = halves
        .map(|four| f64::from(u32::from_le_bytes(*four)))
        .sum();
    ((sum / f64::from(u32::MAX)) - 2.0) as f32
}

impl Call {
    pub(crate) fn batch(&self, row_len: usize) -> RowBatch {
        let schema = b"schema".as_slice().into();
        RowBatch::shared(self.keys.clone(), schema, self.values.clone(), row_len)
            .expect("the parts fit")
            .element_bytes(4)
    }
}
