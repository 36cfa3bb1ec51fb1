//! The remote tier on a simulated object store and a simulated clock: every row that comes back is compared with what
//! it must be, and requests are counted.

mod background;
mod common;
mod counts;
mod faults;
mod host;
mod learning;
mod local;
mod processes;
mod properties;
mod reading;
mod removing;
mod threads;
mod tier;
mod uploading;
mod warnings;
