//! Scripts that take too much of something, each stopped within its limit, on the line where it did.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use super::error::ScriptError;
use super::options::{ScriptOptions, Source};
use super::vm::Vm;

/// Runs a text in an interpreter of its own, and calls its `f`.
fn run(code: &str) -> (Result<mlua::Value, ScriptError>, Rc<Vm>) {
    let options = ScriptOptions::default();
    let clock = Rc::new(Clock::new(options.max_time));
    let vm = Vm::new(&options, &clock, |_, _| {}, |_| Ok(())).unwrap();
    let vm = vm.load(&Source::new("bomb.luau", code)).unwrap();
    let f = vm.function("f").expect("there is an f").clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let result = runtime.block_on(vm.call(&f, ()).unwrap());
    (result, vm)
}

/// What `f` fails with, that it did so soon, and that its memory is there again.
fn fails(code: &str) -> String {
    let begin = Instant::now();
    let (result, vm) = run(code);
    let error = result.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5), "{error} came after {:?}", begin.elapsed());
    assert!(vm.memory() < 2 << 20, "{} bytes are left", vm.memory());
    eprintln!("{error} {:?} {:?}", error.traceback, begin.elapsed());
    error.text
}

#[test]
fn an_endless_loop_is_stopped_on_its_line() {
    let text = fails("function f()\n  local n = 0\n  while true do n += 1 end\nend");
    assert_eq!(text, "bomb.luau:3: ran for more than 20 ms, the `max_time` of the script");
}

#[test]
fn a_pattern_bomb_is_stopped_on_its_line() {
    let text = fails("function f()\n  local s = ('a'):rep(4000)\n  return s:find(('a*'):rep(30) .. 'b')\nend");
    assert!(text.starts_with("bomb.luau:3: ran for more than"), "{text}");
}
