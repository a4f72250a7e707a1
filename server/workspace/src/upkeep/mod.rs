//! Keeps the table of rooms and the host consistent: reconciliation at the start, garbage collection, and the watch over the content
//! of the rooms' directories.

pub mod gc;
mod hostile;
mod reconcile;

pub use reconcile::ReconcileError;
