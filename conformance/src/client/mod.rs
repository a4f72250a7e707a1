//! The suite's own clients: HTTP over TCP and over Unix sockets, event streams, metrics. Every exchange is kept.

pub mod exchange;
pub mod form;
pub mod http;
pub mod metrics;
pub mod raw;
pub mod sse;
pub mod stream;
pub mod tunnel;
pub mod unix;
