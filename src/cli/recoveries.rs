//! [`Recoveries`]: that a target can be reached again, said once a second at most.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use super::limiter::OFTEN;

/// The targets that could not be reached since the log began, by name.
#[derive(Default)]
pub(super) struct Recoveries {
    targets: HashMap<Arc<str>, Target>,
}

struct Target {
    /// Its first failure that no recovery was said after.
    failed: Option<Instant>,
    /// Its first success after the last failure, until it is said.
    back: Option<Instant>,
    /// When it may be said again.
    again: Instant,
}

impl Recoveries {
    pub(super) fn failed(&mut self, endpoint: &Arc<str>) {
        let now = Instant::now();
        let new = || Target { failed: None, back: None, again: now };
        let target = self.targets.entry(Arc::clone(endpoint)).or_insert_with(new);
        target.failed.get_or_insert(now);
        target.back = None;
    }

    pub(super) fn connected(&mut self, endpoint: &Arc<str>) {
        let Some(target) = self.targets.get_mut(endpoint).filter(|target| target.failed.is_some()) else {
            return;
        };
        target.back.get_or_insert_with(Instant::now);
        self.report();
    }

    /// When the next is to be said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.targets.values().filter(|target| target.back.is_some()).map(|target| target.again).min()
    }

    /// Says those whose time it is, and yields how many.
    pub(super) fn report(&mut self) -> usize {
        let (now, mut said) = (Instant::now(), 0);
        for (endpoint, target) in &mut self.targets {
            if let (Some(failed), Some(back)) = (target.failed, target.back)
                && target.again <= now
            {
                let away = format!("{:.3}s", (back - failed).as_secs_f64());
                info!(%endpoint, away, "target reachable again");
                *target = Target { failed: None, back: None, again: now + OFTEN };
                said += 1;
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_recovery_is_said_after_a_failure_only_and_once_a_second() {
        let mut recoveries = Recoveries::default();
        let endpoint: Arc<str> = "connect1".into();
        let is_away = |recoveries: &Recoveries| recoveries.targets["connect1"].failed.is_some();
        recoveries.connected(&endpoint);
        assert!(recoveries.targets.is_empty());
        recoveries.failed(&endpoint);
        recoveries.connected(&endpoint);
        assert!(!is_away(&recoveries));
        // Too early, but not forgotten.
        recoveries.failed(&endpoint);
        recoveries.connected(&endpoint);
        assert!(is_away(&recoveries));
        tokio::time::sleep_until(recoveries.due().unwrap()).await;
        assert_eq!((recoveries.report(), recoveries.due()), (1, None));
        // One that fails again in time is not back.
        recoveries.failed(&endpoint);
        recoveries.connected(&endpoint);
        recoveries.failed(&endpoint);
        assert_eq!((recoveries.report(), recoveries.due()), (0, None));
    }
}
