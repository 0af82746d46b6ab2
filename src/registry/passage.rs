//! [`Passage`]: the filters of a relay for one way, as the relay knows them.
//! Whoever owns filters implements it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::call::{Call, Frame};
use crate::event::ConnectionId;

/// What messages go through on their way to the other end of a relay.
pub(crate) trait Passage: Send + Sync + fmt::Debug {
    /// Whether the first poll always yields an answer, since no script is asked.
    fn is_prompt(&self) -> bool;

    /// Takes the data of a call through. Nothing, if it was dropped; a fault drops it too, and is said there.
    fn pass(&self, call: Call) -> Passed<'_>;

    /// A connection that messages came from is over, and nothing more comes of them.
    fn forget(&self, connection: ConnectionId);
}

/// A message under way.
pub(crate) type Passed<'a> = Pin<Box<dyn Future<Output = Vec<Frame>> + Send + 'a>>;
