//! The suite's own clients: HTTP over TCP and Unix sockets, event streams, metrics. All exchanges with the API are recorded.

mod connection;
mod envelope;
pub mod form;
mod headers;
pub mod http;
pub mod metrics;
mod multipart;
pub mod raw;
mod sending;
pub mod sse;
pub mod stream;
pub mod tunnel;
pub mod unix;
