//! [`Expect`]: what a message is to be, for whoever waits for one.

use std::fmt;

use bytes::Bytes;
use regex_automata::meta::Regex;
use regex_automata::util::syntax;

/// What data is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this text.
    Exact(String),
    /// It begins with this text.
    Prefix(String),
    /// This is found in it.
    Regex(Pattern),
    /// Exactly these bytes.
    Hex(Bytes),
}

/// A regular expression over bytes; it takes time in proportion to the frame, whatever the expression.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// Reads an expression. `.` is any byte but LF, and `\w` and the like mean Unicode where the frame is UTF-8.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let built = Regex::builder()
            .configure(Regex::config().utf8_empty(false).nfa_size_limit(Some(LARGEST)))
            .syntax(syntax::Config::new().utf8(false))
            .build(text);
        match built {
            Ok(regex) => Ok(Self { text: text.to_owned(), regex }),
            Err(error) => {
                let why = match error.size_limit() {
                    Some(limit) => format!("it would need more than {limit} bytes"),
                    None => error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string),
                };
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                Err(format!(
                    "`{}` is no regular expression: {why}; put \\ before what stands for itself",
                    text.escape_debug()
                ))
            }
        }
    }

    /// Whether it is found in the bytes.
    pub(crate) fn is_match(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }

    /// As it was written.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl Expect {
    /// Whether this is it, as a whole.
    pub(crate) fn is_met_by(&self, body: &[u8]) -> bool {
        match self {
            Self::Exact(text) => body == text.as_bytes(),
            Self::Prefix(text) => body.starts_with(text.as_bytes()),
            Self::Regex(pattern) => pattern.is_match(body),
            Self::Hex(bytes) => body == bytes,
        }
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Eq for Pattern {}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// What an expression may need in memory.
const LARGEST: usize = 1 << 20;
