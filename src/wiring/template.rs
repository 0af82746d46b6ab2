//! [`Template`]: a text with `{placeholders}`, as the arguments of a wire have.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::nearest::{did_you_mean, quoted};
use crate::registry::{Call, ListenerState, ObjectKind, Registry};

/// A text in which names in brackets stand for what a signal carries.
///
/// `{data}`, `{data|hex}`, `{conn.id}`, `{time}`, `{front.connections}`; `{{` and `}}` are brackets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Bytes),
    Place { name: Name, form: Form },
}

/// What a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Data,
    Signal,
    Time,
    ConnectionId,
    ConnectionPeer,
    ConnectionLocal,
    ConnectionLabel,
    ConnectionCertificate,
    ConnectionVia,
    /// What the signal carries by this name.
    Carried(Arc<str>),
    /// Something that is true of an object.
    Of {
        object: Arc<str>,
        what: What,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Hex,
}

/// What can be said of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Connections,
    Address,
    State,
}

impl What {
    const ALL: [Self; 3] = [Self::Connections, Self::Address, Self::State];

    const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "address",
            Self::State => "state",
        }
    }
}

impl Template {
    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it, and what to try.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let bracket = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(bracket) {
                plain.push_str(bracket);
                rest = after;
                continue;
            }
            if bracket == "}" {
                return Err("`}` closes nothing; write }} for the bracket itself".into());
            }
            let end = rest.find('}').ok_or("`{` is not closed; write {{ for the bracket itself")?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain).into()));
            }
            parts.push(place(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain.into()));
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The names in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place { name, .. } => Some(name),
            Part::Text(_) => None,
        })
    }

    /// The text with what the names stand for now. What is not there is nothing.
    pub(crate) fn expand(&self, call: &Call, registry: &Registry) -> Bytes {
        match &self.parts[..] {
            [] => return Bytes::new(),
            [Part::Text(text)] => return text.clone(),
            [Part::Place { name: Name::Data, form: Form::Plain }] => {
                return call.data.clone().unwrap_or_default();
            }
            _ => {}
        }
        let mut out = Vec::with_capacity(self.text.len() + call.data.as_ref().map_or(0, Bytes::len));
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Place { name, form } => {
                    let begin = out.len();
                    name.write(call, registry, &mut out);
                    if *form == Form::Hex {
                        let bytes = out.split_off(begin);
                        write_hex(&bytes, &mut out);
                    }
                }
            }
        }
        out.into()
    }
}

fn place(inside: &str) -> Result<Part, String> {
    let (name, form) = match inside.split_once('|') {
        None => (inside, Form::Plain),
        Some((name, "hex")) => (name, Form::Hex),
        Some((_, form)) => {
            let form = form.escape_debug();
            return Err(format!("`{form}` is no form of a placeholder; write {{data|hex}}, or no form"));
        }
    };
    let name = match name {
        "data" => Name::Data,
        "signal" => Name::Signal,
        "time" => Name::Time,
        "conn.id" => Name::ConnectionId,
        "conn.peer" => Name::ConnectionPeer,
        "conn.local" => Name::ConnectionLocal,
        "conn.name" => Name::ConnectionLabel,
        "conn.tls_name" => Name::ConnectionCertificate,
        "conn.via" => Name::ConnectionVia,
        _ if name.starts_with("conn.") => {
            let hint = did_you_mean(name, CONNECTION.into_iter())
                .unwrap_or_else(|| format!("; there are {}", quoted(CONNECTION.into_iter())));
            return Err(format!("there is no `{{{}}}`{hint}", name.escape_debug()));
        }
        _ => match name.rsplit_once('.') {
            Some((object, what)) => {
                let names = What::ALL.map(What::name);
                let known = What::ALL.into_iter().find(|known| known.name() == what);
                let what = known.ok_or_else(|| {
                    let party = format!("conn.{what}");
                    if CONNECTION.contains(&party.as_str()) {
                        return format!(
                            "an object has no `{what}`; the connection is always called conn: did you mean `{party}`?"
                        );
                    }
                    let hint = did_you_mean(what, names.into_iter())
                        .unwrap_or_else(|| format!("; there are {}", quoted(names.into_iter())));
                    format!("an object has no `{}`{hint}", what.escape_debug())
                })?;
                Name::Of { object: object.into(), what }
            }
            None if !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') =>
            {
                Name::Carried(name.into())
            }
            None => {
                let name = name.escape_debug();
                return Err(format!("`{{{name}}}` is no placeholder; write {{{{ for the bracket itself"));
            }
        },
    };
    Ok(Part::Place { name, form })
}

impl Name {
    fn write(&self, call: &Call, registry: &Registry, out: &mut Vec<u8>) {
        use std::io::Write;
        let party = call.connection.as_deref();
        // Writing into memory does not fail.
        let _ = match (self, party) {
            (Self::Data, _) => {
                out.extend_from_slice(call.data.as_deref().unwrap_or_default());
                Ok(())
            }
            (Self::Signal, _) => write!(out, "{}", call.signal),
            (Self::Time, _) => write!(out, "{}", humantime::format_rfc3339_millis(SystemTime::now())),
            (Self::ConnectionId, Some(party)) => write!(out, "{}", party.id),
            (Self::ConnectionPeer, Some(party)) => write!(out, "{}", party.peer),
            (Self::ConnectionLocal, Some(party)) => write!(out, "{}", party.local),
            (Self::ConnectionLabel, Some(party)) => write!(out, "{}#{}", party.object, party.id),
            (Self::ConnectionCertificate, Some(party)) => {
                write!(out, "{}", party.introduction.name.as_deref().unwrap_or_default())
            }
            (Self::ConnectionVia, Some(party)) => match &party.introduction.via {
                Some(via) => write!(out, "{via}"),
                None => Ok(()),
            },
            (Self::Carried(name), _) => {
                if let Some(value) = call.arguments.get(name) {
                    out.extend_from_slice(&value.to_bytes());
                }
                Ok(())
            }
            (Self::Of { object, what }, _) => write!(out, "{}", of(registry, object, *what)),
            (_, None) => Ok(()),
        };
    }
}

/// What is true of an object now.
fn of(registry: &Registry, object: &str, what: What) -> String {
    let peers = || registry.wired(object).map(|wired| wired.peers.parties().len());
    let Some(found) = registry.find(object) else { return String::new() };
    match (found.kind, what) {
        (ObjectKind::Listener { addresses, .. }, What::Address) => {
            addresses.first().map(ToString::to_string).unwrap_or_default()
        }
        (ObjectKind::Listener { connections, .. }, What::Connections) => connections.to_string(),
        (ObjectKind::Listener { state, .. }, What::State) => match state {
            ListenerState::Listening => "listening".into(),
            ListenerState::Paused => "paused".into(),
            ListenerState::Closed => "closed".into(),
        },
        (ObjectKind::Client { to, .. }, What::Address) => to,
        (ObjectKind::Client { .. }, What::Connections) => peers().unwrap_or(0).to_string(),
        (ObjectKind::Client { .. }, What::State) => {
            if peers().unwrap_or(0) > 0 {
                "connected".into()
            } else {
                "unconnected".into()
            }
        }
        (ObjectKind::Timer { running, .. }, What::State) => {
            if running {
                "running".into()
            } else {
                "stopped".into()
            }
        }
        _ => String::new(),
    }
}

/// Appends bytes as hexadecimal digits.
pub(crate) fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 * bytes.len());
    for byte in bytes {
        out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// The bytes of hexadecimal digits, between which there may be spaces.
pub(crate) fn read_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16)?.try_into().ok())
        .collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then(|| pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const CONNECTION: [&str; 6] =
    ["conn.id", "conn.peer", "conn.local", "conn.name", "conn.tls_name", "conn.via"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ConnectionId, Endpoint, Introduction};
    use crate::registry::{Arguments, Party, Trail};

    #[test]
    fn names_stand_for_what_the_signal_carries() {
        let ends = (Endpoint::Tcp("192.0.2.1:7".parse().unwrap()), Endpoint::Stdio);
        let introduction = Introduction { name: Some("pump7".into()), via: None };
        let party = Party::new(ConnectionId::next(), "room".into(), ends, introduction);
        let id = party.id;
        let call = Call {
            signal: "room.message_received".into(),
            connection: Some(party.into()),
            data: Some(Bytes::from_static(b"a\xff")),
            arguments: Arguments::new().with("reason", "closed").with("n", 7),
            trail: Trail::default(),
            as_filter: false,
        };
        let expand = |text: &str| Template::parse(text).unwrap().expand(&call, &Registry::default());
        assert_eq!(expand("{data}"), &b"a\xff"[..]);
        assert_eq!(expand("<{data|hex}>"), "<61ff>");
        assert_eq!(expand("{conn.peer} {conn.local} {signal}"), "192.0.2.1:7 stdio: room.message_received");
        assert_eq!(expand("{conn.tls_name}<{conn.via}>"), "pump7<>");
        assert_eq!(expand("{conn.id}/{conn.name}"), format!("{id}/room#{id}"));
        assert_eq!(expand("{reason} {n} {{x}} {other}|{no.connections}"), "closed 7 {x} |");
        assert_eq!(expand("{time}").len(), "2026-01-01T00:00:00.000Z".len());
        assert_eq!(expand(""), "");
    }

    #[test]
    fn what_is_no_placeholder_is_said() {
        for (text, expected) in [
            ("{", "is not closed"),
            ("}", "closes nothing"),
            ("{}", "is no placeholder"),
            ("{data|base64}", "is no form"),
            ("{conn.per}", "did you mean `conn.peer`?"),
            ("{room.conections}", "did you mean `connections`?"),
            ("{con.id}", "did you mean `conn.id`?"),
            ("{A b}", "is no placeholder"),
        ] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn hex_goes_both_ways() {
        let mut out = Vec::new();
        write_hex(b"\x00\x9f\xff", &mut out);
        assert_eq!(out, b"009fff");
        assert_eq!(read_hex(b"00 9F\nff").unwrap(), b"\x00\x9f\xff");
        assert_eq!((read_hex(b"0"), read_hex(b"0g")), (None, None));
    }
}
