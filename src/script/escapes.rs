//! Ways out of the interpreter, or into another script's, that are none.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::clock::Clock;
use super::error::ScriptError;
use super::options::{ScriptOptions, Source};
use super::vm::Vm;

fn load(code: &str) -> Result<Rc<Vm>, ScriptError> {
    let options = ScriptOptions::default();
    let clock = Rc::new(Clock::new(options.max_time));
    let runtime = runtime();
    let _inside = runtime.enter();
    Vm::new(&options, &clock, |_, _| {}, |_| Ok(())).unwrap().load(&Source::new("e.luau", code))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// What the expression is, as text.
fn value(expression: &str) -> Result<String, ScriptError> {
    let vm = load(&format!("function f() return {expression} end"))?;
    let f = vm.function("f").unwrap().clone();
    Ok(runtime().block_on(vm.call(&f, ()).unwrap())?.to_string().unwrap())
}

#[test]
fn what_leads_outside_is_absent_and_said_to_be() {
    for name in super::vm::ABSENT {
        let text = load(&format!("local x\nx = {name}")).unwrap_err().text;
        assert_eq!(
            text,
            format!("e.luau:2: scripts have no `{name}`; `node help scripts` lists what they have")
        );
        // Not in the table of globals, nor in what is behind it, either.
        assert_eq!(value(&format!("rawget(_G, '{name}')")).unwrap(), "nil");
    }
}

#[test]
fn nothing_that_is_there_reaches_files_processes_or_code() {
    let names = value(
        "(function() local names = {} local seen = {} local function walk(prefix, t) if seen[t] then return end \
         seen[t] = true for k, v in t do if type(v) == 'table' then walk(prefix .. tostring(k) .. '.', v) \
         elseif type(v) == 'function' then table.insert(names, prefix .. tostring(k)) end end end \
         walk('', _G) table.sort(names) return table.concat(names, ' ') end)()",
    );
    let names = names.unwrap();
    let groups =
        |line: &str| line.split_once(": ").map(|(group, names)| (group.to_owned(), names.to_owned()));
    let expected: BTreeMap<_, _> = LIBRARY.trim().lines().filter_map(groups).collect();
    let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names.split(' ') {
        let (group, name) = name.strip_prefix("_G.").unwrap_or(name).rsplit_once('.').unwrap_or(("-", name));
        found.entry(group.to_owned()).or_default().push(name);
    }
    let found: BTreeMap<_, _> = found.into_iter().map(|(group, names)| (group, names.join(" "))).collect();
    assert_eq!(found, expected);
}

#[test]
fn bytecode_is_no_script() {
    let text = load("\u{1b}LuaQ").unwrap_err().text;
    assert_eq!(text, "e.luau: is bytecode; write text");
    assert!(load("\u{6}\u{3}\u{1}return").is_err());
}

#[test]
fn a_fault_of_syntax_names_its_line() {
    let text = load("local x = 1\nlocal = 2").unwrap_err().text;
    assert!(text.starts_with("e.luau:2: "), "{text}");
    let source = Source { name: "room.toml".into(), text: "local = 2".into(), line: 12 };
    let options = ScriptOptions::default();
    let vm = Vm::new(&options, &Rc::new(Clock::new(options.max_time)), |_, _| {}, |_| Ok(())).unwrap();
    let text = vm.load(&source).unwrap_err().text;
    assert!(text.starts_with("room.toml:12: "), "{text}");
}

#[test]
fn libraries_and_metatables_are_read_only() {
    for code in [
        "string.find = print",
        "table.insert = nil",
        "math.pi = 3",
        "coroutine.resume = print",
        "json.decode = print",
        "log.info = print",
        "getmetatable('').__index = function() return 'poison' end",
        "getmetatable('').__add = function() return 'poison' end",
        "rawset(string, 'find', print)",
        "setmetatable(string, {})",
        "setmetatable(_G, {})",
        "getmetatable(_G).__index = {}",
        "getmetatable(_G).__index.string = {}",
        "getmetatable(reply('x')).x = 1",
        "setmetatable(reply('x'), {})",
        "getmetatable(getmetatable(_G).__index).__index = print",
        "table.clear(string)",
        "table.insert(string, 1)",
        "table.move({ 1 }, 1, 1, 1, string)",
    ] {
        let error = load(code);
        assert!(error.is_err(), "{code}");
        assert!(error.unwrap_err().text.starts_with("e.luau:1: "), "{code}");
    }
}

#[test]
fn what_one_script_sets_another_does_not_see() {
    let one = load("shared = 'secret' function f() return shared end").unwrap();
    assert_eq!(value("tostring(shared) .. tostring(other) .. tostring(_G.shared)").unwrap(), "nilnilnil");
    drop(one);
}

#[test]
fn a_shadowed_name_is_the_scripts_own() {
    let vm = load("string = { find = function() return 'own' end } function f() return ('x'):find('x') end")
        .unwrap();
    let f = vm.function("f").unwrap().clone();
    let found = runtime().block_on(vm.call(&f, ()).unwrap()).unwrap();
    assert_eq!(found.to_string().unwrap(), "1");
}

#[test]
fn numbers_and_lengths_that_overflow_are_errors_or_nothing() {
    for (expression, expected) in [
        ("('abc'):find('b', -2^63)", "2"),
        ("tostring(('abc'):find('b', 2^53, true))", "nil"),
        ("tostring(('abc'):find('', 4, true))", "4"),
        ("tostring(('abc'):find('', 5, true))", "nil"),
        ("('abc'):find('c', -1, true)", "3"),
        ("#(''):split(',')", "1"),
        ("table.concat(('a,b,,c'):split(), '|')", "a|b||c"),
        ("table.concat(('abc'):split(''), '|')", "a|b|c"),
        ("tostring(utf8.len('\\xff'))", "nil"),
    ] {
        assert_eq!(value(expression).unwrap(), expected, "{expression}");
    }
    for expression in [
        "string.char(256)",
        "string.format('%1000d', 1)",
        "string.pack('i17', 1)",
        "('x'):rep(-1, 1)()",
        "buffer.readu32(buffer.create(3), 0)",
        "buffer.readu8(buffer.create(3), -1)",
        "sleep(-1)",
        "sleep(0/0)",
        "sleep(1e300)",
        "unhex('0')",
        "unhex('zz')",
        "json.decode('{')",
        "json.decode('1 2')",
        "json.encode(0/0)",
        "json.encode('\\xff')",
        "json.encode(print)",
        "json.encode({ 1, x = 2 })",
        "json.encode({ [print] = 2 })",
        "utf8.char(2^31)",
    ] {
        let error = value(expression);
        assert!(error.is_err(), "{expression} is {error:?}");
        let text = error.unwrap_err().text;
        assert!(text.starts_with("e.luau:1: "), "{expression}: {text}");
    }
}

#[test]
fn text_and_values_come_and_go_as_they_are() {
    for (expression, expected) in [
        ("hex('\\0\\xffA')", "00ff41"),
        ("#unhex('00 FF 41')", "3"),
        ("json.encode({ a = { 1, 2.5, true, json.null, 'ü\\n' } })", r#"{"a":[1,2.5,true,null,"ü\n"]}"#),
        ("json.decode('{\"a\":[1,{\"b\":null}]}').a[1]", "1"),
        ("tostring(json.decode('{\"a\":[1,{\"b\":null}]}').a[2].b == json.null)", "true"),
        ("json.encode({})", "[]"),
        ("json.encode(2^53 - 1)", "9007199254740991"),
        ("tostring(now() > 1.7e9)", "true"),
    ] {
        assert_eq!(value(expression).unwrap(), expected, "{expression}");
    }
}

#[test]
fn a_script_waits_only_in_functions_that_are_called_later() {
    let text = load("\nsleep(1)").unwrap_err().text;
    assert_eq!(text, "e.luau:2: only functions that are called later can wait, not the script itself");
    let text = load("\nwhile true do end").unwrap_err().text;
    assert_eq!(text, "e.luau:2: ran for more than 20 ms, the `max_time` of the script");
}

/// Every function that a script can reach, by table.
const LIBRARY: &str = "
-: assert error getmetatable hex ipairs next now pairs pcall print rawequal rawget rawlen rawset reply select setmetatable sleep tonumber tostring type typeof unhex unpack xpcall
bit32: arshift band bnot bor btest bxor byteswap countlz countrz extract lrotate lshift replace rrotate rshift
buffer: copy create fill fromstring len readbits readf32 readf64 readi16 readi32 readi8 readstring readu16 readu32 readu8 tostring writebits writef32 writef64 writei16 writei32 writei8 writestring writeu16 writeu32 writeu8
coroutine: close create isyieldable resume running status wrap yield
json: decode encode
log: debug error info trace warn
math: abs acos asin atan atan2 ceil clamp cos cosh deg exp floor fmod frexp isfinite isinf isnan ldexp lerp log log10 map max min modf noise pow rad random randomseed round sign sin sinh sqrt tan tanh
string: byte char find format gmatch gsub len lower match pack packsize rep reverse split sub unpack upper
table: clear clone concat create find foreach foreachi freeze getn insert isfrozen maxn move pack remove sort unpack
utf8: char codepoint codes len offset
";
