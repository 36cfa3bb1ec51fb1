//! What fuzzers call: any bytes in, and a panic if something is not as promised. The fuzzers
//! themselves are in `tests/fuzz/`; a test runs their seeds through the same functions.

mod admin;
mod footer;
mod manifest;
mod operations;
pub mod reference;
mod segment;

use std::fmt::Debug;

use arbitrary::{Arbitrary, Unstructured};
pub use footer::run as footer;
pub use manifest::run as manifest;
pub use operations::run as operations;
pub use segment::run as segment;
pub use segment::store_costs;

use crate::ALLOCATED;

/// A function that any bytes may be given to.
pub type Target = fn(&[u8]);

/// Every target, by its name and that of the folder with its inputs.
pub const TARGETS: [(&str, Target); 4] = [
    ("segment", segment),
    ("footer", footer),
    ("manifest", manifest),
    ("operations", operations),
];

/// Makes something of any bytes, and tells what it was should there be a panic over it.
fn derived<'b, T: Arbitrary<'b> + Debug>(bytes: &'b [u8], run: impl FnOnce(&T)) {
    struct Told<T: Debug>(T);
    impl<T: Debug> Drop for Told<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{:?}", self.0);
            }
        }
    }
    if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(bytes)) {
        run(&Told(input).0);
    }
}

/// Does something for which so many bytes of memory have to be enough.
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
