//! How much memory something takes.

use peak_alloc::PeakAlloc;

/// Every allocation of the process, counted.
#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// The memory that opening a segment takes for each byte of it, since a row group of eight bytes has a
/// schema of its own in memory.
pub const EACH_BYTE: usize = 16;

/// The memory that opening a store takes at most, whose files have so many bytes in all: it writes a
/// temporary file and creates an index.
pub fn store_costs(bytes: usize) -> usize {
    EACH_BYTE * bytes + (2 << 20)
}

/// Does something for which so many bytes of memory have to be enough. No other thread may allocate
/// meanwhile.
///
/// # Panics
/// If it takes more.
#[track_caller]
pub fn bounded<T>(most: usize, run: impl FnOnce() -> T) -> T {
    ALLOCATED.reset_peak_usage();
    let before = ALLOCATED.current_usage();
    let done = run();
    let cost = ALLOCATED.peak_usage().saturating_sub(before);
    assert!(
        cost <= most,
        "it took {cost} bytes of memory, more than {most}"
    );
    done
}
