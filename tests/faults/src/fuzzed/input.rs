//! The bytes of a fuzzer as an input of some type.

use std::fmt::Debug;

use arbitrary::{Arbitrary, Unstructured};

/// Decodes an input from any bytes, and prints it if there is a panic.
pub(super) fn derived<'b, T: Arbitrary<'b> + Debug>(bytes: &'b [u8], run: impl FnOnce(&T)) {
    struct PrintOnPanic<T: Debug>(T);
    impl<T: Debug> Drop for PrintOnPanic<T> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{:?}", self.0);
            }
        }
    }
    if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(bytes)) {
        run(&PrintOnPanic(input).0);
    }
}
