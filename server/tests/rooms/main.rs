//! Rooms on an in-memory engine, which makes hundreds of them in seconds and fails on demand.

mod collection;
mod life;
mod outdated;
mod pool;
mod proof;
mod several;
mod starts;
mod support;
mod variants;
