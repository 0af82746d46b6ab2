//! Wires through the running program: signals to slots, filters and arguments,
//! who waits for whom, calls by hand, and reloads under connections that stay.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Ending, NodeProcess, PATIENCE, Talk, accept_one, binary, connect, hold_free_port, listener, read_all,
    root, run, wait_until,
};

/// A node that runs a config, and can be asked.
struct Wired {
    node: NodeProcess,
    folder: tempfile::TempDir,
}

impl Wired {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let wired = folder.path().join("x.toml");
        fs::write(&wired, with_control(config, &folder.path().join("control"))).unwrap();
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json"]).arg(&wired);
        Self { node: NodeProcess::spawn(&mut command), folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Where the listener of this name is.
    fn address(&self, name: &str) -> SocketAddr {
        let found = (0..).map(|nth| self.node.nth_event("listening", nth));
        let event = found.into_iter().find(|event| event["endpoint"] == name).unwrap();
        event["address"].as_str().unwrap().parse().unwrap()
    }

    fn call(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(binary());
        command.arg("call").args(arguments).env("SIGNAL_NODE_CONTROL", self.path());
        let out = run(&mut command, &[]);
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// Has it follow another config.
    fn reload(&self, config: &str) {
        fs::write(self.folder.path().join("x.toml"), with_control(config, &self.path())).unwrap();
        let answer = Talk::to(&self.path()).ask(&json!({ "call": "reload" }));
        assert!(answer["error"].is_null(), "{answer}");
    }

    fn object(&self, name: &str) -> Value {
        let status = Talk::to(&self.path()).ask(&json!({ "call": "status" }));
        let objects = status["ok"]["objects"].as_array().unwrap();
        objects.iter().find(|object| object["object"] == name).unwrap().clone()
    }
}

fn with_control(config: &str, path: &std::path::Path) -> String {
    format!("[node]\ncontrol = \"{}\"\n{config}", path.display())
}

fn lines(stream: &TcpStream) -> impl Iterator<Item = String> + use<> {
    BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap)
}

fn wire(signal: &str, slot: &str, more: &str) -> String {
    format!("[[connect]]\nsignal = \"{signal}\"\nslot = \"{slot}\"\n{more}\n")
}

fn listen(name: &str, more: &str) -> String {
    format!("[listen.{name}]\nbind = \"127.0.0.1:0\"\n{more}\n")
}

fn client(name: &str, to: SocketAddr, more: &str) -> String {
    format!("[client.{name}]\nto = \"{to}\"\n{more}\n")
}

const LINES: &str = "framing = \"lines\"";

#[test]
fn the_shipped_wires_greet_pass_on_log_and_leave_empty_lines_out() {
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/wires.toml"));
    let node = NodeProcess::spawn(command.env("ROOM", "127.0.0.1:0"));
    let mut first = connect(node.address());
    let mut hears = lines(&first);
    let local = first.local_addr().unwrap();
    assert_eq!(hears.next().unwrap(), format!("welcome {local}, 1 here"));
    let second = connect(node.address());
    let mut second_hears = lines(&second);
    assert_eq!(second_hears.next().unwrap(), format!("welcome {}, 2 here", second.local_addr().unwrap()));
    let id = &node.nth_event("new_connection", 0)["connection"];
    first.write_all(b"  hello \r\n\n \nagain\n").unwrap();
    assert_eq!(second_hears.next().unwrap(), format!("room#{id}> hello"));
    assert_eq!(second_hears.next().unwrap(), format!("room#{id}> again"));
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hears.next(), None, "nobody hears itself");
    node.line(&format!("room#{id} has left: closed"));
    assert_eq!(node.stop().0, 0);
}

/// The answer comes from the task of the wires, which may be behind when the client has finished.
#[test]
fn a_client_that_finishes_at_once_gets_all_its_answers() {
    let config =
        listen("echo", "queue_overflow = \"block\"") + &wire("echo.message_received", "echo.write", "");
    let wired = Wired::start(&config);
    for size in [1, 100_000, 3_000_000] {
        let mut stream = connect(wired.address("echo"));
        let bytes = crate::support::pattern(size, 0, size as usize);
        let (mut writer, sent) = (stream.try_clone().unwrap(), bytes.clone());
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writing.join().unwrap();
        assert!(back == bytes, "{size}: {}", back.len());
    }
    assert_eq!(wired.node.stop().0, 0);
}

#[test]
fn what_a_listener_gets_goes_through_filters_to_a_client_and_back_in_order() {
    let (server, target) = listener();
    let config = [
        listen("devices", LINES),
        client("up", target, LINES),
        wire(
            "devices.message_received",
            "up.write",
            "via = [{ split = \",\" }, \"trim\", \"upper\", { suffix = \"!\" }]",
        ),
        wire("up.message_received", "devices.broadcast", "via = [\"hex\"]"),
        wire("devices.disconnected", "up.write", "args = { data = \"gone {reason} {received}\" }"),
    ];
    let wired = Wired::start(&config.concat());
    let mut upstream = accept_one(&server);
    let mut device = connect(wired.address("devices"));
    let mut sent = String::new();
    for nth in 0..2_000 {
        sent.push_str(&format!("a{nth}, b{nth}\n"));
    }
    device.write_all(sent.as_bytes()).unwrap();
    let mut hears = lines(&upstream);
    for nth in 0..2_000 {
        assert_eq!(hears.next().unwrap(), format!("A{nth}!"));
        assert_eq!(hears.next().unwrap(), format!("B{nth}!"));
    }
    upstream.write_all(b"ok\n").unwrap();
    assert_eq!(lines(&device).next().unwrap(), "6f6b");
    drop(device);
    assert!(hears.next().unwrap().starts_with("gone "), "the facts of a connection come after its frames");
    let accounts = || wired.object("up")["accounts"].clone();
    wait_until("all is acknowledged", PATIENCE, || accounts()["sent"] == 4_001);
    assert_eq!(accounts()["received"], 4_001);
    assert_eq!(wired.node.stop().0, 0);
}

#[test]
fn what_is_written_while_a_client_is_not_connected_waits_for_it() {
    let (kept, target) = hold_free_port();
    let config =
        [listen("in", LINES), client("up", target, LINES), wire("in.message_received", "up.write", "")];
    let wired = Wired::start(&config.concat());
    wired.node.event("reconnecting");
    let mut stream = connect(wired.address("in"));
    stream.write_all(b"one\ntwo\n").unwrap();
    wait_until("both wait", PATIENCE, || wired.object("up")["accounts"]["queued"] == 2);
    drop(kept);
    let server = std::net::TcpListener::bind(target).unwrap();
    let upstream = accept_one(&server);
    assert_eq!(lines(&upstream).take(2).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(wired.node.stop().0, 0);
}

/// A client of `a` is not read any more, and all of a client of `free` arrives.
fn one_is_held_back_and_the_other_served(wired: Wired, free: &str, upstream: &TcpStream) {
    let mut held = connect(wired.address("a"));
    held.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let line = [&[b'x'; 1_000][..], b"\n"].concat();
    let mut written = 0_usize;
    while let Ok(count) = held.write(&line) {
        written += count;
        assert!(written < 64 << 20, "it is not held back");
    }
    let mut free = connect(wired.address(free));
    let mut hears = lines(upstream);
    for nth in 0..1_000 {
        writeln!(free, "{nth}").unwrap();
        assert_eq!(hears.next().unwrap(), nth.to_string());
    }
    drop((held, free));
    wired.node.signal(Signal::TERM);
    wired.node.signal(Signal::TERM);
    assert_eq!(wired.node.wait().0, 1, "what was cut is said");
}

/// Two listeners, each wired to a target of its own, of which one never reads.
#[test]
fn a_slot_that_stalls_holds_back_its_own_source_and_no_other() {
    let ((stuck, stuck_at), (server, target)) = (listener(), listener());
    let config = [
        listen("a", LINES),
        listen("b", LINES),
        client("stuck", stuck_at, "framing = \"lines\"\nqueue_max = \"64KiB\""),
        client("well", target, LINES),
        wire("a.message_received", "stuck.write", ""),
        wire("b.message_received", "well.write", ""),
    ];
    let wired = Wired::start(&config.concat());
    let (_never_read, upstream) = (accept_one(&stuck), accept_one(&server));
    one_is_held_back_and_the_other_served(wired, "b", &upstream);
}

/// Two connections of one listener: what one says goes to a target that never reads.
#[test]
fn a_slot_that_stalls_holds_back_the_connection_it_was_called_for_and_no_other_of_its_object() {
    let ((stuck, stuck_at), (server, target)) = (listener(), listener());
    let config = [
        listen("a", LINES),
        client("stuck", stuck_at, "framing = \"lines\"\nqueue_max = \"64KiB\""),
        client("well", target, LINES),
        wire("a.message_received", "stuck.write", "via = [{ match = \"^x\" }]"),
        wire("a.message_received", "well.write", "via = [{ match = \"^[0-9]\" }]"),
    ];
    let wired = Wired::start(&config.concat());
    let (_never_read, upstream) = (accept_one(&stuck), accept_one(&server));
    one_is_held_back_and_the_other_served(wired, "a", &upstream);
}

#[test]
fn wires_and_scripts_of_an_object_are_told_in_the_order_of_the_file() {
    let script = |id: &str| {
        format!(
            "[script.{id}]\ntarget = \"a\"\ncode = \"function on_message_received(conn, line) conn:write('{id} ' .. line) end\"\n"
        )
    };
    let tells = |word: &str| {
        wire("a.message_received", "a.write", &format!("args = {{ data = \"{word} {{data}}\" }}"))
    };
    let parts = [
        ("z", script("z")),
        ("one", tells("one")),
        ("b", script("b")),
        ("two", tells("two")),
        ("m", script("m")),
    ];
    for turn in 0..parts.len() {
        let mut parts = parts.clone();
        parts.rotate_left(turn);
        let config: Vec<_> = parts.iter().map(|(_, part)| part.as_str()).collect();
        let wired = Wired::start(&(listen("a", LINES) + &config.concat()));
        let mut stream = connect(wired.address("a"));
        stream.write_all(b"x\n").unwrap();
        let heard: Vec<_> = lines(&stream).take(parts.len()).collect();
        assert_eq!(heard, parts.map(|(word, _)| format!("{word} x")));
        drop(stream);
        assert_eq!(wired.node.stop().0, 0);
    }
}

#[test]
fn a_wire_with_a_queue_of_its_own_drops_and_says_so_and_its_source_goes_on() {
    let (stuck, stuck_at) = listener();
    let config = [
        listen("in", LINES),
        client("stuck", stuck_at, "framing = \"lines\"\nqueue_max = \"64KiB\""),
        wire("in.message_received", "stuck.write", "queue_max = \"16KiB\"\nqueue_overflow = \"drop_oldest\""),
        wire("in.message_received", "in.write", "via = [{ match = \"last\" }]"),
    ];
    let wired = Wired::start(&config.concat());
    let _never_read = accept_one(&stuck);
    let mut stream = connect(wired.address("in"));
    let line = [&[b'x'; 1_000][..], b"\n"].concat();
    for _ in 0..20_000 {
        stream.write_all(&line).unwrap();
    }
    stream.write_all(b"last\n").unwrap();
    assert_eq!(lines(&stream).next().unwrap(), "last");
    let said = wired.node.line("a wire's queue is full");
    assert!(said.contains("in.message_received → stuck.write"), "{said}");
    wired.node.signal(Signal::TERM);
    wired.node.signal(Signal::TERM);
    wired.node.wait();
}

#[test]
fn slots_are_called_by_hand_with_arguments_and_what_is_wrong_is_said() {
    let (server, target) = listener();
    let config = [
        listen("room", LINES),
        client("up", target, LINES),
        listen("plain", ""),
        "[relay.echo]\nfrom = \"plain\"\nmode = \"echo\"\n".into(),
        wire("room.error_occurred", "log.warn", ""),
        wire("up.connected", "log.info", ""),
    ];
    let wired = Wired::start(&config.concat());
    let _upstream = accept_one(&server);
    let (first, second) = (connect(wired.address("room")), connect(wired.address("room")));
    let id = wired.node.nth_event("connected", 0);
    assert_eq!(id["endpoint"], "up");
    wired.node.nth_event("new_connection", 1);
    assert_eq!(wired.call(&["room.broadcast", "data=hi all"]), (Some(0), String::new()));
    let (mut one, mut other) = (lines(&first), lines(&second));
    assert_eq!((one.next().unwrap(), other.next().unwrap()), ("hi all".into(), "hi all".into()));
    let port = first.local_addr().unwrap().port().to_string();
    let found = (0..2).map(|nth| wired.node.nth_event("new_connection", nth));
    let event = found.into_iter().find(|event| event["peer"].as_str().unwrap().ends_with(&port)).unwrap();
    let conn = format!("conn={}", event["connection"]);
    assert_eq!(wired.call(&["room.write", "data=to you", &conn]).0, Some(0));
    assert_eq!(one.next().unwrap(), "to you");
    assert_eq!(wired.call(&["room.close_connection", &conn]).0, Some(0));
    assert_eq!(one.next(), None);
    let gone = wired.node.client_gone(0);
    assert_eq!((&gone["reason"], &gone["connection"]), (&json!("closed"), &event["connection"]));
    for (arguments, code, expected) in [
        (&["room.broadcast"][..], 2, "needs `data`"),
        (&["room.write", "data=x"], 2, "needs `conn`"),
        (&["room.broadcast", "dta=x"], 2, "did you mean `data`?"),
        (&["room.brodcast", "data=x"], 2, "did you mean `broadcast`?"),
        (&["room.write", "data=x", "conn=999999"], 1, "has no connection 999999 any more"),
        (&["room.write", "data=x", "conn=first"], 2, "is not the id of a connection"),
        (&["room.broadcast", "data=a\nb"], 1, "contains the bytes that end one"),
        (&["plain.broadcast", "data=x"], 1, "a relay has its bytes"),
        (&["rom.broadcast", "data=x"], 1, "did you mean `room`?"),
        (&["room.broadcast", "data=x", "y"], 2, "has no name"),
        (&["node.quit", "code=300"], 2, "no exit code"),
    ] {
        let (found, text) = wired.call(arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
    assert_eq!(wired.call(&["log.info", "text=by\x1b[31mhand"]).0, Some(0));
    let line = wired.node.line("hand");
    assert!(line.contains("by\\\\u{1b}[31mhand"), "{line}");
    assert_eq!(wired.call(&["node.quit", "code=7"]).0, Some(0));
    drop((second, other));
    assert_eq!(wired.node.wait().0, 7);
}

#[test]
fn clients_of_a_relay_that_joins_many_are_written_to_by_hand() {
    let relay = "[relay.r]\nfrom = \"room\"\nmode = \"hub\"\n";
    let wired = Wired::start(&(listen("room", LINES) + relay));
    let (mut first, second) = (connect(wired.address("room")), connect(wired.address("room")));
    wired.node.nth_event("new_connection", 1);
    assert_eq!(wired.call(&["room.broadcast", "data=down at noon"]), (Some(0), String::new()));
    let (mut one, mut other) = (lines(&first), lines(&second));
    assert_eq!((one.next().unwrap(), other.next().unwrap()), ("down at noon".into(), "down at noon".into()));
    let port = second.local_addr().unwrap().port().to_string();
    let found = (0..2).map(|nth| wired.node.nth_event("new_connection", nth));
    let event = found.into_iter().find(|event| event["peer"].as_str().unwrap().ends_with(&port)).unwrap();
    let conn = format!("conn={}", event["connection"]);
    assert_eq!(wired.call(&["room.write", "data=to you", &conn]).0, Some(0));
    assert_eq!(other.next().unwrap(), "to you");
    first.write_all(b"from one\n").unwrap();
    assert_eq!(other.next().unwrap(), "from one", "the relay goes on");
    let (code, text) = wired.call(&["room.broadcast", "data=a\nb"]);
    assert!(code == Some(1) && text.contains("contains the bytes that end one"), "{text}");
    assert_eq!(wired.call(&["room.close_connection", &conn]).0, Some(0));
    assert_eq!(other.next(), None);
    drop((first, second));
    assert_eq!(wired.node.stop().0, 0);
}

/// What the others said went on into a queue that nobody emptied, until it was full and held them up.
#[test]
fn one_whose_half_was_finished_by_hand_hears_no_more_and_is_heard_and_holds_up_nobody() {
    let relay =
        "queue_max = \"64KiB\"\nqueue_overflow = \"block\"\n[relay.r]\nfrom = \"room\"\nmode = \"hub\"\n";
    let wired = Wired::start(&(listen("room", LINES) + relay));
    let mut half = connect(wired.address("room"));
    let conn = format!("conn={}", wired.node.event("new_connection")["connection"]);
    let (mut talks, hears) = (connect(wired.address("room")), connect(wired.address("room")));
    wired.node.nth_event("new_connection", 2);
    assert_eq!(wired.call(&["room.write", "data=the last", &conn]).0, Some(0));
    assert_eq!(wired.call(&["room.shutdown_write", &conn]), (Some(0), String::new()));
    assert_eq!(read_all(&half), (b"the last\n".to_vec(), Ending::Fin));
    // Many times what may wait for it.
    let line = "x".repeat(1_023);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..1_000).for_each(|_| talks.write_all(format!("{line}\n").as_bytes()).unwrap()));
        assert_eq!(lines(&hears).take(1_000).filter(|heard| *heard == line).count(), 1_000);
    });
    half.write_all(b"still here\n").unwrap();
    assert_eq!(lines(&hears).next().unwrap(), "still here");
    let (code, text) = wired.call(&["room.write", "data=more", &conn]);
    assert!(code == Some(1) && text.contains("any more"), "{text}");
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(wired.node.event("disconnected")["reason"], "closed");
    drop((talks, hears));
    assert_eq!(wired.node.stop().0, 0);
}

#[test]
fn functions_of_scripts_are_called_by_hand_with_arguments() {
    let code = "code = '''\nlocal n = 0\nfunction f(data, rest)\n  log.info('had', data, rest and rest.n)\n  \
                node.room:broadcast('heard ' .. data)\nend\nfunction bad()\n  error('no')\nend\n'''\n";
    let config =
        [listen("room", LINES), "[script.s]\n".into(), code.into(), wire("room.listening", "script.s.f", "")];
    let wired = Wired::start(&config.concat());
    let stream = connect(wired.address("room"));
    wired.node.event("new_connection");
    assert_eq!(wired.call(&["script.s.f", "data=hi all", "n=3"]), (Some(0), String::new()));
    assert_eq!(lines(&stream).next().unwrap(), "heard hi all");
    wired.node.line("had hi all 3");
    let (code, text) = wired.call(&["script.s.bad"]);
    assert!(code == Some(1) && text.contains("x.toml:14: no"), "{code:?} {text}");
    let (code, text) = wired.call(&["script.s.g"]);
    assert!(code == Some(2) && text.contains("`script.s` has no slot `g`"), "{code:?} {text}");
    drop(stream);
    assert_eq!(wired.node.stop().0, 0);
}

#[test]
fn a_client_is_closed_and_opened_and_its_half_finished_by_slots() {
    let (server, target) = listener();
    let config = client("up", target, LINES) + &wire("up.message_received", "log.info", "");
    let wired = Wired::start(&config);
    let mut first = accept_one(&server);
    wired.node.event("connected");
    assert_eq!(wired.call(&["up.write", "data=bye"]).0, Some(0));
    assert_eq!(wired.call(&["up.shutdown_write"]).0, Some(0));
    assert_eq!(read_all(&first), (b"bye\n".to_vec(), Ending::Fin), "our half is finished");
    first.write_all(b"still heard\n").unwrap();
    let heard = wired.node.line("still heard");
    assert!(heard.contains("up.message_received"), "{heard}");
    assert_eq!(wired.call(&["up.close"]).0, Some(0));
    drop(first);
    assert_eq!(wired.node.event("disconnected")["reason"], "closed");
    assert_eq!(wired.call(&["up.write", "data=later"]).0, Some(0));
    assert_eq!(wired.object("up")["accounts"]["queued"], 1);
    assert_eq!(wired.call(&["up.open"]).0, Some(0));
    let second = accept_one(&server);
    assert_eq!(lines(&second).next().unwrap(), "later");
    assert_eq!(wired.call(&["up.abort"]).0, Some(0));
    assert_eq!(read_all(&second).1, Ending::Reset);
    assert_eq!(wired.node.nth_event("disconnected", 1)["reason"], "aborted");
    assert_eq!(wired.node.stop().0, 0);
}

#[test]
fn a_timer_fires_stops_and_starts_and_once_is_once() {
    let config = [
        listen("room", LINES),
        "[timer.tick]\nevery = \"20ms\"\n[timer.alarm]\nafter = \"1ms\"\n".into(),
        wire("tick.timeout", "room.broadcast", "args = { data = \"tick {n}\" }"),
        wire("tick.timeout", "log.info", "args = { text = \"only the first\" }\nonce = true"),
        wire("alarm.timeout", "log.info", "args = { text = \"alarm {n}, {tick.state}\" }"),
        wire("room.message_received", "tick.stop", ""),
    ];
    let wired = Wired::start(&config.concat());
    wired.node.line("alarm 1, running");
    let mut stream = connect(wired.address("room"));
    let mut hears = lines(&stream);
    let nth = |line: Option<String>| line.unwrap().strip_prefix("tick ").unwrap().parse::<u64>().unwrap();
    let (first, second) = (nth(hears.next()), nth(hears.next()));
    assert!(second > first);
    stream.write_all(b"stop\n").unwrap();
    wait_until("it is stopped", PATIENCE, || wired.object("tick")["running"] == false);
    let fired = wired.object("tick")["fired"].clone();
    assert_eq!(wired.call(&["alarm.start"]).0, Some(0));
    wired.node.line("alarm 2, stopped");
    assert_eq!(wired.object("tick")["fired"], fired);
    assert_eq!(wired.call(&["tick.start"]).0, Some(0));
    wait_until("it runs again", PATIENCE, || wired.object("tick")["fired"].as_u64() > fired.as_u64());
    drop(stream);
    let (code, log) = wired.node.stop();
    assert_eq!(code, 0);
    assert_eq!(log.iter().filter(|line| line.contains("only the first")).count(), 1);
}

#[test]
fn a_reload_changes_wires_under_connections_that_stay() {
    let config = |suffix: &str| {
        listen("echo", LINES)
            + &wire("echo.message_received", "echo.write", &format!("via = [{{ suffix = \"{suffix}\" }}]"))
    };
    let wired = Wired::start(&config("1"));
    let mut stream = connect(wired.address("echo"));
    let mut hears = lines(&stream);
    stream.write_all(b"a\n").unwrap();
    assert_eq!(hears.next().unwrap(), "a1");
    wired.reload(&config("2").replace("127.0.0.1:0", &wired.address("echo").to_string()));
    stream.write_all(b"b\n").unwrap();
    assert_eq!(hears.next().unwrap(), "b2");
    drop((stream, hears));
    assert_eq!(wired.node.client_gone(0)["reason"], "closed");
    assert_eq!(wired.node.stop().0, 0);
}

/// What is on its way at a stop arrives, though it goes through two tasks. The target does not read before the
/// node was told to stop, and so little fits into its queue and the kernel that most has to wait before its wire.
#[test]
fn what_was_read_before_a_stop_goes_through_its_wires() {
    let server = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    server.set_recv_buffer_size(4 << 10).unwrap();
    server.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    server.listen(1).unwrap();
    let server = std::net::TcpListener::from(server);
    let target = server.local_addr().unwrap();
    let config = [
        listen("in", LINES),
        client(
            "up",
            target,
            "framing = \"lines\"\nqueue_max = \"4KiB\"\nqueue_overflow = \"block\"\nkernel_send_buffer = \"4KiB\"",
        ),
        wire("in.message_received", "up.write", "via = [\"upper\"]"),
    ];
    let wired = Wired::start(&config.concat());
    let upstream = accept_one(&server);
    let mut stream = connect(wired.address("in"));
    let all: String = (0..6_000).map(|nth| format!("line {nth}\n")).collect();
    stream.write_all(all.as_bytes()).unwrap();
    let connections = || {
        let status = Talk::to(&wired.path()).ask(&json!({ "call": "status" }));
        status["ok"]["connections"].as_array().unwrap().clone()
    };
    wait_until("all is read", PATIENCE, || connections().iter().any(|one| one["received"] == all.len()));
    let sent = connections().iter().map(|one| one["sent"].as_u64().unwrap()).sum::<u64>() as usize;
    let queued = wired.object("up")["accounts"]["queued"].as_u64().unwrap();
    assert!(sent < all.len() / 2 && queued < 2_000, "{sent} of {} are sent, {queued} lines wait", all.len());
    wired.node.signal(Signal::TERM);
    let (bytes, ending) = read_all(&upstream);
    assert!(bytes == all.to_uppercase().into_bytes(), "{} of {}", bytes.len(), all.len());
    assert_eq!(ending, Ending::Fin);
    drop((upstream, stream));
    wired.node.wait();
}

#[test]
fn facts_of_an_object_that_a_relay_has_can_be_wired_and_its_bytes_cannot() {
    let relay = "[relay.r]\nfrom = \"front\"\nmode = \"echo\"\n";
    let config = [
        listen("front", ""),
        relay.into(),
        wire("front.new_connection", "log.info", "args = { text = \"came {conn.peer}\" }"),
        wire("front.disconnected", "log.info", ""),
        wire("node.started", "log.info", "args = { text = \"on {front.address}\" }"),
    ];
    let wired = Wired::start(&config.concat());
    let address = wired.address("front");
    wired.node.line(&format!("on {address}"));
    let stream = connect(address);
    wired.node.line(&format!("came {}", stream.local_addr().unwrap()));
    drop(stream);
    let line = wired.node.line("front.disconnected connection=");
    assert!(line.contains("reason=closed"), "{line}");
    assert_eq!(wired.node.stop().0, 0);
}
