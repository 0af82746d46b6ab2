//! The byte plane: from one [`Conn`](crate::net) to another, under
//! back-pressure, in large pieces, without a buffer that waits for data.

mod copy;
mod scratch;
mod tap;
mod turn;

pub(crate) use self::copy::{Broken, Flow, Side, Surroundings};
pub(crate) use self::scratch::{SIZE as MOST_READ, with as with_scratch};
pub use self::tap::{Tap, TapChunk, TapDirection, TapReader};
pub(crate) use self::turn::Turns;
