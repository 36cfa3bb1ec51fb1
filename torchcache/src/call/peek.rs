//! Where the tiers have the rows of a call.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::cache::tiers::Tiers;
use crate::key::Key;
use crate::schema::TensorSchema;

/// A row of a call, as [`TorchCache::peek`](crate::TorchCache::peek) found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeekedRow {
    /// Its key, as in the `keys` of `torchcache export`.
    pub key: [u8; 32],
    /// What the keys of all rows of its call have in common. With ids, `torchcache key` makes keys of it.
    pub prefix: [u8; 32],
    /// Where it is; `None` if a call would compute it, or wait for another call that does.
    pub tier: Option<Tier>,
}

impl PeekedRow {
    /// The key in 64 hexadecimal digits, as a line of the file that `torchcache export --keys` reads.
    pub fn hex_key(&self) -> String {
        blake3::Hash::from_bytes(self.key).to_hex().to_string()
    }

    /// The prefix in 64 hexadecimal digits, as `torchcache key` takes it.
    pub fn hex_prefix(&self) -> String {
        blake3::Hash::from_bytes(self.prefix).to_hex().to_string()
    }

    /// Whether a call would find it.
    pub fn is_cached(&self) -> bool {
        self.tier.is_some()
    }
}

/// A tier of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Rows in memory, which may be on disk as well.
    Memory,
    /// Rows on disk, or queued for it.
    Disk,
    /// Rows in the [remote](crate::Options::remote), as far as this process knows.
    Remote,
}

/// Where the tiers have rows of these keys, which have `prefix` in common.
pub(super) fn find(tiers: &Tiers, keys: &[Key], prefix: Key) -> Vec<PeekedRow> {
    let mut found: Vec<Option<Tier>> = {
        let memory = tiers.memory();
        let find = |key: &Key| memory.contains(key).then_some(Tier::Memory);
        keys.iter().map(find).collect()
    };
    if let Some(store) = &tiers.store {
        find_in(Tier::Disk, |keys| store.locate(keys), keys, &mut found);
    }
    if let Some(remote) = &tiers.remote {
        let known = |keys: &[Key]| remote.locate(keys, Instant::now());
        find_in(Tier::Remote, known, keys, &mut found);
    }
    let rows = keys.iter().zip(found);
    rows.map(|(&key, tier)| PeekedRow { key, prefix, tier })
        .collect()
}

/// Finds rows in a tier that are in no nearer one.
fn find_in<R>(
    tier: Tier,
    locate: impl FnOnce(&[Key]) -> Vec<Option<R>>,
    keys: &[Key],
    tiers: &mut [Option<Tier>],
) {
    let missing = tiers.iter().zip(keys).filter(|(tier, _)| tier.is_none());
    let missing: Vec<Key> = missing.map(|(_, key)| *key).collect();
    let missing_tiers = tiers.iter_mut().filter(|tier| tier.is_none());
    for (found, located) in missing_tiers.zip(locate(&missing)) {
        *found = located.map(|_| tier);
    }
}

/// The distinct schemas of rows with these keys, as far as this version can read them.
pub(super) fn schemas<'k>(tiers: &Tiers, keys: impl Iterator<Item = &'k Key>) -> Vec<TensorSchema> {
    let mut schemas: Vec<TensorSchema> = Vec::new();
    let mut elsewhere = Vec::new();
    {
        let memory = tiers.memory();
        for key in keys {
            match memory.schema_of(key) {
                Some(schema) if schemas.contains(schema) => {}
                Some(schema) => schemas.push(TensorSchema::clone(schema)),
                None => elsewhere.push(*key),
            }
        }
    }
    let mut encoded = BTreeSet::new();
    if let Some(store) = tiers.store.as_ref().filter(|_| !elsewhere.is_empty()) {
        let located = store.locate(&elsewhere);
        encoded.extend(located.iter().flatten().map(|row| row.schema().to_vec()));
    }
    if let Some(remote) = tiers.remote.as_ref().filter(|_| !elsewhere.is_empty()) {
        let located = remote.locate(&elsewhere, Instant::now());
        encoded.extend(located.iter().flatten().map(|row| row.schema().to_vec()));
    }
    schemas.extend(
        encoded
            .iter()
            .filter_map(|it: &Vec<u8>| TensorSchema::decode(it)),
    );
    schemas
}
