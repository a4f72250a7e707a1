//! Waits for many sockets with as little overhead as possible.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Waits for sockets to become readable.
pub(crate) struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(256) })
    }

    /// Adds a socket. A closed socket is removed automatically.
    pub(crate) fn add(&self, socket: &impl AsFd, token: usize) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, data, epoll::EventFlags::IN)?)
    }

    /// Waits up to `patience` and returns the tokens of readable sockets.
    pub(crate) fn wait(&mut self, patience: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        let patience = Timespec::try_from(patience).map_err(io::Error::other)?;
        self.events.clear();
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&patience)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let token = event.data;
            ready.push(usize::try_from(token.u64()).map_err(io::Error::other)?);
        }
        Ok(())
    }
}
