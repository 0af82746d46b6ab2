//! Takes what an [`Intake`] has through in lanes: one for each connection, and
//! one for all that is about none. In a lane each item waits for the one before
//! it; one that has to wait holds up its own lane and no other. How many can
//! wait is bounded by the intake.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::task::{Id, JoinSet, yield_now};

use super::intake::{Intake, Item, Receipt};
use crate::event::ConnectionId;

/// What has an order of its own.
type Lane = Option<ConnectionId>;
type Taking = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Lanes<F> {
    intake: Arc<Intake>,
    begin: F,
    /// Those in which something waits.
    busy: HashMap<Lane, Busy>,
    /// Yields the lane of an item that had to wait.
    waiting: JoinSet<Lane>,
}

/// A lane in which something waits, and what comes after that.
struct Busy {
    task: Id,
    behind: VecDeque<(Receipt, Item)>,
}

/// Says that an item is done with, however it ends.
struct Done {
    intake: Arc<Intake>,
    receipt: Receipt,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.intake.finish(self.receipt);
    }
}

/// Takes every item through what `begin` makes of it, until the intake is closed and empty. Items are begun
/// in the order in which they came, but for those behind one of their lane that waits. Dropped, it ends those
/// that wait.
pub(crate) async fn in_lanes<F, T>(intake: Arc<Intake>, mut begin: F)
where
    F: FnMut(Item) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let begin = move |item| -> Taking { Box::pin(begin(item)) };
    let mut lanes =
        Lanes { intake: Arc::clone(&intake), begin, busy: HashMap::new(), waiting: JoinSet::new() };
    let mut turn = 0;
    loop {
        turn += 1;
        if turn % TURN == 0 {
            // There may always be more, and whoever puts it in or takes it out is to run, too.
            yield_now().await;
        }
        tokio::select! {
            biased;
            () = lanes.one_has_ended() => {}
            taken = intake.take() => match taken {
                Some((receipt, item)) => lanes.enter(receipt, item).await,
                None => break,
            },
        }
    }
    while !lanes.waiting.is_empty() {
        lanes.one_has_ended().await;
    }
}

impl<F: FnMut(Item) -> Taking> Lanes<F> {
    async fn enter(&mut self, receipt: Receipt, item: Item) {
        let lane = item.connection();
        if let Some(busy) = self.busy.get_mut(&lane) {
            busy.behind.push_back((receipt, item));
        } else if let Some(task) = self.start(lane, receipt, item).await {
            self.busy.insert(lane, Busy { task, behind: VecDeque::new() });
        }
    }

    /// Takes an item through, as far as that goes without waiting; yields the task that goes on.
    async fn start(&mut self, lane: Lane, receipt: Receipt, item: Item) -> Option<Id> {
        let done = Done { intake: Arc::clone(&self.intake), receipt };
        let mut taking = (self.begin)(item);
        // A panic ends what it happened in, here as in a task of its own.
        let polled = poll_fn(|cx| {
            Poll::Ready(
                catch_unwind(AssertUnwindSafe(|| taking.as_mut().poll(cx))).unwrap_or(Poll::Ready(())),
            )
        });
        if polled.await.is_ready() {
            return None;
        }
        let waits = async move {
            taking.await;
            drop(done);
            lane
        };
        Some(self.waiting.spawn(waits).id())
    }

    /// Waits for one that waits, and goes on with its lane. Never ready while none does; cancel safe.
    async fn one_has_ended(&mut self) {
        let Some(ended) = self.waiting.join_next().await else { return std::future::pending().await };
        let lane = match ended {
            Ok(lane) => lane,
            Err(panicked) => {
                let of = |(_, busy): &(&Lane, &Busy)| busy.task == panicked.id();
                let Some((lane, _)) = self.busy.iter().find(of) else { return };
                *lane
            }
        };
        let mut behind = self.busy.remove(&lane).map(|busy| busy.behind).unwrap_or_default();
        while let Some((receipt, item)) = behind.pop_front() {
            if let Some(task) = self.start(lane, receipt, item).await {
                self.busy.insert(lane, Busy { task, behind });
                return;
            }
        }
    }
}

/// Items, each of them one read at most, before others get their turn.
const TURN: usize = 8;

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::event::{Endpoint, Introduction};
    use crate::registry::{Arguments, Fact, Party, Trail, Undone};

    fn fact(name: &str, party: Option<&Arc<Party>>) -> Item {
        let (party, arguments, trail) = (party.cloned(), Arguments::new(), Trail::default());
        Item::Fact(Fact { name: name.into(), party, data: None, arguments, trail })
    }

    fn party() -> Arc<Party> {
        Arc::new(Party::new(
            ConnectionId::next(),
            "a".into(),
            (Endpoint::Echo, Endpoint::Echo),
            Introduction::default(),
        ))
    }

    /// `wait…` waits for a permit, `panic` does so and panics, anything else is told at once.
    fn begin(told: &Arc<Mutex<Vec<String>>>, gate: &Arc<Semaphore>) -> impl FnMut(Item) -> Taking + use<> {
        let (told, gate) = (Arc::clone(told), Arc::clone(gate));
        move |item| {
            let (told, gate) = (Arc::clone(&told), Arc::clone(&gate));
            Box::pin(async move {
                let Item::Fact(Fact { name, .. }) = item else { unreachable!() };
                if name.starts_with("wait") || &*name == "panic" {
                    gate.acquire().await.unwrap().forget();
                }
                assert_ne!(&*name, "panic");
                told.lock().unwrap().push(name.to_string());
            })
        }
    }

    #[tokio::test]
    async fn what_waits_holds_up_its_own_lane_and_no_other() {
        let (undone, told, gate) = (Undone::new(), Arc::default(), Arc::new(Semaphore::new(0)));
        let intake = Arc::new(Intake::of_object(&undone));
        let (one, other) = (party(), party());
        for (name, party) in [
            ("wait 1", Some(&one)),
            ("2", Some(&one)),
            ("a", Some(&other)),
            ("wait x", None),
            ("y", None),
            ("wait 3", Some(&one)),
            ("b", Some(&other)),
            ("4", Some(&one)),
        ] {
            intake.put(fact(name, party));
        }
        let mut task = JoinSet::new();
        task.spawn(in_lanes(Arc::clone(&intake), begin(&told, &gate)));
        while told.lock().unwrap().len() < 2 {
            yield_now().await;
        }
        assert_eq!(*told.lock().unwrap(), ["a", "b"]);
        assert!(intake.has_some_of(one.id) && !intake.has_some_of(other.id));
        assert!(intake.is_done(3) && intake.is_done(7) && !intake.is_done(2) && !intake.is_done(8));
        gate.add_permits(3);
        undone.none().await;
        let all = told.lock().unwrap().clone();
        let of = |names: [&str; 4]| {
            all.iter().filter(|name| names.contains(&name.as_str())).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(["wait 1", "2", "wait 3", "4"]), ["wait 1", "2", "wait 3", "4"]);
        assert_eq!(of(["wait x", "y", "", ""]), ["wait x", "y"]);
        assert!(!intake.has_some_of(one.id) && intake.is_done(8));
        intake.close();
        task.join_next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn however_much_there_is_others_have_their_turns() {
        let undone = Undone::new();
        let intake = Arc::new(Intake::of_object(&undone));
        intake.put(fact("x", None));
        let (begun, seen) = (Cell::new(0), Cell::new(0));
        let begin = |item| {
            begun.set(begun.get() + 1);
            match begun.get() {
                1_000 => intake.close(),
                _ => _ = intake.put(item),
            }
            std::future::ready(())
        };
        let other = async { seen.set(begun.get()) };
        tokio::join!(in_lanes(Arc::clone(&intake), begin), other);
        assert_eq!((begun.get(), seen.get() < 100), (1_000, true), "{}", seen.get());
    }

    #[tokio::test]
    async fn what_panics_is_done_with_and_its_lane_goes_on() {
        let (undone, told, gate) = (Undone::new(), Arc::default(), Arc::new(Semaphore::new(1)));
        let intake = Arc::new(Intake::of_object(&undone));
        let one = party();
        for name in ["panic", "after"] {
            intake.put(fact(name, Some(&one)));
        }
        gate.forget_permits(1);
        intake.close();
        let taking = in_lanes(Arc::clone(&intake), begin(&told, &gate));
        let opens = async { gate.add_permits(1) };
        tokio::join!(taking, opens);
        undone.none().await;
        assert_eq!(*told.lock().unwrap(), ["after"]);
    }
}
