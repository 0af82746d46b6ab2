//! [`ScriptError`]: what went wrong in a script, and on which line.

use std::fmt;

/// Why a script was not loaded, or a function of it did not return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// Where and what, as `chat.luau:12: what`.
    pub text: String,
    /// The functions that were running, the innermost first, as `chat.luau:12 in parse`.
    pub traceback: Vec<String>,
}

impl ScriptError {
    /// One that is not about a line.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), traceback: Vec::new() }
    }

    /// With the traceback, in one line.
    #[cfg(feature = "script")]
    pub(super) fn in_full(&self) -> String {
        match &self.traceback[..] {
            [] | [_] => self.text.clone(),
            lines => format!("{} (called at {})", self.text, lines[1..].join(", ")),
        }
    }
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ScriptError {}
