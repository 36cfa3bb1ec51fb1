//! Row keys.

/// The key of a row. Keys have to be uniformly distributed, as BLAKE3 digests are.
pub type Key = [u8; 32];

/// The first eight bytes of a key, which tables store in place of the whole.
pub(crate) fn fingerprint(key: &Key) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| key[i]))
}
