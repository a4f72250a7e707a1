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
mod peer;
mod sharing;
mod signing;
mod soak;
mod support;
mod tls;
mod tunnels;
mod uploads;
