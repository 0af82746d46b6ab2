//! Timers: `[timer.ID]`, with the signal `timeout`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::registry::{Arguments, Clock, Fact, Intake, Item, Trail};

/// When a timer fires. Exactly one of the two is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerOptions {
    /// Again and again, so long after the last time.
    pub every: Option<Duration>,
    /// Once, so long after its start.
    pub after: Option<Duration>,
}

/// Runs a timer for ever. A time at which the last one has not been taken through yet is left out.
pub(crate) async fn run_timer(options: TimerOptions, clock: Arc<Clock>, intake: Option<Arc<Intake>>) {
    let mut runs = clock.watch();
    let Some(period) = options.every.or(options.after) else { return std::future::pending().await };
    loop {
        let run = *runs.borrow_and_update();
        if !run.is_on {
            // The clock is ours, so its sender is not gone.
            let _ = runs.changed().await;
            continue;
        }
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut last = 0;
        loop {
            tokio::select! {
                biased;
                _ = runs.changed() => break,
                _ = ticks.tick() => {}
            }
            let n = i64::try_from(clock.fire()).unwrap_or(i64::MAX);
            if options.every.is_none() {
                clock.stop();
            }
            if let Some(intake) = intake.as_ref().filter(|intake| intake.is_done(last)) {
                let (arguments, trail) = (Arguments::new().with("n", n), Trail::default());
                let name = "timeout".into();
                last = intake.put(Item::Fact(Fact { name, party: None, data: None, arguments, trail }));
            }
        }
    }
}
