//! Scripts: Luau in one sealed interpreter each, on a thread of its own behind
//! a bounded queue. Functions of a script are called through the registry, and
//! call slots through it; a script sees no socket, no file and no other script.

#[cfg(feature = "script")]
mod clock;
mod error;
#[cfg(feature = "script")]
mod json;
#[cfg(feature = "script")]
mod library;
mod options;
#[cfg(all(test, feature = "script"))]
mod bombs;
#[cfg(all(test, feature = "script"))]
mod escapes;
#[cfg(feature = "script")]
mod vm;

pub use self::error::ScriptError;
pub use self::options::{OnError, ScriptOptions, Source};
