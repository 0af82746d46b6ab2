//! For tests of code that uses signals: [`SignalSpy`], after QSignalSpy.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::signal::{Connection, SignalRef};

/// Records what a signal emits, from its creation on.
///
/// Create it before the action it is to observe. It keeps every value until
/// it is asked for them or dropped, so it belongs in tests.
///
/// ```
/// use signal_node::{Signal, testing::SignalSpy};
/// use std::time::Duration;
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let measured = Signal::new();
/// let spy = SignalSpy::new(measured.view());
/// measured.emit(&1);
/// measured.emit(&2);
/// assert!(spy.wait_for(2, Duration::from_secs(5)).await);
/// assert_eq!(spy.take(), [1, 2]);
/// assert!(!spy.wait_more(Duration::from_millis(1)).await);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct SignalSpy<T> {
    seen: Arc<Seen<T>>,
    _connection: Connection,
}

struct Seen<T> {
    values: Mutex<Values<T>>,
    more: Notify,
}

struct Values<T> {
    kept: Vec<T>,
    count: usize,
}

impl<T: Clone + Send + 'static> SignalSpy<T> {
    /// Begins to record.
    #[track_caller]
    pub fn new(signal: SignalRef<'_, T>) -> Self {
        let values = Mutex::new(Values { kept: Vec::new(), count: 0 });
        let seen = Arc::new(Seen { values, more: Notify::new() });
        let sink = Arc::clone(&seen);
        let connection = signal.connect(move |value: &T| {
            let value = value.clone();
            let mut values = sink.lock();
            values.kept.push(value);
            values.count += 1;
            drop(values);
            sink.more.notify_waiters();
        });
        Self { seen, _connection: connection }
    }

    /// How many emissions were seen in all, those that were taken included.
    pub fn count(&self) -> usize {
        self.seen.lock().count
    }

    /// What was seen and not taken yet.
    pub fn values(&self) -> Vec<T> {
        self.seen.lock().kept.clone()
    }

    /// Takes what was seen and not taken yet.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.seen.lock().kept)
    }

    /// Waits until `count` emissions were seen in all; `false` says that `limit` passed first.
    pub async fn wait_for(&self, count: usize, limit: Duration) -> bool {
        let enough = async {
            loop {
                // Made before the look, so that an emission in between wakes it.
                let more = self.seen.more.notified();
                if self.count() >= count {
                    return;
                }
                more.await;
            }
        };
        timeout(limit, enough).await.is_ok()
    }

    /// Waits for one more emission than there were at this call; `false` says that `limit` passed first.
    pub async fn wait_more(&self, limit: Duration) -> bool {
        self.wait_for(self.count() + 1, limit).await
    }
}

impl<T> Seen<T> {
    fn lock(&self) -> MutexGuard<'_, Values<T>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for SignalSpy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalSpy").field("count", &self.seen.lock().count).finish_non_exhaustive()
    }
}
