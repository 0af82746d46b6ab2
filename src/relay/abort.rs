//! Passing an abort on: a connection broke, and its partner is to see that
//! as a reset, but not before it has what was already read for it. A reset
//! throws away what the kernel has not sent yet, so this waits a little.

use std::future::poll_fn;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::pair::{Fault, Pair};
use crate::event::{Reason, State};

/// Delivers to the surviving end what the broken one had sent, then resets it.
pub(super) async fn abort(mut pair: Pair, fault: Fault) -> Reason {
    let Fault { of_client, on_read, .. } = fault;
    pair.set_fault(fault);
    let (half, broken, survivor, _) = pair.parts(of_client);
    // After a failed read there is nothing more; after a failed write there may be.
    half.flow().break_source(!on_read);
    broken.record().set_state(State::Closing);
    survivor.record().set_state(State::Closing);
    deliver(&mut pair, of_client).await;
    let (_, _, survivor, _) = pair.parts(of_client);
    survivor.report_drained();
    let give_up = Instant::now() + GRACE;
    while !survivor.is_drained() && Instant::now() < give_up {
        sleep(LOOK).await;
    }
    pair.end_broken().expect("the fault was set above")
}

/// Goes on for as long as the survivor takes something within each [`GRACE`].
async fn deliver(pair: &mut Pair, of_client: bool) {
    let (half, broken, survivor, around) = pair.parts(of_client);
    let give_up = Instant::now() + LONGEST;
    while Instant::now() < give_up {
        let before = survivor.sent();
        let all = poll_fn(|cx| half.flow().poll(cx, broken, survivor, &around));
        match timeout(GRACE, all).await {
            Ok(_all_that_was_there) => break,
            Err(_elapsed) if survivor.sent() == before => return,
            Err(_elapsed) => {}
        }
    }
    // A survivor that cannot be flushed is broken too; there is nobody left to tell.
    let _ = timeout(GRACE, poll_fn(|cx| survivor.poll_flush(cx))).await;
}

/// How long a survivor may take nothing.
const GRACE: Duration = Duration::from_secs(1);
/// How long it may take little.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the kernel is asked whether it has sent everything.
const LOOK: Duration = Duration::from_millis(5);
