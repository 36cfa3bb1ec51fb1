//! Global memory.

/// The global memory of a launch.
pub trait Memory {
    /// Fills `bytes` from an address.
    ///
    /// # Errors
    ///
    /// [`Denied`] if not all of them may be read.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Denied>;

    /// Writes `bytes` to an address.
    ///
    /// # Errors
    ///
    /// [`Denied`] if not all of them may be written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Denied>;
}

/// Why an access is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// Some bytes are not in memory that a launch may access so.
    OutOfBounds,
    /// Some bytes have no value yet.
    Uninitialized,
}

/// The distance between buffers.
const SPACING: u64 = 1 << 40;

/// Memory at made-up addresses, far from each other.
#[derive(Debug, Default)]
pub struct Buffers {
    /// The buffer next to `SPACING`, to twice `SPACING`, …
    buffers: Vec<Buffer>,
}

#[derive(Debug)]
struct Buffer {
    start: u64,
    bytes: Vec<u8>,
    /// Which bytes have a value, of a buffer that can be written.
    written: Option<Vec<bool>>,
}

impl Buffers {
    /// Memory without buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds memory with these bytes, which can be read. Its address is a multiple of 2^40 and `offset`.
    pub fn input(&mut self, offset: u64, bytes: impl Into<Vec<u8>>) -> u64 {
        self.add(offset, bytes.into(), None)
    }

    /// Adds memory without values, which can be written, and read afterwards. Its address is a multiple of 2^40 and
    /// `offset`.
    pub fn output(&mut self, offset: u64, bytes: usize) -> u64 {
        self.add(offset, vec![0; bytes], Some(vec![false; bytes]))
    }

    fn add(&mut self, offset: u64, bytes: Vec<u8>, written: Option<Vec<bool>>) -> u64 {
        let start = SPACING * (self.buffers.len() as u64 + 1) + offset;
        self.buffers.push(Buffer {
            start,
            bytes,
            written,
        });
        start
    }

    /// The bytes of an output, if each of them has been written.
    ///
    /// # Panics
    ///
    /// If `output` is not what [`output`](Self::output) returned.
    pub fn written(&self, output: u64) -> Option<&[u8]> {
        let (index, _) = self.find(output).expect("the address of a buffer");
        let buffer = &self.buffers[index];
        assert_eq!(buffer.start, output, "the address of a buffer");
        let written = buffer.written.as_ref().expect("an output");
        let is_complete = written.iter().all(|&written| written);
        is_complete.then_some(&buffer.bytes)
    }

    /// The index of a buffer, and where an address is in it.
    fn find(&self, address: u64) -> Option<(usize, usize)> {
        let index = (address / SPACING).checked_sub(1)? as usize;
        let at = address.checked_sub(self.buffers.get(index)?.start)?;
        Some((index, at as usize))
    }
}

impl Memory for Buffers {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        let (index, at) = self.find(address).ok_or(Denied::OutOfBounds)?;
        let (buffer, range) = (&self.buffers[index], at..at + bytes.len());
        let from = buffer.bytes.get(range.clone());
        bytes.copy_from_slice(from.ok_or(Denied::OutOfBounds)?);
        match &buffer.written {
            Some(written) if written[range].contains(&false) => Err(Denied::Uninitialized),
            _ => Ok(()),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Denied> {
        let (index, at) = self.find(address).ok_or(Denied::OutOfBounds)?;
        let (buffer, range) = (&mut self.buffers[index], at..at + bytes.len());
        let written = buffer.written.as_mut().ok_or(Denied::OutOfBounds)?;
        let to = buffer.bytes.get_mut(range.clone());
        to.ok_or(Denied::OutOfBounds)?.copy_from_slice(bytes);
        written[range].fill(true);
        Ok(())
    }
}
