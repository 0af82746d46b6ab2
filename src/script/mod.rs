//! Scripts: Luau in one sealed interpreter each, on a thread of its own behind
//! a bounded queue. Functions of a script are called through the registry, and
//! call slots through it; a script sees no socket, no file and no other script.

#[cfg(not(feature = "script"))]
mod absent;
#[cfg(test)]
#[cfg(feature = "script")]
mod bombs;
#[cfg(feature = "script")]
mod clock;
#[cfg(feature = "script")]
mod conn;
#[cfg(test)]
#[cfg(feature = "script")]
mod cost;
mod error;
#[cfg(test)]
#[cfg(feature = "script")]
mod escapes;
#[cfg(feature = "script")]
mod json;
#[cfg(feature = "script")]
mod known;
#[cfg(feature = "script")]
mod library;
#[cfg(feature = "script")]
mod object;
mod options;
#[cfg(feature = "script")]
mod outside;
#[cfg(feature = "script")]
pub(crate) mod passwords;
#[cfg(feature = "script")]
mod task;
#[cfg(feature = "script")]
mod vm;

#[cfg(all(feature = "cli", not(feature = "script")))]
pub(crate) use self::absent::passwords;
#[cfg(not(feature = "script"))]
pub(crate) use self::absent::{Script, check};
pub use self::error::ScriptError;
pub use self::options::{OnError, ScriptOptions, Setting, Source};
#[cfg(feature = "script")]
pub(crate) use self::task::{Script, check};
