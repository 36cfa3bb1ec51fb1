//! Each store keeps the contract of the trait, and each fault is an error of its kind before the deadline.

#[cfg(feature = "azure")]
mod azure;
mod contract;
mod faults;
mod killed;
mod process;
mod profiles;
mod servers;
mod support;
mod tier;
