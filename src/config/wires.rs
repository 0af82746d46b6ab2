//! The kinds of values of `[[connect]]` and `[[step]]`: names of signals and
//! slots, filters, arguments, expectations.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::kinds::{Kind, Problem, toml_text};
use crate::nearest::{did_you_mean, quoted};
use crate::script::Setting;
use crate::wiring::{Expect, Filter, MemberName, Pattern, Template};

/// A signal or slot by its object.
pub(super) struct Member;
/// The same, or nothing.
pub(super) struct MaybeMember;
/// A list of [`Filter`]s.
pub(super) struct Filters;
/// Texts with placeholders, by name.
pub(super) struct Args;
/// An [`Expect`], or nothing.
pub(super) struct Expected;
/// [`Setting`]s by name.
pub(super) struct Settings;

fn problem<T>(text: impl Into<String>) -> Result<T, Vec<Problem>> {
    Err(vec![Problem { element: None, text: text.into() }])
}

fn wrong<T, K: Kind>() -> Result<T, Vec<Problem>> {
    problem(format!("expected {}", K::expected()))
}

impl Kind for Member {
    type Value = MemberName;

    fn expected() -> String {
        r#"a name such as "front.message_received" or "log.info""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<MemberName, Vec<Problem>> {
        let Some(text) = value.as_str() else { return wrong::<_, Self>() };
        MemberName::parse(text).or_else(problem)
    }

    fn write(value: &MemberName) -> String {
        toml_text(&value.to_string())
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["front.message_received","log.info"]}"#.into()
    }
}

impl Kind for MaybeMember {
    type Value = Option<MemberName>;

    fn expected() -> String {
        Member::expected()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value.as_str() {
            Some("") => Ok(None),
            _ => Member::read(value).map(Some),
        }
    }

    fn write(value: &Self::Value) -> String {
        toml_text(&value.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    fn schema() -> String {
        Member::schema()
    }
}

impl Kind for Filters {
    type Value = Vec<Filter>;

    fn expected() -> String {
        r#"a list of filters such as ["trim", { suffix = "!" }]"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        let Some(list) = value.as_array() else { return wrong::<_, Self>() };
        let (mut all, mut problems) = (Vec::new(), Vec::new());
        for (nth, element) in list.iter().enumerate() {
            match filter(element.get_ref()) {
                Ok(filter) => all.push(filter),
                Err(text) => problems.push(Problem { element: Some(nth), text }),
            }
        }
        if problems.is_empty() { Ok(all) } else { Err(problems) }
    }

    fn write(value: &Self::Value) -> String {
        let texts: Vec<_> = value
            .iter()
            .map(|filter| match filter.written() {
                (word, None) => toml_text(&word),
                (key, Some(text)) => format!("{{ {key} = {} }}", toml_text(&text)),
            })
            .collect();
        format!("[{}]", texts.join(", "))
    }

    fn schema() -> String {
        let words: Vec<_> = Filter::WORDS.into_iter().map(toml_text).collect();
        let keys: Vec<_> =
            Filter::KEYS.into_iter().map(|key| format!(r#""{key}":{{"type":"string"}}"#)).collect();
        format!(
            r#"{{"type":"array","items":{{"anyOf":[{{"enum":[{}]}},{{"type":"string","pattern":"^script\\."}},{{"type":"object","additionalProperties":false,"minProperties":1,"maxProperties":1,"properties":{{{}}}}}]}}}}"#,
            words.join(","),
            keys.join(",")
        )
    }
}

fn filter(value: &DeValue<'_>) -> Result<Filter, String> {
    if let Some(word) = value.as_str() {
        return Filter::word(word).ok_or_else(|| {
            let shown = word.escape_debug();
            if Filter::KEYS.contains(&word) {
                return format!("`{shown}` takes a text; write {{ {shown} = \"…\" }}");
            }
            let hint = did_you_mean(word, Filter::WORDS.into_iter()).unwrap_or_else(|| {
                format!(
                    "; there are {}, {}, and script.ID.FUNCTION",
                    quoted(Filter::WORDS.into_iter()),
                    quoted(Filter::KEYS.into_iter())
                )
            });
            format!("there is no filter `{shown}`{hint}")
        });
    }
    let Some((key, text)) = only(value) else {
        return Err(r#"a filter is a word or a table of one text, as { suffix = "!" }"#.into());
    };
    Filter::keyed(key, text).map_err(|problem| {
        problem.unwrap_or_else(|| {
            let hint = did_you_mean(key, Filter::KEYS.into_iter())
                .unwrap_or_else(|| format!("; there are {}", quoted(Filter::KEYS.into_iter())));
            format!("there is no filter `{}`{hint}", key.escape_debug())
        })
    })
}

/// The key and text of a table that has only that.
fn only<'a>(value: &'a DeValue<'_>) -> Option<(&'a str, &'a str)> {
    let DeValue::Table(table) = value else { return None };
    let mut entries = table.iter();
    match (entries.next(), entries.next()) {
        (Some((key, value)), None) => Some((key.get_ref().as_ref(), value.get_ref().as_str()?)),
        _ => None,
    }
}

impl Kind for Args {
    type Value = BTreeMap<String, Template>;

    fn expected() -> String {
        r#"a table of texts such as { data = "{conn.peer} {data}" }"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        let DeValue::Table(table) = value else { return wrong::<_, Self>() };
        read_args(table)
    }

    fn write(value: &Self::Value) -> String {
        if value.is_empty() {
            return "{}".into();
        }
        let texts: Vec<_> = value
            .iter()
            .map(|(name, text)| format!("{} = {}", key(name), toml_text(&text.to_string())))
            .collect();
        format!("{{ {} }}", texts.join(", "))
    }

    fn schema() -> String {
        r#"{"type":"object","additionalProperties":{"type":["string","number","boolean"]}}"#.into()
    }
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_bare { name.to_owned() } else { toml_text(name) }
}

fn read_args(table: &DeTable<'_>) -> Result<BTreeMap<String, Template>, Vec<Problem>> {
    let (mut args, mut problems) = (BTreeMap::new(), Vec::new());
    for (name, value) in table {
        let name = name.get_ref().as_ref();
        let text = match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            DeValue::Integer(number) => Some(number.to_string()),
            DeValue::Float(number) => Some(number.to_string()),
            DeValue::Boolean(value) => Some(value.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        };
        let text = text.ok_or_else(|| "is neither a text nor a number; write a text".to_owned());
        match text.and_then(|text| Template::parse(&text)) {
            Ok(template) => _ = args.insert(name.to_owned(), template),
            Err(text) => {
                let text = format!("{}: {text}", name.escape_debug());
                problems.push(Problem { element: None, text });
            }
        }
    }
    if problems.is_empty() { Ok(args) } else { Err(problems) }
}

impl Kind for Settings {
    type Value = BTreeMap<String, Setting>;

    fn expected() -> String {
        "a table of texts, numbers and switches such as { history = 20 }".into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        let DeValue::Table(table) = value else {
            return problem("is no table; write for example { history = 20 }");
        };
        let (mut settings, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, value) in table {
            let name = name.get_ref().as_ref();
            let setting = match value.get_ref() {
                DeValue::String(text) => Some(Setting::Text(text.as_ref().to_owned())),
                DeValue::Integer(number) => number.to_string().parse().ok().map(Setting::Integer),
                DeValue::Float(number) => Some(Setting::Number(number.to_string())),
                DeValue::Boolean(value) => Some(Setting::Bool(*value)),
                DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
            };
            match setting {
                Some(setting) => _ = settings.insert(name.to_owned(), setting),
                None => {
                    let name = name.escape_debug();
                    let text = format!("{name}: is no text, number or switch; write one of them");
                    problems.push(Problem { element: None, text });
                }
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(problems) }
    }

    fn write(value: &Self::Value) -> String {
        let texts: Vec<_> = value
            .iter()
            .map(|(name, setting)| match setting {
                Setting::Text(text) => format!("{} = {}", key(name), toml_text(text)),
                Setting::Integer(number) => format!("{} = {number}", key(name)),
                Setting::Number(number) => format!("{} = {number}", key(name)),
                Setting::Bool(value) => format!("{} = {value}", key(name)),
            })
            .collect();
        if texts.is_empty() { "{}".into() } else { format!("{{ {} }}", texts.join(", ")) }
    }

    fn schema() -> String {
        r#"{"type":"object","additionalProperties":{"type":["string","number","boolean"]}}"#.into()
    }
}

impl Kind for Expected {
    type Value = Option<Expect>;

    fn expected() -> String {
        r#"a text, or a table such as { prefix = "OK" }, { regex = "^[0-9]+$" } or { hex = "02 03" }"#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        if let Some(text) = value.as_str() {
            return Ok(Some(Expect::Exact(text.to_owned())));
        }
        if matches!(value, DeValue::Table(table) if table.is_empty()) {
            return Ok(None);
        }
        match only(value) {
            Some(("exact", text)) => Ok(Some(Expect::Exact(text.to_owned()))),
            Some(("prefix", text)) => Ok(Some(Expect::Prefix(text.to_owned()))),
            Some(("regex", text)) => {
                Pattern::parse(text).map(|pattern| Some(Expect::Regex(pattern))).or_else(problem)
            }
            Some(("hex", text)) => match crate::wiring::read_hex(text.as_bytes()) {
                Some(bytes) => Ok(Some(Expect::Hex(bytes.into()))),
                None => problem("`hex` takes two digits for each byte; write for example \"02 0D\""),
            },
            _ => wrong::<_, Self>(),
        }
    }

    fn write(value: &Self::Value) -> String {
        match value {
            None => "{}".into(),
            Some(Expect::Exact(text)) => toml_text(text),
            Some(Expect::Prefix(text)) => format!("{{ prefix = {} }}", toml_text(text)),
            Some(Expect::Regex(pattern)) => format!("{{ regex = {} }}", toml_text(pattern.text())),
            Some(Expect::Hex(bytes)) => {
                let pairs: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{{ hex = \"{}\" }}", pairs.join(" "))
            }
        }
    }

    fn schema() -> String {
        let text = r#"{"type":"string"}"#;
        format!(
            r#"{{"anyOf":[{text},{{"type":"object","additionalProperties":false,"maxProperties":1,"properties":{{"exact":{text},"prefix":{text},"regex":{text},"hex":{text}}}}}]}}"#
        )
    }
}
