//! An egress proxy on Unix sockets: it decides which hosts its clients may reach, and adds credentials that they must not see.
//!
//! There is one listener per client; the client is known from the listener that accepted, never from what it says. A request is
//! parsed once into a [`target::Target`]; allow-list, address policy, credentials and connection all use that.
//!
//! Clients are hostile to each other: no connection to a target is used by two listeners ([`pool`]), and each listener has a reserve in
//! everything that is shared ([`quota`]).
//!
//! - `https://…` by CONNECT: bytes are copied exactly, half-closes are kept, the TLS server name must be the target's host.
//! - `http://…` in absolute form, and origin form for the configured gateway: forwarded; where a credential rule matches the
//!   host, over TLS and with the credential.
//!
//! Each listener has a [`Policy`] within the operator's [`Settings`]: layers of rules, credentials, rates and models. It is replaced at any
//! time, together with the [`Identity`] ([`Listener::assign`]) or alone ([`Listener::apply`]), and holds from the next request on.
//! `docs/egress-policies.md` says what policies mean.
//!
//! This crate knows sockets, policies and credentials. It does not know what its clients are.

mod address;
mod allow;
mod answer;
mod assignment;
mod body;
mod buffers;
mod chain;
mod clocks;
mod connection;
mod credentials;
mod denials;
mod dialer;
mod ended;
mod forward;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod head;
mod headers;
mod held;
mod hello;
mod host;
mod listener;
mod meter;
mod model;
mod outgoing;
mod pins;
mod policy;
mod pool;
mod proxy;
mod quota;
mod record;
mod redact;
mod relay;
mod resolver;
mod revocation;
mod settings;
mod sigv4;
mod socket;
mod target;
mod trail;
mod tunnel;
mod upload;
mod upstream;

pub use address::Networks;
pub use allow::AllowList;
pub use chain::{Chain, NoCredentials};
pub use credentials::{
    Credential, CredentialRules, CredentialSpec, Keys, Operations, SecretText, Source, TokenSource, When,
};
pub use listener::Listener;
pub use model::ModelPolicy;
pub use outgoing::{Outgoing, OutgoingError};
pub use pins::Pins;
pub use policy::{Explanation, LayerSpec, Policy, PolicyError, PolicySpec, Question, Rates, RuleSpec};
pub use proxy::Egress;
pub use settings::{Limits, Settings, SetupError};
pub use trail::{Decision, Identity, METHODS, POLICY_DENIALS, RequestRecord, Trail};
