//! The program as a user sees it: run as a process, on directories as stores write them.

mod check;
mod clear;
mod concurrent;
mod docs;
mod export;
mod key;
#[cfg(target_os = "linux")]
mod memory;
mod prune;
mod python;
#[cfg(feature = "remote")]
mod remote;
#[cfg(feature = "remote")]
mod s3;
mod screens;
mod select;
mod streams;
mod support;
mod unreadable;
