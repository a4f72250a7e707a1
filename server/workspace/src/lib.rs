//! Workspaces: locked containers that are created, lent to conversations, watched and removed.
//!
//! A *room* is this crate's word for everything that makes up one workspace: its directory, its egress listener, its container
//! and its record. This crate is the only place that knows all of them, and [`Workspaces::release`] is the only way in which
//! a room ends.
//!
//! The crate knows one server. What several servers of a deployment agree on among each other lies above it, in the server's
//! `cluster` module, which tells [`Workspaces::reconcile`] and [`Workspaces::collect`] which rooms other servers have.
//!
//! Imports between the modules point one way, and the server's `tests/architecture` keeps it so:
//!
//! ```text
//! upkeep ─► files ─► lifecycle ─► records ─► workspaces ─► rooms, agent ─► directory, spec ─► objects, state, engine
//! reason, others, id, clock, backoff: below everything
//! ```

pub mod agent;
pub mod backoff;
pub mod clock;
pub mod directory;
pub mod engine;
pub mod files;
pub mod id;
mod lifecycle;
pub mod objects;
mod peers;
mod reason;
mod records;
pub mod rooms;
mod spec;
pub mod state;
pub mod testing;
mod upkeep;
mod workspaces;

pub use lifecycle::acquire::AcquireError;
pub use lifecycle::adopt::{AdoptAs, Adoption};
pub use lifecycle::build::BuildError;
pub use lifecycle::lease::{Lease, Origin};
pub use lifecycle::release::ReleaseError;
pub use peers::{PeerRooms, PeerUnavailable};
pub use reason::ReleaseReason;
pub use spec::{LABEL_DEPLOYMENT, LABEL_WORKSPACE, RoomLimits, Template};
pub use upkeep::{ReconcileError, gc};
pub use workspaces::{OnShutdown, Parts, Settings, Workspaces};
