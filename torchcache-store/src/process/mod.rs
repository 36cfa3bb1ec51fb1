//! What a process has once: its stores, its private directories, and what its end does with them.

#[cfg(feature = "unstable")]
pub mod background;
pub(crate) mod registry;
pub(crate) mod shutdown;
mod signals;
#[cfg(feature = "unstable")]
mod temp_dir;
pub(crate) mod uploads;

pub use registry::flush_all;
pub use shutdown::flush_on_signals;
#[cfg(feature = "unstable")]
pub use temp_dir::TempCache;
