//! Shared state: one suite for both implementations, a file and Redis, and the faults of Redis.

mod doctor;
mod faults;
mod suite;
mod support;
