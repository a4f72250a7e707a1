//! The queue for starts of containers. An engine that starts many containers at once is slower than one that starts a few at a time,
//! and the last of them take longer than a start may take.
//!
//! Starts for conversations come first: tenants take turns, and a tenant's conversations follow in the order in which they asked. So
//! many conversations of one tenant delay another tenant's by as many starts as there are tenants. Starts for the warm pool come last.
//! Whoever stops waiting leaves the queue.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::rooms::Occupant;

/// A tenant may take another place while it has fewer than this many for each free one: alone, three quarters of the queue. So each
/// tenant leaves places to those that come after it (Choudhury and Hahne, "Dynamic queue length thresholds", 1998).
const PLACES_FOR_EACH_FREE: usize = 3;

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
    /// Tenants with conversations that wait; the first has the next turn, and goes to the end with it.
    tenants: VecDeque<Line>,
    pool: VecDeque<Waiting>,
}

/// The conversations of one tenant that wait, at least one.
#[derive(Debug)]
struct Line {
    tenant: String,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    /// The conversation; empty for the pool.
    conversation: String,
    turn: oneshot::Sender<Turn>,
}

/// Why a start does not get a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoTurn {
    /// As many conversations wait as may, namely this many.
    Full(usize),
    /// As many conversations of the tenant wait as it may have places, namely this many.
    Share(usize),
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
        for line in &mut self.tenants {
            line.waiting.retain(|waiting| !which(waiting));
        }
        self.tenants.retain(|line| !line.waiting.is_empty());
        self.pool.retain(|waiting| !which(waiting));
    }

    /// Whether the tenant may take a place in a queue of this length.
    fn check(&self, tenant: &str, longest: usize) -> Result<(), NoTurn> {
        if self.free > 0 {
            return Ok(());
        }
        let taken: usize = self.tenants.iter().map(|line| line.waiting.len()).sum();
        let own = self.tenants.iter().find(|line| line.tenant == tenant).map_or(0, |line| line.waiting.len());
        match longest.saturating_sub(taken) {
            0 => Err(NoTurn::Full(longest)),
            places if own >= places.saturating_mul(PLACES_FOR_EACH_FREE) => Err(NoTurn::Share(own)),
            _ => Ok(()),
        }
    }

    fn push(&mut self, tenant: &str, waiting: Waiting) {
        match self.tenants.iter_mut().find(|line| line.tenant == tenant) {
            Some(line) => line.waiting.push_back(waiting),
            None => self.tenants.push_back(Line { tenant: tenant.to_owned(), waiting: VecDeque::from([waiting]) }),
        }
    }

    fn pop(&mut self) -> Option<Waiting> {
        let Some(mut line) = self.tenants.pop_front() else { return self.pool.pop_front() };
        let first = line.waiting.pop_front();
        if !line.waiting.is_empty() {
            self.tenants.push_back(line);
        }
        first
    }

    /// How many conversations have their turn before this one, if nobody joins.
    fn position(&self, conversation: &str) -> Option<usize> {
        let place = |line: &Line| line.waiting.iter().position(|waiting| waiting.conversation == conversation);
        let (turn, own) = self.tenants.iter().enumerate().find_map(|(turn, line)| Some((turn, place(line)?)))?;
        // Those of the tenants that come first in each round have one turn more.
        let before = |(other, line): (usize, &Line)| match other == turn {
            true => own,
            false => line.waiting.len().min(own + usize::from(other < turn)),
        };
        Some(self.tenants.iter().enumerate().map(before).sum())
    }
}

impl Starts {
    /// A queue for `width` starts at a time, in which up to `longest` conversations wait.
    pub(crate) fn new(width: usize, longest: usize) -> Arc<Self> {
        let queue = Queue { free: width.max(1), next_ticket: 0, tenants: VecDeque::new(), pool: VecDeque::new() };
        Arc::new(Self { queue: Mutex::new(queue), longest })
    }

    /// Waits for a turn, for a conversation or, without one, for the warm pool.
    ///
    /// # Errors
    /// Too many conversations wait already, or this one was removed by [`Starts::leave`].
    pub(crate) async fn turn(self: &Arc<Self>, occupant: Option<&Occupant>) -> Result<Turn, NoTurn> {
        let (turn, called) = oneshot::channel();
        let place = {
            let mut queue = self.queue.lock();
            let ticket = queue.next_ticket;
            queue.next_ticket += 1;
            match occupant {
                Some(Occupant { conversation, tenant }) => {
                    queue.check(tenant, self.longest)?;
                    queue.push(tenant, Waiting { ticket, conversation: conversation.clone(), turn });
                }
                None => queue.pool.push_back(Waiting { ticket, conversation: String::new(), turn }),
            }
            Place { starts: self, ticket }
        };
        self.call();
        let turn = called.await.map_err(|_| NoTurn::Left);
        drop(place);
        turn
    }

    /// Gives free turns to those who are next.
    fn call(self: &Arc<Self>) {
        loop {
            let (waiting, turn) = {
                let mut queue = self.queue.lock();
                if queue.free == 0 {
                    return;
                }
                let Some(waiting) = queue.pop() else { return };
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
        self.queue.lock().position(conversation)
    }

    /// Removes a conversation from the queue, if it waits; whoever waited gets [`NoTurn::Left`].
    pub(crate) fn leave(&self, conversation: &str) {
        self.queue.lock().remove(|waiting| waiting.conversation == conversation);
    }

    /// Whether one more conversation of the tenant could wait.
    ///
    /// # Errors
    /// [`NoTurn::Full`] or [`NoTurn::Share`] if not.
    pub(crate) fn check(&self, tenant: &str) -> Result<(), NoTurn> {
        self.queue.lock().check(tenant, self.longest)
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

    /// A conversation's name begins with its tenant's.
    fn occupant(conversation: &str) -> Occupant {
        Occupant { conversation: conversation.into(), tenant: conversation[..1].into() }
    }

    fn now<T>(work: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        work.now_or_never()
    }

    /// Lets conversations wait in this order, while `starts` has no free turn; returns the order in which they have their turns.
    fn order(starts: &Arc<Starts>, held: Turn, conversations: &[&str]) -> Vec<String> {
        let occupants: Vec<_> = conversations.iter().map(|name| occupant(name)).collect();
        let mut waiting: Vec<_> = occupants.iter().map(|who| (who, Box::pin(starts.turn(Some(who))))).collect();
        assert!(waiting.iter_mut().all(|(_, turn)| now(turn).is_none()));
        let mut positions: Vec<_> =
            conversations.iter().map(|name| (starts.position(name).expect("waits"), (*name).to_owned())).collect();
        positions.sort();
        let mut called = Vec::new();
        let mut turn = Some(held);
        while !waiting.is_empty() {
            drop(turn.take());
            let next = waiting.iter_mut().enumerate().find_map(|(at, (_, wait))| Some((at, now(wait)?)));
            let (at, given) = next.expect("somebody is called");
            turn = Some(given.expect("a turn"));
            called.push(waiting.remove(at).0.conversation.clone());
        }
        let said = positions.into_iter().enumerate().map(|(at, (said, name))| {
            assert_eq!(at, said, "the position of {name}");
            name
        });
        assert_eq!(said.collect::<Vec<_>>(), called, "the positions that were told");
        called
    }

    #[test]
    fn turns_are_given_in_order_conversations_first_and_those_who_leave_are_passed_over() {
        let starts = Starts::new(1, 3);
        let [a, b, c, d, e, f, g] = ["ta", "tb", "tc", "td", "te", "tf", "tg"].map(occupant);
        let first = starts.turn(Some(&a)).now_or_never().expect("is free").expect("a turn");
        let mut pool = Box::pin(starts.turn(None));
        assert!(now(&mut pool).is_none());
        let mut waiting: Vec<_> = [&b, &c, &d].map(|who| Box::pin(starts.turn(Some(who)))).into();
        assert!(waiting.iter_mut().all(|turn| now(turn).is_none()));
        assert_eq!(["ta", "tb", "tc", "td"].map(|name| starts.position(name)), [None, Some(0), Some(1), Some(2)]);
        assert_eq!(starts.check("t"), Err(NoTurn::Full(3)));
        assert!(matches!(starts.turn(Some(&e)).now_or_never(), Some(Err(NoTurn::Full(3)))));
        // One goes away, another is told to leave.
        drop(waiting.remove(0));
        starts.leave("tc");
        assert!(matches!(now(&mut waiting[0]), Some(Err(NoTurn::Left))));
        assert_eq!(starts.position("td"), Some(0));
        drop(first);
        assert!(now(&mut pool).is_none(), "the conversation comes first");
        let second = now(&mut waiting[1]).expect("is called").expect("a turn");
        drop(second);
        let third = now(&mut pool).expect("is called").expect("a turn");
        // A turn that was given and not taken passes to the next.
        let (mut lost, mut next) = (Box::pin(starts.turn(Some(&f))), Box::pin(starts.turn(Some(&g))));
        assert!(now(&mut lost).is_none() && now(&mut next).is_none());
        drop(third);
        drop(lost);
        assert!(matches!(now(&mut next), Some(Ok(_))));
        // Nothing is left behind: the width is what it was.
        assert!(matches!(starts.turn(None).now_or_never(), Some(Ok(_))));
    }

    #[test]
    fn tenants_take_turns_and_each_is_told_its_true_position() {
        let starts = Starts::new(1, 512);
        let hold = || starts.turn(Some(&occupant("x"))).now_or_never().expect("is free").expect("a turn");
        let burst = ["a1", "a2", "a3", "a4", "a5", "b1", "c1", "c2"];
        let held = hold();
        assert_eq!(order(&starts, held, &burst), ["a1", "b1", "c1", "a2", "c2", "a3", "a4", "a5"]);
        let held = hold();
        assert_eq!(order(&starts, held, &["b1", "a1", "b2", "a2", "a3"]), ["b1", "a1", "b2", "a2", "a3"]);
        let held = hold();
        assert_eq!(order(&starts, held, &["a1", "a2"]), ["a1", "a2"], "one tenant alone");
    }

    #[test]
    fn one_tenant_cannot_take_all_places() {
        let starts = Starts::new(1, 64);
        let held = starts.turn(Some(&occupant("a"))).now_or_never().expect("is free").expect("a turn");
        let names: Vec<_> = (0..64).map(|number| occupant(&format!("a{number}"))).collect();
        let mut waiting: Vec<_> = names.iter().map(|who| Box::pin(starts.turn(Some(who)))).collect();
        let refused: Vec<_> = waiting.iter_mut().filter_map(now).collect();
        assert_eq!(refused.len(), 16, "of 64, three quarters for one tenant");
        assert!(refused.iter().all(|refused| matches!(refused, Err(NoTurn::Share(48)))));
        assert_eq!((starts.check("a"), starts.check("b")), (Err(NoTurn::Share(48)), Ok(())));
        // Others find places, and leave some, too.
        let names: Vec<_> = (0..16).map(|number| occupant(&format!("b{number}"))).collect();
        let mut others: Vec<_> = names.iter().map(|who| Box::pin(starts.turn(Some(who)))).collect();
        assert_eq!(others.iter_mut().filter_map(now).count(), 4);
        assert_eq!((starts.check("c"), starts.position("b0"), starts.position("a47")), (Ok(()), Some(1), Some(59)));
        drop((others, waiting));
        drop(held);
        assert_eq!(starts.check("a"), Ok(()));
    }

    #[test]
    fn a_free_turn_needs_no_place() {
        let starts = Starts::new(1, 0);
        let held = starts.turn(Some(&occupant("a"))).now_or_never().expect("is free").expect("a turn");
        assert_eq!(starts.check("b"), Err(NoTurn::Full(0)));
        drop(held);
        assert!(matches!(starts.turn(Some(&occupant("b"))).now_or_never(), Some(Ok(_))));
    }
}
