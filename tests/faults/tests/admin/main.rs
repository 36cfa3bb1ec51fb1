//! Looking after caches from outside, while the worst happens at the worst moment.

mod common;
mod moments;
mod power;
