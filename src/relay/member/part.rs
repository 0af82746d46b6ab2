//! How a member makes way for another connection, to the same target or to one
//! that is preferred, so that nothing is lost with this one and nothing comes twice.

use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::time::{Instant, timeout};

use super::leave::{CONFIRMATION, FAREWELL, LOOK};
use super::{Leave, Member};
use crate::event::Reason;

impl Member {
    /// What was begun is written to its end and what was asked is answered; then
    /// our half is finished. Until the target has acknowledged everything and
    /// finished too, what it still says is passed on.
    pub(super) async fn make_way(mut self) -> Reason {
        self.is_parting = true;
        let mut patience = CONFIRMATION;
        if let Some(exchange) = &self.group.exchange {
            exchange.closing();
            patience = patience.max(exchange.timeout());
        }
        if let Ok(Some(leave)) = timeout(patience, poll_fn(|cx| self.poll_begun(cx))).await {
            return self.end(leave);
        }
        // Fails only on a connection that has broken, which the end tells.
        let _ = poll_fn(|cx| self.conn.poll_shutdown(cx)).await;
        let give_up = Instant::now() + CONFIRMATION;
        let mut acknowledged = None;
        while Instant::now() < give_up {
            if !self.confirm(true) {
                let since = *acknowledged.get_or_insert_with(Instant::now);
                if self.has_finished || since.elapsed() >= FAREWELL {
                    break;
                }
            }
            // Or it is time to look again.
            if let Ok(Some(leave)) = timeout(LOOK, poll_fn(|cx| self.poll_rest(cx))).await {
                return self.end(leave);
            }
        }
        self.end(Leave::Closed)
    }

    /// Ready when nothing is begun that has to be brought to its end, or it broke.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<Option<Leave>> {
        let is_flushed = match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(self.broke(error))),
            Poll::Pending => false,
        };
        if let Poll::Ready(Some(leave)) = self.poll_rest(cx) {
            return Poll::Ready(Some(leave));
        }
        let is_asking = self.group.exchange.as_ref().is_some_and(|exchange| exchange.is_asking());
        match is_flushed && (self.has_finished || !is_asking) {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
    }

    /// Passes on what it says; ready when it has finished, or broke.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Leave>> {
        if self.has_finished {
            return Poll::Pending;
        }
        match self.poll_read(cx) {
            Poll::Ready(None) => {
                self.finished();
                Poll::Ready(None)
            }
            polled => polled,
        }
    }
}
