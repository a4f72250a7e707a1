//! What keeps the table of rooms and the host in agreement: reconciliation at the start, garbage collection, and the watch over
//! what rooms put into their directories.

pub mod gc;
mod hostile;
mod reconcile;

pub use reconcile::ReconcileError;
