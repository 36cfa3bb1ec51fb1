//! Misuse that only the whole compiler can see: trait bounds, types of expressions, constants, and
//! that one mistake gives one message. Messages of the macro itself are tested in its crate.
//!
//! Each case in `compile_fail/` is a user's file next to the expected output of the compiler.
//! `TRYBUILD=overwrite` writes that again.

#[test]
fn misuse_does_not_compile_and_is_explained() {
    trybuild::TestCases::new().compile_fail("compile_fail/*.rs");
}
