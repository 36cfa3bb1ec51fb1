//! The cache of one module or function: its handle, the tiers behind it, and what it counts.

pub(crate) mod attach;
pub(crate) mod claims;
pub(crate) mod cuts;
pub(crate) mod directory;
pub(crate) mod epoch;
pub(crate) mod fetch_costs;
pub(crate) mod flights;
pub(crate) mod handle;
mod hash_changes;
mod hints;
pub(crate) mod methods;
pub(crate) mod overrides;
mod placements;
mod remote;
mod save;
pub(crate) mod shapes;
pub(crate) mod stats;
mod stats_table;
pub(crate) mod target;
pub(crate) mod tiers;
pub(crate) mod warnings;
