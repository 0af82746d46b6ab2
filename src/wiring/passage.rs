//! [`Filtering`]: the `via` of a relay, in one of its two directions.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::filter::{Filter, through};
use crate::event::ConnectionId;
use crate::registry::{Call, CallError, Passage, Passed, Registry};

/// The filters of a relay for one way.
#[derive(Debug)]
pub(crate) struct Filtering {
    /// As the log names it: `relay.up.via`.
    name: String,
    filters: Vec<Filter>,
    registry: Registry,
    failures: Mutex<(u64, Option<Instant>)>,
}

impl Filtering {
    /// Those of this list.
    pub(crate) fn new(name: String, filters: Vec<Filter>, registry: &Registry) -> Self {
        Self { name, filters, registry: registry.clone(), failures: Mutex::default() }
    }

    /// The list.
    pub(crate) fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Says at most once a second what could not be done.
    fn fail(&self, error: &CallError) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.0 += 1;
        if failures.1.is_some_and(|said| said.elapsed() < OFTEN) {
            return;
        }
        failures.1 = Some(Instant::now());
        let (via, count) = (&*self.name, failures.0);
        warn!(via, %error, failures = count, "a message was dropped, since a filter failed");
    }
}

impl Passage for Filtering {
    fn is_prompt(&self) -> bool {
        !self.filters.iter().any(|filter| matches!(filter, Filter::Function { .. }))
    }

    fn pass(&self, call: Call) -> Passed<'_> {
        Box::pin(async move {
            through(&self.filters, &call, &self.registry).await.unwrap_or_else(|error| {
                // The script's own line says more.
                if !matches!(error, CallError::Script(_)) {
                    self.fail(&error);
                }
                Vec::new()
            })
        })
    }

    fn forget(&self, connection: ConnectionId) {
        self.registry.forget(connection);
    }
}

/// How often failures are said.
const OFTEN: Duration = Duration::from_secs(1);
