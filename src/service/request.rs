//! A line from a control client, and what it asks for.

use std::time::Duration;

use serde_json::{Map, Value};

use super::pattern::Pattern;
use super::status::MOST_CONNECTIONS;

/// What a control client asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// What is true now, with at most so many connections.
    Status { connections: usize },
    /// From now on, everything that happens and passes.
    Signals { pattern: Option<Pattern> },
    /// A slot of an object.
    Call { object: String, slot: String, arguments: Given },
    /// The config, read again.
    Reload,
    /// The end, with so much time to drain if it is not the configured one.
    Stop { grace: Option<Duration> },
}

/// What a slot is called with.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    List(Vec<Value>),
    Named(Map<String, Value>),
}

/// Reads a line: the id to answer with, and the request or what is wrong with it.
pub(super) fn read(line: &[u8]) -> (Value, Result<Request, String>) {
    let mut fields = match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) => return (Value::Null, Err(format!("a request is one object; write {EXAMPLE}"))),
        Err(error) => {
            let column = error.column();
            return (Value::Null, Err(format!("not JSON at column {column}; write {EXAMPLE}")));
        }
    };
    let id = match fields.remove("id") {
        Some(id @ (Value::Number(_) | Value::String(_))) => id,
        None | Some(Value::Null) => Value::Null,
        Some(_) => return (Value::Null, Err("`id` is neither a number nor a text; leave it out".into())),
    };
    (id, meaning(fields))
}

fn meaning(mut fields: Map<String, Value>) -> Result<Request, String> {
    let call = text(&mut fields, "call")?.ok_or_else(|| format!("there is no `call`; write {EXAMPLE}"))?;
    let request = match call.as_str() {
        "status" => {
            let most = MOST_CONNECTIONS;
            let connections = match fields.remove("connections") {
                None => most,
                Some(number) => match number.as_u64().and_then(|number| usize::try_from(number).ok()) {
                    Some(number) if number <= most => number,
                    _ => return Err(format!("`connections` is not a number from 0 to {most}")),
                },
            };
            Request::Status { connections }
        }
        "signals" => {
            let pattern = text(&mut fields, "pattern")?.map(|text| Pattern::parse(&text)).transpose()?;
            Request::Signals { pattern }
        }
        "call" => {
            let need = "a call needs `object` and `slot`, as in {\"call\":\"call\",\"object\":\"front\",\"slot\":\"pause\"}";
            let object = text(&mut fields, "object")?.ok_or(need)?;
            let slot = text(&mut fields, "slot")?.ok_or(need)?;
            let arguments = match fields.remove("args") {
                None => Given::List(Vec::new()),
                Some(Value::Array(arguments)) => Given::List(arguments),
                Some(Value::Object(arguments)) => Given::Named(arguments),
                Some(_) => {
                    let text =
                        "`args` is neither a list nor an object; write for example [7] or {\"data\":\"hi\"}";
                    return Err(text.into());
                }
            };
            Request::Call { object, slot, arguments }
        }
        "reload" => Request::Reload,
        "stop" => {
            let grace = text(&mut fields, "grace")?;
            let grace = grace.map(|text| grace_of(&text)).transpose();
            let grace = grace.map_err(|problem| format!("`grace` {problem}"))?;
            Request::Stop { grace }
        }
        other => {
            let other = other.escape_debug();
            return Err(format!("there is no call `{other}`; there are status, signals, call, reload, stop"));
        }
    };
    match fields.keys().next() {
        None => Ok(request),
        Some(unknown) => Err(format!("`{call}` knows no `{}`; remove it", unknown.escape_debug())),
    }
}

/// The time to drain that is meant.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn grace_of(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(grace) if grace <= LONGEST_GRACE => Ok(grace),
        Ok(_) => Err("is longer than a year; leave it out for the configured one".into()),
        Err(_) => Err("is not a duration; write for example \"10s\"".into()),
    }
}

fn text(fields: &mut Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{key}` is not a text")),
    }
}

/// As for `shutdown_grace` in a config.
const LONGEST_GRACE: Duration = Duration::from_secs(366 * 86_400);
const EXAMPLE: &str = r#"{"id":1,"call":"status"}"#;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(line: &str) -> String {
        read(line.as_bytes()).1.unwrap_err()
    }

    #[test]
    fn a_request_is_understood_with_its_id() {
        let (id, request) = read(br#"{"id":"a","call":"call","object":"o","slot":"s","args":[7,"x"]}"#);
        assert_eq!(id, json!("a"));
        let arguments = Given::List(vec![json!(7), json!("x")]);
        assert_eq!(request, Ok(Request::Call { object: "o".into(), slot: "s".into(), arguments }));
        let (id, request) = read(br#"{"call":"stop","grace":"250ms"}"#);
        assert_eq!(
            (id, request),
            (Value::Null, Ok(Request::Stop { grace: Some(Duration::from_millis(250)) }))
        );
    }

    #[test]
    fn what_cannot_be_meant_is_said_with_its_reason() {
        for (line, expected) in [
            ("", "not JSON"),
            ("{\"call\":", "not JSON"),
            ("[1]", "one object"),
            ("{}", "no `call`"),
            (r#"{"call":7}"#, "`call` is not a text"),
            (r#"{"call":"statsu"}"#, "no call `statsu`"),
            (r#"{"call":"status","conections":1}"#, "knows no `conections`"),
            (r#"{"call":"status","connections":-1}"#, "not a number"),
            (r#"{"call":"status","connections":10001}"#, "to 10000"),
            (r#"{"call":"signals","pattern":"a.b"}"#, "no kind of signal"),
            (r#"{"call":"call","object":"o"}"#, "needs `object` and `slot`"),
            (r#"{"call":"call","object":"o","slot":"s","args":7}"#, "neither a list nor"),
            (r#"{"call":"stop","grace":"soon"}"#, "not a duration"),
            (r#"{"call":"stop","grace":"18446744073709551615s"}"#, "longer than a year"),
            (r#"{"call":"stop","grace":"367days"}"#, "longer than a year"),
            (r#"{"id":[],"call":"status"}"#, "`id`"),
        ] {
            assert!(wrong(line).contains(expected), "{line}: {}", wrong(line));
        }
        let deep = "[".repeat(100_000);
        assert!(wrong(&deep).contains("not JSON"));
    }
}
