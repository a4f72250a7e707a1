//! Keeps the table of rooms and the host consistent: reconciliation at the start, and garbage collection.

pub mod gc;
mod reconcile;

pub use reconcile::ReconcileError;
