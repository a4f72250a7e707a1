//! Workspaces: locked containers that are created, leased to runs of conversations, watched and removed.
//!
//! A *room* is this crate's word for everything that makes up one workspace: its directory, its egress listener, its container
//! and its record. Only this crate handles all of them, and only [`Workspaces::release`] removes
//! a room.
//!
//! The crate covers one server. The coordination between the servers of a deployment is in the server's `cluster` module, which
//! passes the other servers' rooms to [`Workspaces::reconcile`] and [`Workspaces::collect`].
//!
//! Imports between the modules point one way; the server's `tests/architecture` checks it:
//!
//! ```text
//! upkeep ─► files ─► lifecycle ─► records ─► workspaces ─► rooms, agent ─► directory, spec ─► objects, state, engine
//! losses, starter, starts, reason, peers, session, id, uids, clock, backoff: below everything
//! ```

pub mod agent;
pub mod backoff;
pub mod clock;
pub mod directory;
pub mod engine;
pub mod files;
pub mod id;
mod lifecycle;
mod losses;
pub mod objects;
mod peers;
mod policies;
mod reason;
mod records;
pub mod rooms;
mod session;
mod spec;
mod starter;
mod starts;
pub mod state;
pub mod testing;
mod uids;
mod upkeep;
mod workspaces;

pub use lifecycle::acquire::AcquireError;
pub use lifecycle::adopt::{AdoptAs, Adoption};
pub use lifecycle::build::BuildError;
pub use lifecycle::lease::{Lease, Origin};

pub use lifecycle::release::ReleaseError;
pub use losses::{FilesFate, Loss};
pub use peers::{PeerRooms, PeerUnavailable};
pub use policies::{OperatorsOnly, Policies, VariantUnknown};
pub use reason::ReleaseReason;
pub use session::{Living, Session};
pub use spec::{DEFAULT_IMAGE, LABEL_DEPLOYMENT, LABEL_UID, LABEL_WORKSPACE, RoomLimits, Template, Variant};
pub use starter::{Starter, ToStart};
pub use uids::UidRange;
pub use upkeep::{ReconcileError, gc};
pub use workspaces::{OnShutdown, Parts, Settings, Workspaces};
