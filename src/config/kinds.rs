//! The kinds of values a key can have: how each is read from TOML, written
//! back, and described to an editor. A kind is matched nowhere else.

use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::address::{Address, AddressError};
use crate::nearest::{did_you_mean, quoted};
use crate::net::network;

/// A kind of value.
pub(super) trait Kind {
    /// What it means to the node.
    type Value;
    /// What is expected, with an example, for the end of a sentence.
    fn expected() -> String;
    /// What the file means, or what is wrong with it.
    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>>;
    /// The same as TOML.
    fn write(value: &Self::Value) -> String;
    /// JSON Schema of what [`read`](Self::read) takes, as an object.
    fn schema() -> String;
}

/// What is wrong with a value, or with one element of its list.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) element: Option<usize>,
    pub(super) text: String,
}

/// An [`Address`].
pub(super) struct AddressText;
/// A time.
pub(super) struct Time;
/// A time limit, or `"off"`.
pub(super) struct Limit;
/// A number from 1 up.
pub(super) struct Number<N>(PhantomData<N>);
/// Bytes in memory.
pub(super) struct Size;
/// Yes or no.
pub(super) struct Switch;
/// One of a few words.
pub(super) struct OneOf<W>(PhantomData<W>);
/// Names of objects: one, or a list.
pub(super) struct Names;
/// A local IP address, or `"auto"`.
pub(super) struct Source;
/// Networks, or the word for none being listed.
pub(super) struct Networks<const ALLOW: bool>;
/// Networks, of which there has to be one.
pub(super) struct SomeNetworks;
/// The path of a socket, or `"off"`.
pub(super) struct SocketPath;
/// The name of a network interface.
pub(super) struct InterfaceName;
/// Any text.
pub(super) struct Text;

/// A closed list of words that a key can be.
pub(super) trait Word: Copy + PartialEq + 'static {
    /// All of them.
    const ALL: &'static [Self];
    /// How it is written.
    fn word(self) -> &'static str;
}

fn problem<T>(text: impl Into<String>) -> Result<T, Vec<Problem>> {
    Err(vec![Problem { element: None, text: text.into() }])
}

/// A value as it is shown in a fault.
fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quote(text),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

fn wrong<T, K: Kind + ?Sized>(value: &DeValue<'_>) -> Result<T, Vec<Problem>> {
    problem(format!("found {}; expected {}", found(value), K::expected()))
}

/// Text in quotes, as TOML and as a fault shows it, cut where it is long.
fn quote(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", toml_text(&text[..end])),
        None => toml_text(text),
    }
}

/// A basic string of TOML, in which nothing is a variable.
pub(super) fn toml_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn integer(value: &DeValue<'_>) -> Option<u64> {
    let number = value.as_integer()?;
    u64::from_str_radix(number.as_str(), number.radix()).ok()
}

const TEXT: &str = r#"{"type":"string"}"#;

impl Kind for Text {
    type Value = String;

    fn expected() -> String {
        "text in quotes".into()
    }

    fn read(value: &DeValue<'_>) -> Result<String, Vec<Problem>> {
        value.as_str().map_or_else(|| wrong::<_, Self>(value), |text| Ok(text.to_owned()))
    }

    fn write(value: &String) -> String {
        toml_text(value)
    }

    fn schema() -> String {
        TEXT.into()
    }
}

impl Kind for InterfaceName {
    type Value = String;

    fn expected() -> String {
        r#"the name of a network interface such as "eth1""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<String, Vec<Problem>> {
        let is_name = |text: &&str| {
            (1..16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        };
        value.as_str().filter(is_name).map_or_else(|| wrong::<_, Self>(value), |name| Ok(name.to_owned()))
    }

    fn write(value: &String) -> String {
        toml_text(value)
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["eth1"]}"#.into()
    }
}

impl Kind for SocketPath {
    type Value = Option<PathBuf>;

    fn expected() -> String {
        r#"a path such as "/run/node.sock", or "off""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value.as_str() {
            Some("off") => Ok(None),
            Some(text) => socket_path(text).map(Some).or_else(problem),
            None => wrong::<_, Self>(value),
        }
    }

    fn write(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| toml_text("off"), |path| toml_text(&path.display().to_string()))
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["off","/run/node.sock"]}"#.into()
    }
}

/// A path that a Unix socket can have.
///
/// # Errors
/// What is wrong with it, and what to try.
pub(crate) fn socket_path(text: &str) -> Result<PathBuf, String> {
    match format!("unix:{text}").parse() {
        Ok(Address::Unix(path)) => Ok(path),
        Ok(_) => unreachable!("`unix:` makes nothing else"),
        Err(error) => Err(error.to_string()),
    }
}

impl Kind for AddressText {
    type Value = Address;

    fn expected() -> String {
        r#"an address such as "9000", "127.0.0.1:9000" or "unix:/path""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Address, Vec<Problem>> {
        match (value.as_str(), integer(value)) {
            (Some(text), _) => text.parse().or_else(|error: AddressError| problem(error.to_string())),
            (None, Some(port)) => problem(format!("found the number {port}; write it in quotes, \"{port}\"")),
            _ if matches!(value, DeValue::Array(_)) => problem(
                "found a list, and this is one address; write a table like this one for each, and name \
                 them all in `from` or `to` of a relay",
            ),
            _ => wrong::<_, Self>(value),
        }
    }

    fn write(value: &Address) -> String {
        toml_text(&value.to_string())
    }

    fn schema() -> String {
        TEXT.into()
    }
}

impl Kind for Time {
    type Value = Duration;

    fn expected() -> String {
        r#"a time such as "250ms", "30s", "5m" or "1h""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Duration, Vec<Problem>> {
        match (value.as_str(), integer(value)) {
            (Some(text), _) => match humantime::parse_duration(text) {
                Ok(time) => Ok(time),
                Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                    problem(format!("{} has no unit; did you mean \"{text}s\"?", quote(text)))
                }
                Err(_) => wrong::<_, Self>(value),
            },
            (None, Some(seconds)) => {
                problem(format!("found the number {seconds}; did you mean \"{seconds}s\"?"))
            }
            _ => wrong::<_, Self>(value),
        }
    }

    fn write(value: &Duration) -> String {
        toml_text(&humantime::format_duration(*value).to_string().replace(' ', ""))
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["250ms","30s","5m","1h"]}"#.into()
    }
}

impl Kind for Limit {
    type Value = Option<Duration>;

    fn expected() -> String {
        format!("{}, or \"off\"", Time::expected())
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value {
            DeValue::String(text) if text == "off" => Ok(None),
            DeValue::Boolean(false) => problem("found false; write \"off\""),
            DeValue::String(text) if humantime::parse_duration(text).is_err() && integer(value).is_none() => {
                Time::read(value).map(Some).or_else(|problems| match &problems[..] {
                    [one] if one.text.contains("did you mean") => Err(problems),
                    _ => wrong::<_, Self>(value),
                })
            }
            _ => Time::read(value).map(Some),
        }
    }

    fn write(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| toml_text("off"), Time::write)
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["off","30s","5m","1h"]}"#.into()
    }
}

impl<N: TryFrom<u64> + ToString> Kind for Number<N> {
    type Value = N;

    fn expected() -> String {
        "a number from 1 up, without quotes".into()
    }

    fn read(value: &DeValue<'_>) -> Result<N, Vec<Problem>> {
        match integer(value).map(N::try_from) {
            Some(Ok(number)) => Ok(number),
            _ => wrong::<_, Self>(value),
        }
    }

    fn write(value: &N) -> String {
        value.to_string()
    }

    fn schema() -> String {
        r#"{"type":"integer","minimum":1}"#.into()
    }
}

/// A size as it is written: `64KiB`.
pub(crate) fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = text[..digits].parse().ok()?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == &text[digits..])?;
    number.checked_mul(*unit)
}

impl Kind for Size {
    type Value = usize;

    fn expected() -> String {
        r#"a size such as "64KiB", "256MiB" or "1GiB""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<usize, Vec<Problem>> {
        value.as_str().and_then(size).map_or_else(|| wrong::<_, Self>(value), Ok)
    }

    fn write(value: &usize) -> String {
        let fits = |(_, unit): &&(&str, usize)| *value >= *unit && value.is_multiple_of(*unit);
        let (name, unit) = UNITS.iter().find(fits).unwrap_or(&("B", 1));
        toml_text(&format!("{}{name}", value / unit))
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["64KiB","256MiB","1GiB"]}"#.into()
    }
}

impl Kind for Switch {
    type Value = bool;

    fn expected() -> String {
        "true or false".into()
    }

    fn read(value: &DeValue<'_>) -> Result<bool, Vec<Problem>> {
        value.as_bool().map_or_else(|| wrong::<_, Self>(value), Ok)
    }

    fn write(value: &bool) -> String {
        value.to_string()
    }

    fn schema() -> String {
        r#"{"type":"boolean"}"#.into()
    }
}

impl<W: Word> Kind for OneOf<W> {
    type Value = W;

    fn expected() -> String {
        let words: Vec<_> = W::ALL.iter().map(|word| toml_text(word.word())).collect();
        words.join(" or ")
    }

    fn read(value: &DeValue<'_>) -> Result<W, Vec<Problem>> {
        let Some(text) = value.as_str() else { return wrong::<_, Self>(value) };
        let known = W::ALL.iter().find(|word| word.word() == text);
        known.copied().map_or_else(
            || match did_you_mean(text, W::ALL.iter().map(|word| word.word())) {
                Some(hint) => problem(format!("{} is not possible{hint}", quote(text))),
                None => wrong::<_, Self>(value),
            },
            Ok,
        )
    }

    fn write(value: &W) -> String {
        toml_text(value.word())
    }

    fn schema() -> String {
        let words: Vec<_> = W::ALL.iter().map(|word| toml_text(word.word())).collect();
        format!(r#"{{"enum":[{}]}}"#, words.join(","))
    }
}

impl Kind for Names {
    type Value = Vec<String>;

    fn expected() -> String {
        r#"a name in quotes, or a list of names such as ["a", "b"]"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        texts::<Self, _>(value, |text| Ok(text.to_owned()))
    }

    fn write(value: &Self::Value) -> String {
        match &value[..] {
            [one] => toml_text(one),
            many => list(many.iter()),
        }
    }

    fn schema() -> String {
        format!(r#"{{"anyOf":[{TEXT},{{"type":"array","items":{TEXT}}}]}}"#)
    }
}

impl Kind for Source {
    type Value = Option<IpAddr>;

    fn expected() -> String {
        r#"an IP address of this machine such as "192.0.2.1", or "auto""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value.as_str() {
            Some("auto") => Ok(None),
            text => match text.and_then(|text| text.parse().ok()) {
                Some(ip) => Ok(Some(ip)),
                None => wrong::<_, Self>(value),
            },
        }
    }

    fn write(value: &Self::Value) -> String {
        value.map_or_else(|| toml_text("auto"), |ip| toml_text(&ip.to_string()))
    }

    fn schema() -> String {
        TEXT.into()
    }
}

impl<const ALLOW: bool> Networks<ALLOW> {
    /// What an empty list means, said aloud.
    const NONE_LISTED: &str = if ALLOW { "everyone" } else { "nobody" };
}

impl<const ALLOW: bool> Kind for Networks<ALLOW> {
    type Value = Vec<IpNet>;

    fn expected() -> String {
        format!(r#"a list of networks such as ["10.0.0.0/8", "2001:db8::/32"], or "{}""#, Self::NONE_LISTED)
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value {
            DeValue::String(text) if text == Self::NONE_LISTED => Ok(Vec::new()),
            DeValue::Array(list) if list.is_empty() => {
                problem(format!("an empty list could mean all or none; write \"{}\"", Self::NONE_LISTED))
            }
            _ => texts::<Self, _>(value, |text| network(text).map_err(|error| error.to_string())),
        }
    }

    fn write(value: &Self::Value) -> String {
        if value.is_empty() { toml_text(Self::NONE_LISTED) } else { list(value.iter()) }
    }

    fn schema() -> String {
        let word = Self::NONE_LISTED;
        format!(r#"{{"anyOf":[{{"const":"{word}"}},{TEXT},{{"type":"array","items":{TEXT},"minItems":1}}]}}"#)
    }
}

impl Kind for SomeNetworks {
    type Value = Vec<IpNet>;

    fn expected() -> String {
        r#"a list of networks such as ["192.168.1.0/24"]"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value {
            DeValue::Array(list) if list.is_empty() => {
                problem(format!("found an empty list; expected {}", Self::expected()))
            }
            _ => texts::<Self, _>(value, |text| network(text).map_err(|error| error.to_string())),
        }
    }

    fn write(value: &Self::Value) -> String {
        list(value.iter())
    }

    fn schema() -> String {
        format!(r#"{{"anyOf":[{TEXT},{{"type":"array","items":{TEXT},"minItems":1}}]}}"#)
    }
}

/// One text, or a list of texts, each read by `read`.
fn texts<K: Kind + ?Sized, T>(
    value: &DeValue<'_>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Vec<Problem>> {
    match value {
        DeValue::String(text) => read(text).map(|one| vec![one]).or_else(problem),
        DeValue::Array(list) => {
            let (mut all, mut problems) = (Vec::new(), Vec::new());
            for (nth, element) in list.iter().enumerate() {
                let element = element.get_ref();
                let expected = || format!("found {}; expected {}", found(element), K::expected());
                match element.as_str().map_or_else(|| Err(expected()), &read) {
                    Ok(one) => all.push(one),
                    Err(text) => problems.push(Problem { element: Some(nth), text }),
                }
            }
            if problems.is_empty() { Ok(all) } else { Err(problems) }
        }
        _ => wrong::<_, K>(value),
    }
}

fn list(values: impl Iterator<Item = impl ToString>) -> String {
    let texts: Vec<_> = values.map(|value| toml_text(&value.to_string())).collect();
    format!("[{}]", texts.join(", "))
}

/// What an unknown key may have meant.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    let hint = did_you_mean(key, known.iter().copied())
        .unwrap_or_else(|| format!("; the keys here are {}", quoted(known.iter().copied())));
    format!("there is no such key{hint}")
}

/// The largest first, as they are written.
const UNITS: [(&str, usize); 5] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)];
