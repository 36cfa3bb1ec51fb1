//! The commands on caches in an object store.

pub(crate) mod check;
pub(crate) mod clear;
pub(crate) mod compact;
mod list;
pub(crate) mod ls;
pub(crate) mod prune;
pub(crate) mod show;
pub(crate) mod transfer;
