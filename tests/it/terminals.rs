//! `stdio:` as an object that wires and scripts have: a line typed is a message,
//! the screen stays when nothing more is typed, and neither comes back by itself.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{NodeProcess, binary};

fn wire(signal: &str, slot: &str, more: &str) -> String {
    format!("[[connect]]\nsignal = \"{signal}\"\nslot = \"{slot}\"\n{more}\n")
}

/// A node with a terminal, which is ours.
fn terminal(options: &str, wires: &str) -> (TempDir, NodeProcess) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, format!("[client.terminal]\nto = \"stdio:\"\n{options}\n{wires}")).unwrap();
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
    (folder, NodeProcess::spawn_as_is(&mut command))
}

const LINES: &str = "framing = \"lines\"";

#[test]
fn lines_typed_are_messages_and_all_that_follows_is_shown_before_the_end() {
    let args = "args = { data = \"<{data}>\" }";
    let wires = wire("terminal.connected", "terminal.write", "args = { data = \"ready\" }")
        + &wire("terminal.message_received", "terminal.write", args)
        + &wire("terminal.read_finished", "terminal.write", "args = { data = \"bye\" }")
        + &wire("terminal.read_finished", "node.quit", "");
    let (_folder, mut node) = terminal(LINES, &wires);
    let mut screen = BufReader::new(node.stdout());
    let mut line = String::new();
    screen.read_line(&mut line).unwrap();
    let mut keyboard = node.stdin.take().unwrap();
    keyboard.write_all("öne\ntwo\n".as_bytes()).unwrap();
    screen.read_line(&mut line).unwrap();
    // The last line has no end, and the input has.
    keyboard.write_all(b"three").unwrap();
    drop(keyboard);
    screen.read_to_string(&mut line).unwrap();
    assert_eq!(line, "ready\n<öne>\n<two>\n<three>\nbye\n");
    let gone = node.client_gone(0);
    assert_eq!((&gone["endpoint"], &gone["reason"]), (&"terminal".into(), &"shutdown".into()));
    assert_eq!(node.wait().0, 0);
}

#[test]
fn a_prompt_is_shown_at_once_and_much_is_shown_whole() {
    let wires = wire("node.started", "terminal.write", "args = { data = \"? \" }")
        + &wire("terminal.message_received", "terminal.write", "")
        + &wire("terminal.read_finished", "node.quit", "");
    let (_folder, mut node) = terminal("", &wires);
    let mut screen = node.stdout();
    let mut prompt = [0; 2];
    screen.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"? ");
    let mut keyboard = node.stdin.take().unwrap();
    let typed = crate::support::pattern(1, 0, 20 << 20);
    let expected = typed.clone();
    let typing = std::thread::spawn(move || keyboard.write_all(&typed).unwrap());
    let mut shown = Vec::new();
    screen.read_to_end(&mut shown).unwrap();
    typing.join().unwrap();
    assert!(shown == expected, "{} bytes", shown.len());
    assert_eq!(node.wait().0, 0);
}

#[test]
fn the_end_of_input_is_not_the_end_and_a_screen_that_goes_does_not_come_back() {
    let wires = "[timer.clock]\nevery = \"20ms\"\n".to_owned()
        + &wire("clock.timeout", "terminal.write", "args = { data = \"{n}\" }")
        + &wire("terminal.disconnected", "log.info", "args = { text = \"the screen is gone\" }");
    let (_folder, mut node) = terminal(LINES, &wires);
    drop(node.stdin.take());
    assert_eq!(node.event("read_finished")["endpoint"], "terminal");
    let mut screen = BufReader::new(node.stdout());
    for _ in 0..3 {
        screen.read_line(&mut String::new()).unwrap();
    }
    drop(screen);
    node.line("the screen is gone");
    let (_, lines) = node.stop();
    assert!(!lines.iter().any(|line| line.contains("\"reconnecting\"")), "{lines:?}");
}

#[test]
fn a_reload_neither_opens_nor_changes_a_terminal() {
    let wires = wire("terminal.message_received", "terminal.write", "");
    let (folder, mut node) = terminal(LINES, &wires);
    node.event("connected");
    let file = folder.path().join("x.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(LINES, "framing = \"lines:crlf\"")).unwrap();
    node.signal(Signal::HUP);
    node.line("standard input and output come and go with the process");
    fs::write(&file, text + &wire("terminal.read_finished", "node.quit", "")).unwrap();
    node.signal(Signal::HUP);
    node.line("reloaded: changed connect");
    let mut screen = BufReader::new(node.stdout());
    node.stdin.as_mut().unwrap().write_all(b"still here\n").unwrap();
    let mut line = String::new();
    screen.read_line(&mut line).unwrap();
    assert_eq!(line, "still here\n");
    // The wire that came with the reload.
    drop(node.stdin.take());
    let (code, lines) = node.wait();
    assert_eq!(code, 0, "{lines:?}");
}
