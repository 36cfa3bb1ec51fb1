//! The shared memory of a block, which knows the accesses since the last barrier.

use crate::error::Fault;

pub(crate) struct SharedMemory {
    bytes: Vec<u8>,
    states: Vec<State>,
    /// Barriers so far.
    barriers: u32,
}

/// Who accessed a byte.
#[derive(Clone, Copy, Default)]
struct State {
    is_initialized: bool,
    /// Accesses before an earlier number of barriers are forgotten.
    barriers: u32,
    writer: Option<u32>,
    /// The first thread that read, and the first other one.
    readers: [Option<u32>; 2],
}

impl SharedMemory {
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes],
            states: vec![State::default(); bytes],
            barriers: 0,
        }
    }

    /// Orders all accesses so far before all later ones.
    pub(crate) fn barrier(&mut self) {
        self.barriers += 1;
    }

    pub(crate) fn read(
        &mut self,
        thread: u32,
        address: u64,
        bytes: &mut [u8],
    ) -> Result<(), Fault> {
        let start = self.start(address, bytes.len(), false)?;
        for (address, state) in (address..).zip(&mut self.states[start..][..bytes.len()]) {
            if !state.is_initialized {
                let bytes = bytes.len();
                return Err(Fault::Uninitialized { address, bytes });
            }
            state.forget(self.barriers);
            if let Some(other) = state.writer.filter(|&writer| writer != thread) {
                return Err(Fault::SharedRace { address, other });
            }
            match &mut state.readers {
                [first @ None, _] => *first = Some(thread),
                [Some(first), second @ None] if *first != thread => *second = Some(thread),
                _ => {}
            }
        }
        bytes.copy_from_slice(&self.bytes[start..][..bytes.len()]);
        Ok(())
    }

    pub(crate) fn write(&mut self, thread: u32, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        let start = self.start(address, bytes.len(), true)?;
        for (address, state) in (address..).zip(&mut self.states[start..][..bytes.len()]) {
            state.forget(self.barriers);
            let accesses = [state.writer, state.readers[0], state.readers[1]];
            let mut accesses = accesses.into_iter().flatten();
            if let Some(other) = accesses.find(|&other| other != thread) {
                return Err(Fault::SharedRace { address, other });
            }
            state.writer = Some(thread);
            state.is_initialized = true;
        }
        self.bytes[start..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn start(&self, address: u64, bytes: usize, write: bool) -> Result<usize, Fault> {
        let end = address.checked_add(bytes as u64);
        match end {
            Some(end) if end <= self.bytes.len() as u64 => Ok(address as usize),
            _ => Err(Fault::OutOfBounds {
                write,
                address,
                bytes,
            }),
        }
    }
}

impl State {
    fn forget(&mut self, barriers: u32) {
        if self.barriers != barriers {
            *self = State {
                is_initialized: self.is_initialized,
                barriers,
                writer: None,
                readers: [None; 2],
            };
        }
    }
}
