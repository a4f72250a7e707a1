//! The users that rooms run as, one for each.
//!
//! The kernel limits some things per user, over all containers: inotify instances, message queues, processes, pending signals, pipe
//! buffers. Rooms with users of their own cannot take them from one another.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngExt;

/// User ids that rooms may run as (`CONTAINER_UIDS`). A room's group has the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    first: u32,
    last: u32,
}

impl UidRange {
    /// What [`UidRange::parse`] accepts.
    pub const ACCEPTED: &str = "two user ids from 1 to 65533 as first-last, or one for all workspaces";
    /// The range that the image has names for.
    pub const DEFAULT: &str = "50000-54095";

    /// Parses `first-last`, or a single id, which all rooms then share.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u32>().ok().filter(|uid| (1..=65_533).contains(uid));
        let (first, last) = (number(first)?, number(last)?);
        (first <= last).then_some(Self { first, last })
    }

    /// One user for all rooms.
    #[must_use]
    pub fn shared(uid: u32) -> Self {
        Self { first: uid, last: uid }
    }

    /// Whether all rooms run as the same user.
    #[must_use]
    pub fn is_shared(self) -> bool {
        self.first == self.last
    }

    /// Whether a user belongs to the range.
    #[must_use]
    pub fn contains(self, uid: u32) -> bool {
        (self.first..=self.last).contains(&uid)
    }

    /// How many rooms there can be; `None` if they share a user.
    #[must_use]
    pub fn rooms(self) -> Option<usize> {
        (!self.is_shared()).then_some((self.last - self.first) as usize + 1)
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_shared() { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Which users the rooms of this server have.
#[derive(Debug)]
pub(crate) struct Uids {
    range: UidRange,
    taken: Mutex<HashMap<u32, usize>>,
}

impl Uids {
    pub(crate) fn new(range: UidRange) -> Arc<Self> {
        Arc::new(Self { range, taken: Mutex::default() })
    }

    /// A user that no room of this server has, other than those in `avoid`; `None` if all are taken. Any of them, because the
    /// servers of other deployments on this host choose from the same range.
    pub(crate) fn take(self: &Arc<Self>, avoid: &[u32]) -> Option<Uid> {
        let mut taken = self.taken.lock();
        let UidRange { first, last } = self.range;
        let free = |uid: &u32| self.range.is_shared() || !(taken.contains_key(uid) || avoid.contains(uid));
        let start = rand::rng().random_range(first..=last);
        let uid = (start..=last).chain(first..start).find(free)?;
        *taken.entry(uid).or_default() += 1;
        Some(Uid { uid, of: self.clone() })
    }

    /// The user of a room that an earlier server built.
    pub(crate) fn keep(self: &Arc<Self>, uid: u32) -> Uid {
        *self.taken.lock().entry(uid).or_default() += 1;
        Uid { uid, of: self.clone() }
    }

    /// Whether every room has a user of its own.
    pub(crate) fn are_exclusive(&self) -> bool {
        !self.range.is_shared()
    }
}

/// A room's user. Dropping it makes it available to others.
#[derive(Debug)]
pub(crate) struct Uid {
    uid: u32,
    of: Arc<Uids>,
}

impl Uid {
    pub(crate) fn number(&self) -> u32 {
        self.uid
    }
}

impl Drop for Uid {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        if let Some(count) = taken.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed_and_others_rejected() {
        let range = UidRange::parse("50000-50009").expect("a range");
        assert_eq!((range.rooms(), range.contains(50_009), range.contains(50_010)), (Some(10), true, false));
        assert_eq!(UidRange::parse("1000").and_then(UidRange::rooms), None);
        for text in ["", "-", "0", "0-5", "5-4", "1-65534", "a-b", "1-2-3", "-1", "1 - 2"] {
            assert_eq!(UidRange::parse(text), None, "{text}");
        }
        assert_eq!(
            UidRange::parse(UidRange::DEFAULT).map(|range| range.to_string()).as_deref(),
            Some(UidRange::DEFAULT)
        );
    }

    #[test]
    fn no_two_rooms_have_the_same_user_until_one_is_gone() {
        let uids = Uids::new(UidRange::parse("100-103").expect("a range"));
        let earlier = uids.keep(101);
        let mut held: Vec<Uid> = std::iter::from_fn(|| uids.take(&[])).collect();
        let mut numbers: Vec<u32> = held.iter().map(Uid::number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [100, 102, 103]);
        drop(earlier);
        assert!(uids.take(&[101]).is_none(), "another server has it");
        assert_eq!(uids.take(&[]).map(|uid| uid.number()), Some(101));
        held.clear();
        assert!(uids.take(&[]).is_some());
    }

    #[test]
    fn a_single_user_is_shared() {
        let uids = Uids::new(UidRange::shared(1000));
        let (one, other) = (uids.take(&[]), uids.take(&[]));
        assert!(!uids.are_exclusive() && one.is_some() && other.is_some());
    }
}
