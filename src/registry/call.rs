//! What a slot is called with: [`Arguments`] by name, and for a handler of a
//! script the whole [`Call`], with the connection and the signal it came from.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::CallError;
use crate::event::{ConnectionId, Endpoint, Introduction};

/// One argument of a slot.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Bytes. A text is its UTF-8.
    Bytes(Bytes),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Yes or no.
    Bool(bool),
    /// A connection.
    Connection(ConnectionId),
}

/// The arguments of a slot, by name.
///
/// ```
/// use signal_node::registry::Arguments;
///
/// let arguments = Arguments::new().with("data", "hello");
/// assert_eq!(arguments.get("data"), Some(&"hello".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Arguments(BTreeMap<Arc<str>, Value>);

/// A connection as those see it who are told of it.
#[derive(Debug)]
pub(crate) struct Party {
    pub(crate) id: ConnectionId,
    /// The listener or client it belongs to.
    pub(crate) object: Arc<str>,
    pub(crate) peer: Endpoint,
    pub(crate) local: Endpoint,
    pub(crate) introduction: Introduction,
    /// Everything that is told of it was told.
    is_over: AtomicBool,
}

/// The custom signals that led to a call, oldest first, as `script.a.name`.
/// A signal that is in it already is not emitted again: that would go on for ever.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trail(Vec<Arc<str>>);

/// What a handler is called with.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The signal it comes from, as `room.message_received`; as `node.call` if somebody called it by hand.
    pub(crate) signal: Arc<str>,
    /// The connection the signal is about.
    pub(crate) connection: Option<Arc<Party>>,
    /// The frame of `message_received`, after the filters; what a custom signal carries.
    pub(crate) data: Option<Bytes>,
    /// What else the signal carries, by the names of the placeholders (`reason`, `error`, `n`, …), and the
    /// `args` of the wire.
    pub(crate) arguments: Arguments,
    pub(crate) trail: Trail,
    /// What the function returns is made of frames, which go on.
    #[cfg_attr(not(feature = "script"), expect(dead_code, reason = "read by scripts alone"))]
    pub(crate) as_filter: bool,
}

/// A frame that a filter yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) data: Bytes,
    /// It goes back to the connection the frame came from, and not on.
    pub(crate) to_sender: bool,
}

/// The functions of one script, entered in the registry as `script.ID`.
///
/// A call waits for its turn in the script's bounded queue, and until the function has
/// returned, however often it was suspended. Dropped before that, it is not begun, or its result is lost.
pub(crate) trait Functions: Send + Sync + fmt::Debug {
    /// The names of its global functions.
    fn names(&self) -> Vec<Arc<str>>;

    /// Calls one. As a slot it yields nothing that anyone looks at; as a filter, frames.
    fn call<'a>(&'a self, function: &'a str, call: Call) -> Called<'a>;

    /// A connection is over, and nothing more is told of it.
    fn forget(&self, connection: ConnectionId) {
        let _ = connection;
    }
}

/// A call under way.
pub(crate) type Called<'a> = Pin<Box<dyn Future<Output = Result<Vec<Frame>, CallError>> + Send + 'a>>;

impl Party {
    /// One whose peer and local address are these.
    pub(crate) fn new(
        id: ConnectionId,
        object: Arc<str>,
        (peer, local): (Endpoint, Endpoint),
        introduction: Introduction,
    ) -> Self {
        Self { id, object, peer, local, introduction, is_over: AtomicBool::new(false) }
    }

    /// Nothing more is told of it.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    #[cfg_attr(not(feature = "script"), expect(dead_code, reason = "asked by scripts alone"))]
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }
}

impl Value {
    /// Its bytes as they are written: of a number or a switch, its text.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            other => other.to_string().into(),
        }
    }

    /// The number, also where it is written as a text.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.trim().parse().ok(),
            Self::Connection(id) => id.get().try_into().ok(),
            Self::Number(_) | Self::Bool(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Connection(id) => id.fmt(f),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<ConnectionId> for Value {
    fn from(id: ConnectionId) -> Self {
        Self::Connection(id)
    }
}

impl Arguments {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more; it replaces one of the same name.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// The argument of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

impl Trail {
    /// With one more signal.
    ///
    /// # Errors
    /// [`CallError::Loop`], which names the circle, if it is in it already, or there are too many.
    pub(crate) fn with(&self, signal: &Arc<str>) -> Result<Self, CallError> {
        let begin = self.0.iter().position(|known| known == signal);
        let begin = begin.or_else(|| (self.0.len() >= LONGEST_TRAIL).then_some(0));
        if let Some(begin) = begin {
            let way: Vec<_> = self.0[begin..].iter().chain([signal]).map(|name| &**name).collect();
            return Err(CallError::Loop { way: way.join(" → ") });
        }
        let mut trail = self.clone();
        trail.0.push(Arc::clone(signal));
        Ok(trail)
    }
}

/// Signals that lead to each other in a line.
const LONGEST_TRAIL: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_of_signals_is_cut_where_it_closes_and_named() {
        let trail = Trail::default();
        let (a, b): (Arc<str>, Arc<str>) = ("script.a.one".into(), "script.b.two".into());
        let trail = trail.with(&"script.z.begin".into()).unwrap().with(&a).unwrap().with(&b).unwrap();
        let error = trail.with(&a).unwrap_err().to_string();
        assert!(error.contains("script.a.one → script.b.two → script.a.one"), "{error}");
        let mut long = Trail::default();
        for nth in 0..LONGEST_TRAIL {
            long = long.with(&format!("script.a.s{nth}").into()).unwrap();
        }
        assert!(long.with(&"script.a.last".into()).is_err());
    }
}
