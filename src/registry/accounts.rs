//! [`Ledger`]: where every message is that was taken for one target. Whoever
//! holds the queue writes it; the sum is exact at any moment.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The accounts of a target that is kept connected, in messages:
/// `received = sent + queued + dropped + unconfirmed`, at any moment.
///
/// Of several targets that take turns each has those of what was handed to it,
/// and their relay those of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Accounts {
    /// Taken for it since it began.
    pub received: u64,
    /// Acknowledged by its kernel, which is not to say that it has read them.
    pub sent: u64,
    /// Waiting in the node.
    pub queued: u64,
    /// Dropped because its queue was full, or because the node stopped first.
    pub dropped: u64,
    /// Handed to our kernel and not acknowledged: on their way, or lost when a
    /// connection ended; with `resend` they are queued again then.
    pub unconfirmed: u64,
}

/// What an object shows of a ledger.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    pub(crate) ledger: Arc<Ledger>,
    /// Only what this one of several targets has got.
    pub(crate) of: Option<Arc<str>>,
}

/// The same while it is written.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accounts: Accounts,
    /// What waits in the node, but not yet in its queue.
    held: u64,
    /// Of this connection: where the last byte of some messages was, and how many.
    written: VecDeque<(u64, u64)>,
    /// How many of this connection have been acknowledged.
    confirmed: u64,
    /// What each target has got.
    shares: Vec<(Arc<str>, Accounts)>,
    /// Whose turn it is.
    turn: usize,
}

impl Books {
    /// What is true now.
    pub(crate) fn accounts(&self) -> Accounts {
        match &self.of {
            Some(target) => self.ledger.of(target),
            None => self.ledger.accounts(),
        }
    }
}

impl Ledger {
    /// What is true now.
    pub(crate) fn accounts(&self) -> Accounts {
        let State { accounts, held, .. } = &*self.lock();
        Accounts { queued: accounts.queued + held, ..*accounts }
    }

    /// What one target has got, of what is not queued.
    fn of(&self, target: &str) -> Accounts {
        let state = self.lock();
        let share = state.shares.iter().find(|(name, _)| **name == *target);
        share.map_or_else(Accounts::default, |(_, share)| *share)
    }

    /// What is written from now on is for this target.
    pub(crate) fn lead_to(&self, target: &Arc<str>) {
        let mut state = self.lock();
        let known = state.shares.iter().position(|(name, _)| name == target);
        state.turn = known.unwrap_or_else(|| {
            state.shares.push((Arc::clone(target), Accounts::default()));
            state.shares.len() - 1
        });
    }

    /// Messages were taken for it that wait for their turn outside its queue.
    pub(crate) fn held(&self, messages: u64) {
        let mut state = self.lock();
        state.accounts.received += messages;
        state.held += messages;
    }

    /// Some of these have gone into its queue, where `queued` are now.
    pub(crate) fn moved(&self, messages: u64, queued: u64) {
        let mut state = self.lock();
        state.held -= messages;
        state.accounts.queued = queued;
    }

    /// All that was left in its queue has come back.
    pub(crate) fn put_back(&self, messages: u64) {
        let mut state = self.lock();
        state.held += messages;
        state.accounts.queued = 0;
    }

    /// Some of those that waited for their turn are dropped.
    pub(crate) fn gave_up(&self, messages: u64) {
        let mut state = self.lock();
        state.held -= messages;
        state.accounts.dropped += messages;
    }

    /// Messages were taken for it, of which some were dropped, or others in their place.
    pub(crate) fn took(&self, messages: u64, dropped: u64, queued: u64) {
        let accounts = &mut self.lock().accounts;
        accounts.received += messages;
        accounts.dropped += dropped;
        accounts.queued = queued;
    }

    /// Messages were handed to the kernel, the last byte of which is the connection's byte `end`.
    pub(crate) fn wrote(&self, messages: u64, end: u64, queued: u64) {
        let mut state = self.lock();
        state.accounts.queued = queued;
        if messages == 0 {
            return;
        }
        state.accounts.unconfirmed += messages;
        if let Some(share) = state.share() {
            share.received += messages;
            share.unconfirmed += messages;
        }
        if state.written.len() < ENTRIES {
            state.written.push_back((end, messages));
        } else if let Some(last) = state.written.back_mut() {
            // Coarser rather than longer: then they are confirmed together.
            *last = (end, last.1 + messages);
        }
    }

    /// All bytes up to `end` of the connection have been acknowledged. Yields how many messages that confirms.
    pub(crate) fn acknowledged(&self, end: u64) -> u64 {
        let mut state = self.lock();
        let before = state.accounts.sent;
        while let Some(&(last, messages)) = state.written.front()
            && last <= end
        {
            state.written.pop_front();
            state.confirm(messages);
        }
        state.accounts.sent - before
    }

    /// The first so many messages of the connection have been received, since one of them was answered.
    pub(crate) fn answered(&self, first: u64) {
        let mut state = self.lock();
        while first > state.confirmed
            && let Some((end, messages)) = state.written.pop_front()
        {
            let part = messages.min(first - state.confirmed);
            if part < messages {
                state.written.push_front((end, messages - part));
            }
            state.confirm(part);
        }
    }

    /// The connection is over, and these of its messages wait again.
    pub(crate) fn resend(&self, messages: u64, queued: u64) {
        let mut state = self.lock();
        state.accounts.unconfirmed -= messages;
        state.accounts.queued = queued;
        if let Some(share) = state.share() {
            share.received -= messages;
            share.unconfirmed -= messages;
        }
        state.written.clear();
        state.confirmed = 0;
    }

    /// Tells whether anything is on its way.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.lock().written.is_empty()
    }

    /// The connection is over: what is unconfirmed stays so.
    pub(crate) fn ended(&self) {
        let mut state = self.lock();
        state.written.clear();
        state.confirmed = 0;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn confirm(&mut self, messages: u64) {
        self.confirmed += messages;
        self.accounts.sent += messages;
        self.accounts.unconfirmed -= messages;
        if let Some(share) = self.share() {
            share.sent += messages;
            share.unconfirmed -= messages;
        }
    }

    /// What the target has got whose turn it is.
    fn share(&mut self) -> Option<&mut Accounts> {
        self.shares.get_mut(self.turn).map(|(_, share)| share)
    }
}

/// Entries of messages on their way.
const ENTRIES: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(ledger: &Ledger) -> Accounts {
        let accounts = ledger.accounts();
        let Accounts { received, sent, queued, dropped, unconfirmed } = accounts;
        assert_eq!(received, sent + queued + dropped + unconfirmed, "{accounts:?}");
        accounts
    }

    #[test]
    fn what_waits_for_its_turn_is_somewhere_and_an_answer_confirms_what_came_before() {
        let ledger = Ledger::default();
        ledger.held(10);
        ledger.moved(4, 4);
        assert_eq!(sum(&ledger).queued, 10);
        ledger.wrote(3, 30, 1);
        ledger.answered(2);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (2, 1));
        ledger.acknowledged(30);
        ledger.answered(3);
        assert_eq!((sum(&ledger).sent, ledger.is_waiting()), (3, false));
        ledger.ended();
        ledger.put_back(1);
        ledger.gave_up(2);
        assert_eq!((sum(&ledger).queued, sum(&ledger).dropped), (5, 2));
        ledger.moved(1, 1);
        ledger.wrote(1, 10, 0);
        ledger.answered(1);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (4, 0));
    }

    #[test]
    fn of_targets_that_take_turns_each_has_what_was_handed_to_it() {
        let ledger = Arc::new(Ledger::default());
        let of = |target: &str| Books { ledger: Arc::clone(&ledger), of: Some(target.into()) }.accounts();
        ledger.took(10, 0, 10);
        ledger.lead_to(&"a".into());
        ledger.wrote(6, 60, 4);
        ledger.acknowledged(60);
        ledger.wrote(3, 90, 1);
        ledger.ended();
        ledger.lead_to(&"b".into());
        ledger.wrote(1, 10, 0);
        ledger.resend(1, 1);
        ledger.lead_to(&"a".into());
        ledger.wrote(1, 10, 0);
        ledger.acknowledged(10);
        assert_eq!(of("a"), Accounts { received: 10, sent: 7, unconfirmed: 3, ..Accounts::default() });
        assert_eq!((of("b"), of("c")), (Accounts::default(), Accounts::default()));
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (7, 3));
    }

    #[test]
    fn every_message_is_somewhere() {
        let ledger = Ledger::default();
        ledger.took(10, 0, 10);
        sum(&ledger);
        ledger.wrote(4, 40, 6);
        ledger.wrote(0, 45, 6);
        ledger.wrote(2, 60, 4);
        assert!(ledger.is_waiting());
        ledger.acknowledged(59);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (4, 2));
        ledger.ended();
        ledger.acknowledged(100);
        assert_eq!(sum(&ledger).unconfirmed, 2);
        ledger.took(5, 3, 6);
        assert_eq!(sum(&ledger).dropped, 3);
        for nth in 0..10_000 {
            ledger.took(1, 0, 7);
            ledger.wrote(1, nth, 6);
        }
        assert!(ledger.lock().written.len() <= ENTRIES);
        ledger.acknowledged(u64::MAX);
        assert_eq!((sum(&ledger).unconfirmed, ledger.is_waiting()), (2, false));
    }
}
