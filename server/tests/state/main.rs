//! Shared state: one suite over each place it may be kept in.

mod doctor;
mod faults;
mod suite;
mod support;
