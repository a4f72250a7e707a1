//! An egress proxy on Unix sockets, which decides who may be reached and adds the credentials its clients must not have.
//!
//! One listener per client; who asks is known from the listener that accepted, never from what the client says. A request
//! is parsed once into a [`target::Target`]; allow-list, addresses, credentials and connection all look at that.
//!
//! - `https://…` by CONNECT: bytes are carried exactly, half-closes kept, the TLS server name held against the target.
//! - `http://…` in absolute form, and origin form for the configured gateway: forwarded; where a credential rule matches the
//!   host, over TLS and with the credential.
//!
//! This crate knows sockets, policies and credentials. What is on the other side of a listener is no business of its own.

mod address;
mod allow;
mod answer;
mod body;
mod buffers;
mod chain;
mod clocks;
mod connection;
mod credentials;
mod ended;
mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod headers;
mod held;
mod hello;
mod host;
mod listener;
mod meter;
mod pins;
mod place;
mod pool;
mod proxy;
mod record;
mod relay;
mod resolver;
mod settings;
mod sigv4;
mod socket;
mod target;
mod trail;
mod tunnel;

pub use address::Networks;
pub use allow::AllowList;
pub use chain::{Chain, NoCredentials};
pub use credentials::CredentialRules;
pub use listener::Listener;
pub use pins::Pins;
pub use proxy::Egress;
pub use settings::{Limits, Settings, SetupError};
pub use trail::{Decision, Identity, METHODS, POLICY_DENIALS, RequestRecord, Trail};
