//! `json.encode` and `json.decode`: straight between text and values of the
//! script, so that its memory limit holds for both.

use std::fmt;
use std::rc::Rc;

use mlua::{Error, Lua, LuaString, Table, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::clock::Clock;

/// The table `json`, with the value `null` that stands for it.
pub(super) fn table(lua: &Lua, clock: &Rc<Clock>) -> mlua::Result<Table> {
    let json = lua.create_table()?;
    let at = Rc::clone(clock);
    let decode = lua.create_function(move |lua, text: LuaString| {
        let text = text.as_bytes();
        let mut from = serde_json::Deserializer::from_slice(&text);
        let value = Any { lua, clock: &at }.deserialize(&mut from);
        let value = value.and_then(|value| from.end().map(|()| value));
        value.map_err(|error| Error::runtime(format!("json.decode: {error}")))
    })?;
    let at = Rc::clone(clock);
    let encode = lua.create_function(move |lua, value: Value| {
        let mut text = Vec::new();
        write(&value, &mut text, 0, &at).map_err(|text| Error::runtime(format!("json.encode: {text}")))?;
        lua.create_string(text)
    })?;
    json.raw_set("decode", decode)?;
    json.raw_set("encode", encode)?;
    json.raw_set("null", Value::NULL)?;
    Ok(json)
}

/// Makes a value of the script of whatever comes.
#[derive(Clone, Copy)]
struct Any<'a> {
    lua: &'a Lua,
    clock: &'a Clock,
}

impl<'de> DeserializeSeed<'de> for Any<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        if self.clock.is_over() {
            return Err(serde::de::Error::custom("takes too long"));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.lua.create_string(text).map(Value::String).map_err(E::custom)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::NULL)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(serde::de::Error::custom)?;
        while let Some(value) = list.next_element_seed(self)? {
            table.raw_push(value).map_err(serde::de::Error::custom)?;
        }
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(serde::de::Error::custom)?;
        while let Some(name) = map.next_key_seed(self)? {
            let value = map.next_value_seed(self)?;
            table.raw_set(name, value).map_err(serde::de::Error::custom)?;
        }
        Ok(Value::Table(table))
    }
}

/// Appends a value; the error says what cannot be written.
fn write(value: &Value, out: &mut Vec<u8>, depth: usize, clock: &Clock) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("tables in tables, more than {DEEPEST} deep, or one that contains itself"));
    }
    if clock.is_over() || out.len() > LONGEST {
        return Err("is too large".into());
    }
    match value {
        Value::Nil => out.extend(b"null"),
        value if value.is_null() => out.extend(b"null"),
        Value::Boolean(value) => out.extend(value.to_string().bytes()),
        Value::Integer(number) => out.extend(number.to_string().bytes()),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < EXACT => {
            out.extend((*number as i64).to_string().bytes());
        }
        Value::Number(number) => match serde_json::Number::from_f64(*number) {
            Some(number) => out.extend(number.to_string().bytes()),
            None => return Err(format!("{number} is no number of JSON")),
        },
        Value::String(text) => write_text(text, out)?,
        Value::Table(table) => return write_table(table, out, depth, clock),
        other => return Err(format!("a {} cannot be written", other.type_name())),
    }
    Ok(())
}

fn write_text(text: &LuaString, out: &mut Vec<u8>) -> Result<(), String> {
    let text = text.to_str().map_err(|_| "a text that is not UTF-8; write hex() of it")?;
    serde_json::to_writer(out, &*text).map_err(|error| error.to_string())
}

/// A list if it has a first element or nothing, else an object.
fn write_table(table: &Table, out: &mut Vec<u8>, depth: usize, clock: &Clock) -> Result<(), String> {
    let length = table.raw_len();
    let (mut is_first, mut pairs) = (true, 0);
    let failed = |error: Error| error.to_string();
    if length > 0 || table.is_empty() {
        out.push(b'[');
        for value in table.sequence_values::<Value>() {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            write(&value.map_err(failed)?, out, depth + 1, clock)?;
        }
        out.push(b']');
        table
            .for_each(|_: Value, _: Value| {
                pairs += 1;
                Ok(())
            })
            .map_err(failed)?;
        return if pairs == length { Ok(()) } else { Err("a list that has names, too, or holes".into()) };
    }
    out.push(b'{');
    for pair in table.pairs::<Value, Value>() {
        let (Value::String(name), value) = pair.map_err(failed)? else {
            return Err("a name that is no text".into());
        };
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        write_text(&name, out)?;
        out.push(b':');
        write(&value, out, depth + 1, clock)?;
    }
    out.push(b'}');
    Ok(())
}

const DEEPEST: usize = 64;
/// In bytes; values are held by the memory of the script, their text is not.
const LONGEST: usize = 16 << 20;
/// Up to 2^53 a number is whole exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;
