//! One file for each command.

pub(crate) mod check;
pub(crate) mod clear;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod remote;
pub(crate) mod show;
