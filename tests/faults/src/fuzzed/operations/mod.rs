//! Any sequence of operations of callers, a second process and the medium, against a model: a row is one
//! that was put or a miss, and a miss only where an operation explains it.

mod checks;
mod input;
mod life;
mod model;
mod world;

use super::input::derived;
use input::Input;
use world::World;

/// Runs the operations that the bytes say.
///
/// # Panics
/// If a row is wrong, or missing without a reason, or a counter is not right.
pub fn run(bytes: &[u8]) {
    derived(bytes, |input: &Input| {
        World::new(input.rules).play(input.operations.iter().take(MOST));
    });
}

/// Longer sequences find nothing that two shorter ones do not.
const MOST: usize = 64;
