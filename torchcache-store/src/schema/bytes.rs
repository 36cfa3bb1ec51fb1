//! Taking numbers off the front of a schema's bytes.

pub(super) fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

pub(super) fn count(bytes: &mut &[u8]) -> Option<usize> {
    Some(usize::from(u16::from_le_bytes(take(bytes)?)))
}
