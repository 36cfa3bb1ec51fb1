//! The program as a user sees it: run as a process, on directories that stores wrote.

mod beside;
mod clear;
mod export;
mod fields;
mod find;
mod memory;
mod prune;
mod python;
mod screens;
mod streams;
mod support;
mod unreadable;
mod verify;
