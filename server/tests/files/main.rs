//! Rooms' files in a bucket, over the real S3 protocol: what is kept, what a sync does, and what faults come to.

mod doctor;
mod faults;
mod kept;
mod support;
mod sync;
