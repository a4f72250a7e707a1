//! The life of a room: built or taken from the pool, leased to runs, adopted from another server, released.

pub(crate) mod acquire;
pub(crate) mod adopt;
mod assign;
pub(crate) mod build;
mod host_path;
pub(crate) mod lease;
mod loss;
pub(crate) mod pool;
pub(crate) mod release;
mod started;
