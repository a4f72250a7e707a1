//! The proxy from the outside: bytes on its socket, real peers behind it.

mod connect;
mod forward;
mod framing;
mod hosts;
mod lifecycle;
mod peer;
mod support;
