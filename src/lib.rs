//! Qt-style signals and TCP sockets in one process.

pub mod address;

pub use self::address::{Address, AddressError, Host};
