//! Workspace files in a bucket, over the real S3 protocol: storage, synchronisation, and the bucket's faults.

mod doctor;
mod faults;
mod kept;
mod support;
mod sync;
