//! What runs on a CUDA device past libtorch: BLAKE3 of rows and of pieces of tensors, by kernels of this crate.
//!
//! Off unless `TORCHCACHE_DEVICE_HASHING` is `on`. The driver compiles the kernels on a thread of its own; the first
//! call after that tests them, and until then, and where anything fails, the host does the work.

mod driver;
mod plan;
mod self_test;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::mem::replace;
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tch::{TchError, Tensor};
use torchcache_store::{background, events};

use crate::sync::lock;
use driver::{DeviceBuffer, DeviceError, Kernels};
use plan::VALUE_BYTES;
use self_test::Failure;

pub(crate) use driver::{DeviceRows, Lines, Span, Stream, current_stream};
pub(crate) use plan::{FACTORS, MAX_PIECE_BYTES};

/// The environment variable that switches the kernels on.
const VARIABLE: &str = "TORCHCACHE_DEVICE_HASHING";

/// Whether the kernels are switched on. Read once.
pub(crate) fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    if let Some(enabled) = ENABLED.get() {
        return *enabled;
    }
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    let enabled = parse_switch(&value.to_string_lossy());
    // Not logged inside `get_or_init`: a log subscriber may call a cached function.
    if ENABLED.set(enabled.unwrap_or(false)).is_ok() && enabled.is_none() {
        events::emit(move || {
            tracing::warn!(
                "{VARIABLE} is {value:?}; expected `on` or `off`: tensors on CUDA devices are hashed on the host"
            );
        });
    }
    enabled.unwrap_or(false)
}

fn parse_switch(value: &str) -> Option<bool> {
    match value {
        "on" | "1" | "true" => Some(true),
        "" | "off" | "0" | "false" => Some(false),
        _ => None,
    }
}

/// The kernels of one device, and whether they are used.
#[derive(Debug)]
struct DeviceKernels {
    number: usize,
    /// Set by the thread that loads them. `None` without a driver.
    loaded: OnceLock<Option<Result<Kernels, String>>>,
    state: Mutex<State>,
}

/// Whether kernels are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next call tests them, and so many calls after that, where libtorch has no memory for the test.
    Untested {
        more_tries: u32,
    },
    /// A call tests them.
    Testing,
    On,
    Off,
}

/// How often a test may lack memory.
const TEST_TRIES: u32 = 16;

impl DeviceKernels {
    /// Those of a device. The first call has a thread load them.
    fn get(number: usize) -> &'static Self {
        static DEVICES: Mutex<BTreeMap<usize, &'static DeviceKernels>> =
            Mutex::new(BTreeMap::new());
        let mut devices = lock(&DEVICES);
        if let Some(device) = devices.get(&number) {
            return device;
        }
        let device: &'static Self = Box::leak(Box::new(DeviceKernels {
            number,
            loaded: OnceLock::new(),
            state: Mutex::new(State::Untested {
                more_tries: TEST_TRIES - 1,
            }),
        }));
        devices.insert(number, device);
        drop(devices);
        let load = move || {
            let loaded = Kernels::load(number);
            let loaded = loaded.map(|result| result.map_err(|error| error.to_string()));
            device.loaded.get_or_init(|| loaded);
        };
        if let Err(error) = background::spawn(&format!("torchcache-cuda-{number}"), load) {
            device.loaded.get_or_init(|| Some(Err(error.to_string())));
        }
        device
    }

    /// The kernels; `None` while they are loaded or tested, where they cannot be used, and on an unknown stream.
    fn kernels(&self) -> Option<&Kernels> {
        let loaded = self.loaded.get()?;
        if let Some(Ok(_)) = loaded {
            current_stream(self.number)?;
        }
        if let Some(more_tries) = self.begin_test() {
            self.test(loaded, more_tries);
        }
        let kernels = loaded.as_ref()?.as_ref().ok()?;
        (*lock(&self.state) == State::On).then_some(kernels)
    }

    /// How many tries are left after the test that this call is to run. `None` where it is to run none.
    fn begin_test(&self) -> Option<u32> {
        let mut state = lock(&self.state);
        let State::Untested { more_tries } = *state else {
            return None;
        };
        *state = State::Testing;
        Some(more_tries)
    }

    fn test(&self, loaded: &Option<Result<Kernels, String>>, more_tries: u32) {
        let number = self.number;
        let result = match loaded {
            None => {
                self.set(State::Off);
                return events::emit(|| {
                    tracing::debug!(
                        "no CUDA driver was found: tensors on CUDA devices are hashed on the host"
                    );
                });
            }
            Some(Ok(kernels)) => self_test::run(kernels),
            Some(Err(error)) => {
                self.set(State::Off);
                return self.warn(error);
            }
        };
        match result {
            Ok(()) => {
                self.set(State::On);
                events::emit(move || tracing::info!("tensors on cuda:{number} are hashed there"));
            }
            Err(Failure::Device(DeviceError::Torch(error))) if more_tries > 0 => {
                self.set(State::Untested {
                    more_tries: more_tries - 1,
                });
                events::emit(move || {
                    tracing::debug!(
                        "a later call tests hashing on cuda:{number} again, {more_tries} times at most: {error}"
                    );
                });
            }
            Err(failure) => {
                self.set(State::Off);
                self.warn(&failure);
            }
        }
    }

    fn set(&self, state: State) -> State {
        replace(&mut *lock(&self.state), state)
    }

    /// A result of the driver or of the device; `None` for an error, which is noted.
    fn result<T>(&self, result: Result<T, DeviceError>) -> Option<T> {
        result.map_err(|error| self.note(error)).ok()
    }

    /// Uses the kernels no more after an error of the driver or of the device.
    fn note(&self, error: DeviceError) {
        match error {
            DeviceError::Driver(_) | DeviceError::NoStream | DeviceError::Fault(_) => {
                if self.set(State::Off) == State::On {
                    self.warn(&error);
                }
            }
            // Another call may have more memory, or fewer rows.
            DeviceError::Torch(_) | DeviceError::TooLarge | DeviceError::Moved => {
                let number = self.number;
                events::emit(move || {
                    tracing::debug!("a call hashes on the host what is on cuda:{number}: {error}");
                });
            }
        }
    }

    fn warn(&self, error: &dyn Display) {
        let (number, error) = (self.number, error.to_string());
        events::emit(move || {
            tracing::warn!(
                "tensors on cuda:{number} are hashed on the host from now on, since hashing there failed: {error}"
            );
        });
    }
}

/// A BLAKE3 digest.
type Digest = [u8; VALUE_BYTES as usize];

/// Digests that a device computes, to be copied to the host together. Where one cannot be computed there is
/// `None`, and the host hashes.
#[derive(Debug)]
pub(crate) struct Digests {
    device: &'static DeviceKernels,
    kernels: &'static Kernels,
    digests: DeviceBuffer,
    /// How many of them were added.
    added: u64,
}

impl Digests {
    /// Room for `count` digests on a CUDA device.
    pub(crate) fn new(device: usize, count: usize) -> Option<Self> {
        if !is_enabled() {
            return None;
        }
        let device = DeviceKernels::get(device);
        let kernels = device.kernels()?;
        let digests = DeviceBuffer::new(device.number, count as u64 * VALUE_BYTES);
        Some(Digests {
            device,
            kernels,
            digests: device.result(digests)?,
            added: 0,
        })
    }

    /// Adds the digest of each row.
    pub(crate) fn add_rows(&mut self, rows: &DeviceRows<'_>) -> Option<()> {
        let queued = self.kernels.hash_rows(rows, &self.digests, self.added);
        self.added += rows.count();
        self.device.result(queued)
    }

    /// Adds the digest of each piece, none longer than [`MAX_PIECE_BYTES`].
    pub(crate) fn add_pieces(&mut self, pieces: &[Span<'_>]) -> Option<()> {
        if pieces.is_empty() {
            // Not even their table is copied.
            return Some(());
        }
        let queued = self.kernels.hash_pieces(pieces, &self.digests, self.added);
        self.added += pieces.len() as u64;
        self.device.result(queued)
    }

    /// The result of libtorch on the way to these digests.
    pub(crate) fn note_error<T>(&self, result: Result<T, TchError>) -> Option<T> {
        self.device.result(result.map_err(DeviceError::from))
    }

    /// All of them, in the order in which they were added, by one copy.
    pub(crate) fn copy_to_host(self) -> Option<Vec<Digest>> {
        let bytes = self.device.result(self.digests.download())?;
        let (digests, _) = bytes.as_chunks();
        Some(digests[..self.added as usize].to_vec())
    }
}

/// Queues copies of rows of one length on a CUDA device, each from the first place to the second one, in one launch.
/// Rows that are written must overlap no other, and work on other streams must use none of them before. `None` where
/// nothing was queued; without kernels, `moves` is not called.
pub(crate) fn copy_rows<'t>(
    device: usize,
    moves: impl FnOnce() -> Option<Vec<(Span<'t>, Span<'t>)>>,
) -> Option<()> {
    if !is_enabled() {
        return None;
    }
    let device = DeviceKernels::get(device);
    device.result(device.kernels()?.copy_rows(&moves()?))
}

/// [`Lines`] on their device, which are summed up by one launch.
#[derive(Debug)]
pub(crate) struct LineTable {
    device: &'static DeviceKernels,
    table: driver::LineTable,
}

impl LineTable {
    /// Queues a copy of the table. It may be shared with other threads once the sums are known on this one.
    pub(crate) fn upload(device: usize, lines: &Lines) -> Option<Self> {
        let device = DeviceKernels::get(device);
        let table = device.result(driver::LineTable::upload(device.number, lines))?;
        Some(LineTable { device, table })
    }

    pub(crate) fn share(&self) -> Self {
        LineTable {
            device: self.device,
            table: self.table.share(),
        }
    }

    /// The sums, on the device: integers of 64 bits. `None` where the kernels are not used, or one failed, or where
    /// `memory` is not that of the lines.
    pub(crate) fn sums(&self, memory: &[Span<'_>], factors: Span<'_>) -> Option<Tensor> {
        let kernels = self.device.kernels()?;
        let sums = kernels.sum_lines(&self.table, memory, factors);
        self.device.result(sums.and_then(DeviceBuffer::into_words))
    }
}

/// Whether the kernels of a device are used now.
pub(crate) fn has_kernels(device: usize) -> bool {
    is_enabled() && DeviceKernels::get(device).kernels().is_some()
}

/// What `hash` returns for each place with the number of a CUDA device: it gets a device and all its places. `None`
/// at others, and where `hash` returns nothing.
pub(crate) fn on_each<T>(
    devices: &[Option<usize>],
    hash: impl Fn(usize, &[usize]) -> Option<Vec<T>>,
) -> Vec<Option<T>> {
    let mut hashed: Vec<_> = devices.iter().map(|_| None).collect();
    let distinct: BTreeSet<_> = devices.iter().flatten().collect();
    for &device in distinct {
        let here = |place: &usize| devices[*place] == Some(device);
        let places: Vec<_> = (0..devices.len()).filter(here).collect();
        let results = hash(device, &places).into_iter().flatten();
        for (&place, result) in places.iter().zip(results) {
            hashed[place] = Some(result);
        }
    }
    hashed
}

/// Waits until the kernels of a CUDA device are loaded and tested, where they are switched on; two minutes at most.
/// Whether they are used.
pub fn wait_for_kernels(device: usize) -> bool {
    let begin = Instant::now();
    while is_enabled() && begin.elapsed() < Duration::from_secs(120) {
        let kernels = DeviceKernels::get(device);
        if kernels.kernels().is_some() {
            return true;
        }
        if *lock(&kernels.state) == State::Off {
            return false;
        }
        // They are loaded, or another thread tests them.
        sleep(Duration::from_millis(1));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_gets_its_places() {
        let devices = [Some(1), None, Some(0), Some(1), Some(2)];
        let hash = |device: usize, places: &[usize]| {
            let results = places.iter().map(|place| (device, *place));
            (device < 2).then(|| results.collect())
        };
        let expected = [Some((1, 0)), None, Some((0, 2)), Some((1, 3)), None];
        assert_eq!(on_each(&devices, hash), expected);
        assert_eq!(on_each(&[], hash), []);
    }

    #[test]
    fn the_switch_is_on_or_off() {
        for value in ["on", "1", "true"] {
            assert_eq!(parse_switch(value), Some(true));
        }
        for value in ["", "off", "0", "false"] {
            assert_eq!(parse_switch(value), Some(false));
        }
        for value in ["yes", "On", " on", "2"] {
            assert_eq!(parse_switch(value), None);
        }
    }
}
