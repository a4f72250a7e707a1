//! The queue for starts of containers. An engine that starts many containers at once is slower than one that starts a few at a time,
//! and the last of them take longer than a start may take.
//!
//! Starts for conversations come first, in the order in which they were asked for; those for the warm pool follow. Whoever stops waiting
//! leaves the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The queue. As many starts as the width allows are in progress at a time.
#[derive(Debug)]
pub(crate) struct Starts {
    queue: Mutex<Queue>,
    /// Maximum number of conversations that wait.
    longest: usize,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    next_ticket: u64,
    conversations: VecDeque<Waiting>,
    pool: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    conversation: Option<String>,
    turn: oneshot::Sender<Turn>,
}

/// Why a start does not get a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTurn {
    /// As many conversations wait as may, namely this many.
    Full(usize),
    /// The conversation does not want a workspace any more.
    Left,
}

/// The right to start one container. Dropping it gives it to the next in the queue.
#[derive(Debug)]
pub(crate) struct Turn(Option<Arc<Starts>>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(starts) = self.0.take() {
            starts.queue.lock().free += 1;
            starts.call();
        }
    }
}

/// A place in the queue. Dropping it leaves the queue.
struct Place<'a> {
    starts: &'a Starts,
    ticket: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.starts.queue.lock().remove(|waiting| waiting.ticket == self.ticket);
    }
}

impl Queue {
    fn remove(&mut self, which: impl Fn(&Waiting) -> bool) {
        // A dropped sender ends the wait.
        self.conversations.retain(|waiting| !which(waiting));
        self.pool.retain(|waiting| !which(waiting));
    }
}

impl Starts {
    /// A queue for `width` starts at a time, in which up to `longest` conversations wait.
    pub(crate) fn new(width: usize, longest: usize) -> Arc<Self> {
        let queue = Queue { free: width.max(1), next_ticket: 0, conversations: VecDeque::new(), pool: VecDeque::new() };
        Arc::new(Self { queue: Mutex::new(queue), longest })
    }

    /// Waits for a turn, for a conversation or, without one, for the warm pool.
    ///
    /// # Errors
    /// Too many conversations wait already, or this one was removed by [`Starts::leave`].
    pub(crate) async fn turn(self: &Arc<Self>, conversation: Option<&str>) -> Result<Turn, NoTurn> {
        let (turn, called) = oneshot::channel();
        let place = {
            let mut queue = self.queue.lock();
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            let waiting = Waiting { ticket, conversation: conversation.map(str::to_owned), turn };
            match conversation {
                Some(_) if queue.free == 0 && queue.conversations.len() >= self.longest => {
                    return Err(NoTurn::Full(self.longest));
                }
                Some(_) => queue.conversations.push_back(waiting),
                None => queue.pool.push_back(waiting),
            }
            Place { starts: self, ticket }
        };
        self.call();
        let turn = called.await.map_err(|_| NoTurn::Left);
        drop(place);
        turn
    }

    /// Gives free turns to those who wait longest.
    fn call(self: &Arc<Self>) {
        loop {
            let (waiting, turn) = {
                let mut queue = self.queue.lock();
                if queue.free == 0 {
                    return;
                }
                let Some(waiting) = queue.conversations.pop_front().or_else(|| queue.pool.pop_front()) else { return };
                queue.free -= 1;
                (waiting, Turn(Some(self.clone())))
            };
            if let Err(mut turn) = waiting.turn.send(turn) {
                // Nobody waits for it any more.
                turn.0 = None;
                self.queue.lock().free += 1;
            }
        }
    }

    /// How many starts for conversations come before this conversation's; `None` if it does not wait.
    pub(crate) fn position(&self, conversation: &str) -> Option<usize> {
        let queue = self.queue.lock();
        queue.conversations.iter().position(|waiting| waiting.conversation.as_deref() == Some(conversation))
    }

    /// Removes a conversation from the queue, if it waits; whoever waited gets [`NoTurn::Left`].
    pub(crate) fn leave(&self, conversation: &str) {
        self.queue.lock().remove(|waiting| waiting.conversation.as_deref() == Some(conversation));
    }

    /// Whether one more conversation could wait.
    ///
    /// # Errors
    /// [`NoTurn::Full`] if not.
    pub(crate) fn check(&self) -> Result<(), NoTurn> {
        let queue = self.queue.lock();
        match queue.free == 0 && queue.conversations.len() >= self.longest {
            true => Err(NoTurn::Full(self.longest)),
            false => Ok(()),
        }
    }

    /// Removes everybody: the server stops.
    pub(crate) fn close(&self) {
        self.queue.lock().remove(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn now<T>(work: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        work.now_or_never()
    }

    #[test]
    fn turns_are_given_in_order_conversations_first_and_those_who_leave_are_passed_over() {
        let starts = Starts::new(1, 3);
        let first = starts.turn(Some("a")).now_or_never().expect("is free").expect("a turn");
        let mut pool = Box::pin(starts.turn(None));
        assert!(now(&mut pool).is_none());
        let mut waiting: Vec<_> = ["b", "c", "d"].map(|name| Box::pin(starts.turn(Some(name)))).into();
        assert!(waiting.iter_mut().all(|turn| now(turn).is_none()));
        assert_eq!(["a", "b", "c", "d"].map(|name| starts.position(name)), [None, Some(0), Some(1), Some(2)]);
        assert_eq!(starts.check(), Err(NoTurn::Full(3)));
        assert!(matches!(starts.turn(Some("e")).now_or_never(), Some(Err(NoTurn::Full(3)))));
        // One goes away, another is told to leave.
        drop(waiting.remove(0));
        starts.leave("c");
        assert!(matches!(now(&mut waiting[0]), Some(Err(NoTurn::Left))));
        assert_eq!(starts.position("d"), Some(0));
        drop(first);
        assert!(now(&mut pool).is_none(), "the conversation comes first");
        let second = now(&mut waiting[1]).expect("is called").expect("a turn");
        drop(second);
        let third = now(&mut pool).expect("is called").expect("a turn");
        // A turn that was given and not taken passes to the next.
        let (mut lost, mut next) = (Box::pin(starts.turn(Some("f"))), Box::pin(starts.turn(Some("g"))));
        assert!(now(&mut lost).is_none() && now(&mut next).is_none());
        drop(third);
        drop(lost);
        assert!(matches!(now(&mut next), Some(Ok(_))));
        // Nothing is left behind: the width is what it was.
        assert!(matches!(starts.turn(None).now_or_never(), Some(Ok(_))));
    }
}
