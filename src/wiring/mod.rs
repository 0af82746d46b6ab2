//! Wires: any signal to any slot, from a config file. Each object that has any
//! has one task, which takes what the object tells through its wires and
//! scripts in the order of the file. This room knows connections and scripts
//! only by the registry.

mod consumer;
#[cfg(test)]
mod cost;
mod filter;
mod passage;
mod pump;
mod signals;
mod steps;
mod template;
mod timer;
mod wire;

pub(crate) use self::consumer::{Destination, Tap, Taps, consume, run_queue};
pub use self::filter::{Filter, Pattern};
pub(crate) use self::passage::Filtering;
pub(crate) use self::pump::pump;
#[cfg(test)]
pub(crate) use self::signals::SIGNALS;
pub(crate) use self::signals::{Signal, snake_case};
pub use self::steps::{Expect, StepOptions};
pub(crate) use self::steps::{Inbox, Steps};
pub use self::template::Template;
pub(crate) use self::template::{Name, What, read_hex};
pub use self::timer::TimerOptions;
pub(crate) use self::timer::run_timer;
pub(crate) use self::wire::Wire;
pub use self::wire::{MemberName, WireOptions};
