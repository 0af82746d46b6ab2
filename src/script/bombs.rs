//! Scripts that take too much of something, each stopped within its limit, on the line where it did.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::error::ScriptError;
use super::options::{ScriptOptions, Source};
use super::vm::Vm;

/// Runs a text in an interpreter of its own, and calls its `f`. Yields the memory from before, too.
fn run(code: &str) -> (Result<mlua::Value, ScriptError>, usize, Rc<Vm>) {
    let options = ScriptOptions::default();
    let clock = Rc::new(Clock::new(options.max_time));
    let vm = Vm::new(&options, &clock, |_, _| {}, |_| Ok(())).unwrap();
    let vm = vm.load(&Source::new("bomb.luau", code)).unwrap();
    let before = vm.memory();
    let f = vm.function("f").expect("there is an f").clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(vm.call(&f, ()).unwrap());
    (result, before, vm)
}

/// What `f` fails with, that it did so soon, and that its memory is there again.
fn fails(code: &str) -> String {
    let begin = Instant::now();
    let (result, before, vm) = run(code);
    let error = result.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5), "{error} came after {:?}", begin.elapsed());
    assert!(vm.memory() < before + (3 << 19), "{} bytes are left", vm.memory());
    error.text
}

fn is_late(code: &str, line: usize) {
    let text = fails(code);
    assert_eq!(text, format!("bomb.luau:{line}: ran for more than 20 ms, the `max_time` of the script"));
}

fn is_large(code: &str, line: usize) {
    let text = fails(code);
    let expected = "its values take more than 16384 KiB of memory, the `max_memory` of the script";
    assert_eq!(text, format!("bomb.luau:{line}: {expected}"));
}

#[test]
fn an_endless_loop_is_stopped_on_its_line() {
    is_late("function f()\n  local n = 0\n  while true do n += 1 end\nend", 3);
    is_late("function f()\n  repeat until false\nend", 2);
    is_late("function f()\n  for i = 1, math.huge do end\nend", 2);
}

#[test]
fn a_pattern_bomb_is_stopped_on_its_line() {
    is_late("function f()\n  local s = ('a'):rep(4000)\n  return s:find(('a*'):rep(30) .. 'b')\nend", 3);
    // What a peer can do to an honest pattern.
    is_late(
        "function f()\n  local s = ('a'):rep(65536)\n  return s:match('(.-)b(.-)b(.-)b(.-)$', 1) or s:match('.*.*.*b')\nend",
        3,
    );
    is_late("function f()\n  return (('x'):rep(2000):gsub('.-.-.-.-y', ''))\nend", 2);
    is_late("function f()\n  for _ in ('x'):rep(2000):gmatch('.-.-.-.-y') do end\nend", 2);
}

#[test]
fn what_would_be_searched_for_ever_without_asking_the_clock_is_searched_another_way() {
    let plain = "local s, p = ('a'):rep(2^16), ('a'):rep(2^15) .. 'b'\nfunction f()\n  return s:find(p, 1, true)\nend";
    assert!(run(plain).0.unwrap().is_nil());
    let plain = "local s, p = ('a'):rep(2^16), ('a'):rep(2^15) .. 'b'\nfunction f()\n  return s:find(p)\nend";
    assert!(run(plain).0.unwrap().is_nil());
    let set =
        "local s = ('a'):rep(2^22)\nfunction f()\n  return s:find('[' .. ('b'):rep(2^20) .. 'a]*c')\nend";
    assert!(fails(set).starts_with("bomb.luau:3: the pattern is too long"));
    let split =
        "local s, p = ('a'):rep(2^16), ('a'):rep(2^15) .. 'b'\nfunction f()\n  return #s:split(p)\nend";
    assert_eq!(run(split).0.unwrap().to_string().unwrap(), "1");
    is_late(
        "local s = ('a'):rep(2^22)\nlocal a, b = s .. 'a', s .. 'b'\nfunction f()\n  local t = {}\n  \
         for i = 1, 20000 do t[i] = if i % 2 == 0 then a else b end\n  table.sort(t)\nend",
        6,
    );
}

#[test]
fn a_memory_bomb_is_stopped_on_its_line_and_its_memory_is_returned() {
    is_large("function f()\n  local t = {}\n  while true do t[#t + 1] = ('x'):rep(2^20) .. #t end\nend", 3);
    is_large("function f()\n  return table.create(2^26, 0)\nend", 2);
    is_large("function f()\n  return buffer.create(2^28)\nend", 2);
    let text = fails("function f()\n  return json.decode('[' .. ('[],'):rep(2^21) .. '1]')\nend");
    assert!(text.starts_with("bomb.luau:2: "), "{text}");
}

#[test]
fn a_gigantic_string_is_stopped_on_its_line() {
    is_large("function f()\n  return ('x'):rep(1e9)\nend", 2);
    is_large("function f()\n  local s = 'x'\n  while true do s ..= s end\nend", 3);
}

#[test]
fn deep_recursion_is_stopped_on_its_line() {
    let text = fails("function f()\n  return 1 + f()\nend");
    assert_eq!(text, "bomb.luau:2: stack overflow");
    let text = fails(
        "local t = setmetatable({}, {})\ngetmetatable(t).__index = function(t, k)\n  return t[k + 1]\nend\nfunction f()\n  return t[1]\nend",
    );
    assert!(text.contains("overflow"), "{text}");
    let text = fails(
        "function f()\n  local s = ('('):rep(300) .. 'a' .. (')'):rep(300)\n  return ('a'):match(s)\nend",
    );
    assert!(text.starts_with("bomb.luau:3: "), "{text}");
    let text = fails("function f()\n  local t = {}\n  t[1] = t\n  return json.encode(t)\nend");
    assert!(text.starts_with("bomb.luau:4: json.encode: tables in tables"), "{text}");
    let text = fails("function f()\n  return json.decode(('['):rep(1e5))\nend");
    assert!(text.starts_with("bomb.luau:2: json.decode: recursion limit"), "{text}");
}

#[test]
fn the_limit_is_not_caught() {
    is_late("function f()\n  while true do pcall(function()\n    while true do end\n  end) end\nend", 3);
    is_late("function f()\n  pcall(function()\n    while true do end\n  end)\n  return 'done'\nend", 3);
    is_late("local function g()\n  while true do pcall(g) end\nend\nfunction f()\n  g()\nend", 2);
    is_late(
        "function f()\n  xpcall(function()\n    while true do end\n  end, function() while true do end end)\nend",
        3,
    );
}

#[test]
fn coroutines_do_not_gain_time() {
    is_late("function f()\n  coroutine.wrap(function()\n    while true do end\n  end)()\nend", 3);
    let text = fails(
        "function f()\n  local co = coroutine.create(function()\n    while true do coroutine.yield() end\n  end)\n  while true do coroutine.resume(co) end\nend",
    );
    assert!(text.contains("ran for more than"), "{text}");
    let text = fails("function f()\n  while true do coroutine.yield() end\nend");
    assert!(text.contains("ran for more than"), "{text}");
    let text = fails("function f()\n  local function g() return coroutine.wrap(g)() end\n  return g()\nend");
    assert!(text.contains("overflow") || text.contains("memory") || text.contains("ran for"), "{text}");
}

#[test]
fn a_function_that_waits_begins_anew() {
    let code = "function f()\n  for i = 1, 16 do\n    sleep(0.001)\n    local t = 0\n    for i = 1, 2e4 do t += i end\n  end\n  return 'done'\nend";
    assert_eq!(run(code).0.unwrap().to_string().unwrap(), "done");
    let inside = "function f()\n  local list = {}\n  for n in coroutine.wrap(function()\n    for i = 1, 3 do sleep(0.001) coroutine.yield(i) end\n  end) do list[#list + 1] = n end\n  return table.concat(list)\nend";
    assert_eq!(run(inside).0.unwrap().to_string().unwrap(), "123");
}
