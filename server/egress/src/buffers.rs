//! Buffers that are only held while something is in them, so that an idle tunnel costs none.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A buffer while there are enough: large, as each call to the kernel has its price.
const LARGE: usize = 256 * 1024;
/// A buffer when there are not. Nothing ever waits for one, so clients that do not read cannot stop the others.
const SMALL: usize = 8 * 1024;
/// Large buffers that are kept while nobody needs them.
const KEPT: usize = 16;

/// The buffers of one proxy.
#[derive(Debug)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
    lent: AtomicUsize,
    most: usize,
}

impl Buffers {
    /// At most so many bytes are lent as large buffers.
    pub(crate) fn new(budget: usize) -> Self {
        Self { free: Mutex::default(), lent: AtomicUsize::new(0), most: budget / LARGE }
    }

    pub(crate) fn lend(&self) -> Buffer<'_> {
        if self.lent.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.lent.fetch_sub(1, Ordering::Relaxed);
            return Buffer { bytes: vec![0; SMALL].into_boxed_slice(), home: None };
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer { bytes: free.unwrap_or_else(|| vec![0; LARGE].into_boxed_slice()), home: Some(self) }
    }
}

/// A buffer on loan.
#[derive(Debug)]
pub(crate) struct Buffer<'a> {
    bytes: Box<[u8]>,
    home: Option<&'a Buffers>,
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
        let Some(home) = self.home else { return };
        home.lent.fetch_sub(1, Ordering::Relaxed);
        let mut free = home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn past_the_budget_buffers_are_small_and_nobody_waits() {
        let buffers = Buffers::new(2 * LARGE);
        let (first, second) = (buffers.lend(), buffers.lend());
        assert_eq!((first.len(), second.len(), buffers.lend().len()), (LARGE, LARGE, SMALL));
        drop(first);
        assert_eq!(buffers.lend().len(), LARGE);
    }
}
