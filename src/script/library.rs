//! The functions of scripts that need no node: `hex`, `unhex`, `json`, `now`, `sleep`.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlua::{Error, Lua, LuaString};

use super::clock::Clock;
use super::json;

/// Adds them to the globals.
pub(super) fn add(lua: &Lua, clock: &Rc<Clock>) -> mlua::Result<()> {
    let globals = lua.globals();
    globals.raw_set("hex", lua.create_function(|_, text: LuaString| Ok(hex(&text.as_bytes())))?)?;
    let unhex = lua.create_function(|lua, text: LuaString| lua.create_string(unhex(&text.as_bytes())?))?;
    globals.raw_set("unhex", unhex)?;
    let now =
        |_: &Lua, ()| Ok(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
    globals.raw_set("now", lua.create_function(now)?)?;
    globals.raw_set("json", json::table(lua, clock)?)?;
    let clock = Rc::clone(clock);
    let sleep = lua.create_async_function(move |_, seconds: f64| {
        let clock = Rc::clone(&clock);
        async move {
            let Some(time) = Duration::try_from_secs_f64(seconds).ok().filter(|time| *time <= LONGEST) else {
                let text = format!("sleep({seconds}): write seconds, from 0 to {}", LONGEST.as_secs());
                return Err(Error::runtime(text));
            };
            clock.wait(tokio::time::sleep(time.max(SHORTEST))).await;
            Ok(())
        }
    })?;
    globals.raw_set("sleep", sleep)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// White space is left out.
fn unhex(text: &[u8]) -> mlua::Result<Vec<u8>> {
    let digits: Option<Vec<_>> = text
        .iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| char::from(*byte).to_digit(16))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
    let digits = digits.ok_or_else(|| Error::runtime("unhex: write pairs of hexadecimal digits"))?;
    Ok(digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect())
}

/// Others get their turn, and a loop of sleeps costs little.
const SHORTEST: Duration = Duration::from_millis(1);
/// A day. A timer of the config is for longer times.
const LONGEST: Duration = Duration::from_secs(86_400);
