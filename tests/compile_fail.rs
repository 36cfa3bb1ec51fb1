//! Misuse that the compiler can see does not compile, and the message says what to do.
//!
//! Each case in `compile_fail/` is a user's file with one mistake or several; beside it lies what
//! the compiler says. Run with `TRYBUILD=overwrite` to write those anew, and read the difference.

#[test]
fn misuse_does_not_compile_and_is_explained() {
    trybuild::TestCases::new().compile_fail("compile_fail/*.rs");
}
