//! Rooms on an engine that is a table: what Docker would take minutes for, and faults that it would not have on demand.

mod collection;
mod life;
mod pool;
mod proof;
mod several;
mod support;
