//! [`Ledger`]: where every message is that was taken for one target. Whoever
//! holds the queue writes it; the sum is exact at any moment.

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
    /// How many of this connection were handed to the kernel.
    out: u64,
    /// And how many of these have arrived.
    arrived: u64,
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

    /// Messages were handed to the kernel.
    pub(crate) fn wrote(&self, messages: u64, queued: u64) {
        let mut state = self.lock();
        state.accounts.queued = queued;
        state.accounts.unconfirmed += messages;
        state.out += messages;
        if let Some(share) = state.share() {
            share.received += messages;
            share.unconfirmed += messages;
        }
    }

    /// The first so many messages of the connection have been received: they were acknowledged, or one of them answered.
    pub(crate) fn arrived(&self, first: u64) {
        let mut state = self.lock();
        let new = first.min(state.out).saturating_sub(state.arrived);
        state.arrived += new;
        state.accounts.sent += new;
        state.accounts.unconfirmed -= new;
        if let Some(share) = state.share() {
            share.sent += new;
            share.unconfirmed -= new;
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
        (state.out, state.arrived) = (0, 0);
    }

    /// Tells whether anything is on its way.
    pub(crate) fn is_waiting(&self) -> bool {
        let state = self.lock();
        state.out > state.arrived
    }

    /// The connection is over: what is unconfirmed stays so.
    pub(crate) fn ended(&self) {
        let mut state = self.lock();
        (state.out, state.arrived) = (0, 0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What the target has got whose turn it is.
    fn share(&mut self) -> Option<&mut Accounts> {
        self.shares.get_mut(self.turn).map(|(_, share)| share)
    }
}

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
        ledger.wrote(3, 1);
        ledger.arrived(2);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (2, 1));
        ledger.arrived(1);
        ledger.arrived(9);
        assert_eq!((sum(&ledger).sent, ledger.is_waiting()), (3, false));
        ledger.ended();
        ledger.put_back(1);
        ledger.gave_up(2);
        assert_eq!((sum(&ledger).queued, sum(&ledger).dropped), (5, 2));
        ledger.moved(1, 1);
        ledger.wrote(1, 0);
        ledger.arrived(1);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (4, 0));
    }

    #[test]
    fn of_targets_that_take_turns_each_has_what_was_handed_to_it() {
        let ledger = Arc::new(Ledger::default());
        let of = |target: &str| Books { ledger: Arc::clone(&ledger), of: Some(target.into()) }.accounts();
        ledger.took(10, 0, 10);
        ledger.lead_to(&"a".into());
        ledger.wrote(6, 4);
        ledger.arrived(6);
        ledger.wrote(3, 1);
        ledger.ended();
        ledger.lead_to(&"b".into());
        ledger.wrote(1, 0);
        ledger.resend(1, 1);
        ledger.lead_to(&"a".into());
        ledger.wrote(1, 0);
        ledger.arrived(1);
        assert_eq!(of("a"), Accounts { received: 10, sent: 7, unconfirmed: 3, ..Accounts::default() });
        assert_eq!((of("b"), of("c")), (Accounts::default(), Accounts::default()));
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (7, 3));
    }

    #[test]
    fn every_message_is_somewhere() {
        let ledger = Ledger::default();
        ledger.took(10, 0, 10);
        sum(&ledger);
        ledger.wrote(4, 6);
        ledger.wrote(0, 6);
        ledger.wrote(2, 4);
        assert!(ledger.is_waiting());
        ledger.arrived(4);
        assert_eq!((sum(&ledger).sent, sum(&ledger).unconfirmed), (4, 2));
        ledger.ended();
        ledger.arrived(100);
        assert_eq!(sum(&ledger).unconfirmed, 2);
        ledger.took(5, 3, 6);
        assert_eq!(sum(&ledger).dropped, 3);
        ledger.wrote(3, 3);
        ledger.resend(2, 5);
        ledger.ended();
        assert_eq!((sum(&ledger).unconfirmed, ledger.is_waiting()), (3, false));
    }
}
