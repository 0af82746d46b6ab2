//! [`Arrivals`]: who has come to one listener and how fast they come, by which
//! a client can be refused or has to wait.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::origin;

/// The clients of one listener by where they come from, and its pace.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    counts: Mutex<HashMap<IpAddr, usize>>,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// When the next may come, if everyone kept the pace exactly.
    next: Option<Instant>,
    said: Option<Instant>,
}

/// A connection that counts for its address until it is dropped.
pub(crate) struct Arrival {
    arrivals: Arc<Arrivals>,
    from: IpAddr,
}

impl Arrivals {
    /// Counts a client, unless as many of its address are here as may be.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr, most: usize) -> Option<Arrival> {
        let from = origin(ip);
        let mut counts = self.counts();
        let count = counts.entry(from).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Arrival { arrivals: Arc::clone(self), from })
    }

    /// Since when, or from when on, another may be accepted, at so many a second.
    pub(crate) fn due(&self, rate: u32) -> Instant {
        let now = Instant::now();
        // What was not used is kept for a moment, so that a burst is not slowed down for nothing.
        let earliest = now.checked_sub(CREDIT.max(Duration::from_secs(1) / rate)).unwrap_or(now);
        self.pace().next.map_or(earliest, |next| next.max(earliest))
    }

    /// One was accepted.
    pub(crate) fn came(&self, rate: u32) {
        let next = self.due(rate) + Duration::from_secs(1) / rate;
        self.pace().next = Some(next);
    }

    /// Tells whether it is to be said that clients wait, which is once a second.
    pub(crate) fn is_news(&self) -> bool {
        let mut pace = self.pace();
        let is_news = pace.said.is_none_or(|said| said.elapsed() >= Duration::from_secs(1));
        if is_news {
            pace.said = Some(Instant::now());
        }
        is_news
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut counts = self.arrivals.counts();
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

/// How much unused pace is kept.
const CREDIT: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_an_address_and_a_network_of_ipv6_is_one() {
        let arrivals = Arc::new(Arrivals::default());
        let enter = |text: &str| arrivals.enter(text.parse().unwrap(), 2);
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none());
        let _other = enter("192.0.2.2").unwrap();
        drop(first);
        let _third = enter("192.0.2.1").unwrap();
        let hosts = (enter("2001:db8::1").unwrap(), enter("2001:db8::2:3").unwrap());
        assert!(enter("2001:db8::4").is_none());
        assert!(enter("2001:db8:0:1::4").is_some());
        drop(hosts);
        assert_eq!(arrivals.counts().len(), 2, "who has left is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_kept_and_a_short_rest_allows_a_short_burst() {
        let arrivals = Arrivals::default();
        let rate = 100;
        let come = |until: Instant| {
            let mut count = 0;
            while arrivals.due(rate) <= until {
                arrivals.came(rate);
                count += 1;
            }
            count
        };
        assert_eq!(come(Instant::now()), 11);
        for _ in 0..10 {
            tokio::time::advance(Duration::from_millis(50)).await;
            assert_eq!(come(Instant::now()), 5);
        }
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(come(Instant::now()), 11, "an hour of rest is not saved up");
        let slow = 1;
        let arrivals = Arrivals::default();
        assert!(arrivals.due(slow) <= Instant::now());
        arrivals.came(slow);
        arrivals.came(slow);
        assert_eq!(arrivals.due(slow), Instant::now() + Duration::from_secs(1));
    }
}
