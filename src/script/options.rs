//! What a script is and what it may take: its text, and its limits.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Options of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScriptOptions {
    /// What its values may take, in bytes; an empty one takes about 0.4 MiB. From 1 MiB to 1 GiB.
    pub max_memory: usize,
    /// How long a function may run until it returns or waits, in time of the processor. From 1 ms to 10 s.
    pub max_time: Duration,
    /// What an error does beside being told.
    pub on_error: OnError,
    /// The file that `auth.verify` looks in; `node passwd` writes it.
    pub passwords: Option<PathBuf>,
    /// What the script finds in its table `settings`.
    pub settings: BTreeMap<String, Setting>,
}

/// A value that a config gives a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Any other number, as it is written.
    Number(String),
    /// Yes or no.
    Bool(bool),
}

/// What an error in a function of a script does, beside dropping what it was called with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Nothing more; the connection goes on.
    #[default]
    Drop,
    /// It closes the connection the function was called about.
    Close,
}

/// The text of a script, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The file it was read from, as errors name it.
    pub name: Arc<str>,
    /// Luau.
    pub text: Arc<str>,
    /// The line of the file that the text begins in, from 1 up.
    pub line: usize,
}

impl Default for ScriptOptions {
    fn default() -> Self {
        Self {
            max_memory: 16 << 20,
            max_time: Duration::from_millis(20),
            on_error: OnError::Drop,
            passwords: None,
            settings: BTreeMap::new(),
        }
    }
}

impl OnError {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Drop, Self::Close];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Close => "close",
        }
    }
}

impl Source {
    /// A text of this name that begins in its first line.
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into(), line: 1 }
    }
}
