//! What looks after a running node from outside: the service manager that
//! started it, and clients of its control socket. Neither can hold up a byte:
//! control clients are served by a thread of their own.

mod client;
mod control;
mod pattern;
mod request;
mod status;
mod supervisor;

pub(crate) use self::client::PROTOCOL;
pub(crate) use self::control::{CONTROL, Control, ControlThread, Order, Phase, Reply};
pub(crate) use self::request::grace_of;
pub(crate) use self::status::MOST_CONNECTIONS;
pub(crate) use self::supervisor::Supervisor;
