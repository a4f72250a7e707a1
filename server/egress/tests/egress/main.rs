//! Tests of the proxy from the outside: raw bytes on its socket, real peers behind it.

mod budgets;
mod chain;
mod connect;
mod cut;
mod forward;
mod framing;
mod hosts;
mod lifecycle;
mod limits;
mod models;
mod outcomes;
mod outgoing;
mod peer;
mod policies;
mod rates;
mod redaction;
mod rotation;
mod sharing;
mod signing;
mod soak;
mod support;
mod swaps;
mod tls;
mod tunnels;
mod uploads;
mod vaults;
