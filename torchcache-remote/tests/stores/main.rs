//! Each store keeps the contract of the trait, and each fault is an error of its kind before the deadline.

mod contract;
mod faults;
mod process;
mod profiles;
mod servers;
mod support;
