//! Buffers that are held only while they contain data, so that an idle tunnel costs none.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::quota::{Quota, Resource, Share};

/// Size of a buffer within the quota, in bytes: large, to save system calls.
const LARGE: usize = 256 * 1024;
/// Size of a buffer beyond the quota, in bytes. Nothing ever waits for a buffer, so clients that do not read cannot block others.
const SMALL: usize = 8 * 1024;
/// Maximum number of unused large buffers that are kept.
const KEPT: usize = 16;

/// Large buffers that are not in use.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
}

impl Buffers {
    /// Lends a buffer: a large one if the listener's quota allows it.
    pub(crate) fn lend(&self, quota: &Arc<Quota>) -> Buffer<'_> {
        let Some(share) = quota.take(Resource::Buffers, LARGE as u64) else {
            return Buffer { bytes: vec![0; SMALL].into_boxed_slice(), home: None };
        };
        let free = self.free.lock().pop();
        let bytes = free.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice());
        Buffer { bytes, home: Some((self, share)) }
    }
}

/// A buffer on loan.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    bytes: Box<[u8]>,
    home: Option<(&'a Buffers, Share)>,
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let Some((home, _share)) = self.home.take() else { return };
        let mut free = home.free.lock();
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Shared;
    use crate::settings::Limits;

    #[test]
    fn beyond_the_quota_buffers_are_small_and_do_not_wait() {
        let limits = Limits { buffers: 8 * LARGE, reserved_buffers: 0, ..Limits::default() };
        let (buffers, quota) = (Buffers::default(), Shared::new(&limits).listener(None));
        let (first, second) = (buffers.lend(&quota), buffers.lend(&quota));
        assert_eq!((first.len(), second.len(), buffers.lend(&quota).len()), (LARGE, LARGE, SMALL));
        drop(first);
        assert_eq!(buffers.lend(&quota).len(), LARGE);
    }
}
