//! What is tested, and what it is tested with: the deployment, its engine, its model, its origins.

pub mod binaries;
pub mod cgroup;
pub mod compose;
pub mod contained;
mod defects;
pub mod deployment;
pub mod engine;
pub mod fixtures;
pub mod image;
pub mod launch;
pub mod memory;
pub mod offers;
pub mod outsider;
pub mod own_engine;
mod peers;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod relay;
pub mod schemathesis;
pub mod services;
pub mod small_disk;
pub mod storage;
pub mod tamper;
pub mod tree;
