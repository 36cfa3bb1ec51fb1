//! The commands: each looks, or has something done, and says what came of it.

pub(crate) mod clear;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod show;
pub(crate) mod verify;
