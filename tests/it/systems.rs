//! Systems of `config/` as `node example` writes them, with independent peers:
//! the greeting of two terminals, and devices behind one uplink.

use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Liner, NodeProcess, System, abort, accept_one, binary, connect, hold_free_port, listener, needs, root,
    run,
};

#[test]
fn an_example_is_written_with_all_its_files_and_never_over_others() {
    let folder = tempfile::tempdir().unwrap();
    let room = folder.path().join("new/room");
    let write = |name: &str| {
        let out = run(Command::new(binary()).args(["example", name, "--into"]).arg(&room), &[]);
        let printed = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        (out.status.code(), printed.replace(&room.display().to_string(), "ROOM"))
    };
    let (code, printed) = write("chat");
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.ends_with("\nnode run ROOM/chat.toml\n"), "{printed}");
    for file in ["chat.toml", "chat.luau", "chat-client.toml", "chat-client.luau"] {
        let written = fs::read(room.join(file)).unwrap();
        assert_eq!(written, fs::read(root().join("config").join(file)).unwrap());
        let out = run(Command::new(binary()).args(["example", file]), &[]);
        assert_eq!(out.stdout, written);
        assert!(printed.contains(&format!("ROOM/{file}\n")), "{printed}");
    }
    for file in ["chat.toml", "chat-client.toml"] {
        let out = run(Command::new(binary()).arg("check").arg(room.join(file)), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let (code, printed) = write("chat");
    assert_eq!(code, Some(2));
    assert_eq!(printed, "error: example: ROOM/chat.toml is there already; name another folder\n");
    assert_eq!(write("chatt").0, Some(2));
    assert_eq!(fs::read_dir(&room).unwrap().count(), 4);
}

#[test]
fn a_greeting_is_answered_and_two_terminals_type_to_each_other() {
    let hello = System::new("hello");
    let (_held, address) = hold_free_port();
    let address = address.to_string();
    let address = ("HELLO", address.as_str());
    let mut client = hello.terminal("hello-client.toml", &[address]);
    // The client was first, and dials until the server is there.
    client.node.event("connect_failed");
    let mut server = hello.terminal("hello.toml", &[address]);
    assert_eq!(server.shows(), "Hello from client!");
    assert_eq!(client.shows(), "Hello from server!");
    for nth in 0..3 {
        client.types(&format!("to the server {nth}"));
        assert_eq!(server.shows(), format!("to the server {nth}"));
        server.types(&format!("to the client {nth}"));
        assert_eq!(client.shows(), format!("to the client {nth}"));
    }
    // The server goes and comes.
    assert_eq!(server.node.stop().0, 0);
    let mut server = hello.terminal("hello.toml", &[address]);
    assert_eq!(server.shows(), "Hello from client!");
    assert_eq!(client.shows(), "Hello from server!");
    // Its end of input ends nothing there; it ends the client.
    drop(server.node.stdin.take());
    client.types("bye");
    assert_eq!(server.shows(), "bye");
    assert_eq!(client.finishes().0, 0);
    let mut raw = Liner::to(server.node.address());
    assert_eq!(raw.asks("Hello from client!\r"), "Hello from server!");
    raw.says("Hello from client?");
    server.awaits("Hello from client?");
    drop(raw);
    assert_eq!(server.node.stop().0, 0);
}

#[test]
fn a_client_on_a_pipe_shows_the_answer_and_ends() {
    let hello = System::new("hello");
    let server = hello.run("hello.toml", &[("HELLO", "127.0.0.1:0")]);
    let mut command = Command::new(binary());
    command.arg("run").arg(hello.path("hello-client.toml")).env("HELLO", server.address().to_string());
    // The last line has no end.
    let out = run(&mut command, b"one\nHello from client!");
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "Hello from server!\n".repeat(2));
    assert_eq!(server.stop().0, 0);
}

/// The aggregator, and the server it leads to.
fn aggregator(name: &str, server: SocketAddr, more: &[(&str, &str)]) -> (System, NodeProcess) {
    let system = System::new(name);
    let server = server.to_string();
    let variables = [&[("FIELD", "127.0.0.1:0"), ("SERVER", server.as_str())], more].concat();
    let node = system.run(&format!("{name}.toml"), &variables);
    (system, node)
}

fn server_of(listener: &TcpListener) -> Liner {
    Liner::of(accept_one(listener))
}

fn device(node: &NodeProcess, server: &Liner, name: &str) -> Liner {
    let mut device = Liner::to(node.address());
    device.says(&format!("id={name}"));
    assert_eq!(server.hears(), format!("+{name}"));
    device
}

#[test]
fn readings_go_on_with_their_device_and_commands_find_theirs() {
    let (listener, address) = listener();
    let (_system, node) = aggregator("aggregator", address, &[]);
    let mut server = server_of(&listener);
    let mut six = device(&node, &server, "dev6");
    let mut seven = device(&node, &server, "dev7");
    seven.says("21.5\r");
    assert_eq!(server.hears(), "dev7 21.5");
    six.says("id=dev6\n-3 °C");
    assert_eq!(server.hears(), "dev6 -3 °C");
    server.says("@dev7 SET 5");
    assert_eq!(seven.hears(), "SET 5");
    assert_eq!(six.asks("id=dev9"), "you are dev6", "it has heard nothing else before");
    assert_eq!(server.asks("@dev9 SET 5"), "?dev9 is not here");
    assert_eq!(server.asks("SET 5"), "? write @NAME COMMAND");
    let mut nameless = Liner::to(node.address());
    assert_eq!(nameless.asks("21.5"), "say who you are first: id=NAME");
    assert_eq!(nameless.asks("id=a b"), "a name has 1 to 32 letters, digits, and of _.-");
    // One vanishes, one says goodbye, one comes back before it was noticed to be gone.
    abort(six.stream.try_clone().unwrap());
    drop(six);
    assert!(["-dev6 reset", "-dev6 closed"].contains(&server.hears().as_str()));
    assert_eq!(server.asks("@dev6 SET 5"), "?dev6 is not here");
    let mut again = Liner::to(node.address());
    again.says("id=dev7");
    assert_eq!([server.hears(), server.hears()], ["-dev7 replaced", "+dev7"]);
    assert!(seven.rest().is_empty());
    server.says("@dev7 SET 6");
    assert_eq!(again.hears(), "SET 6");
    again.says("22");
    assert_eq!(server.hears(), "dev7 22");
    again.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.hears(), "-dev7 closed");
    drop((nameless, server));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_hundred_devices_share_the_uplink_and_nothing_is_lost_or_mixed() {
    let (listener, address) = listener();
    let (_system, node) = aggregator("aggregator", address, &[]);
    let server = server_of(&listener);
    let text = (0..30).fold(String::new(), |text, nth| format!("{text}{nth}\n"));
    let devices: Vec<_> = (0..100)
        .map(|nth| {
            let mut device = connect(node.address());
            write!(device, "id=d{nth}\n{text}").unwrap();
            device
        })
        .collect();
    let mut next = [0; 100];
    for _ in 0..100 * 31 {
        let line = server.hears();
        let Some((device, reading)) = line.split_once(' ') else { continue };
        let next = &mut next[device[1..].parse::<usize>().unwrap()];
        assert_eq!(reading, next.to_string(), "{line}");
        *next += 1;
    }
    assert_eq!(next, [30; 100]);
    drop((devices, server));
    node.stop();
}

#[test]
fn a_script_loaded_anew_has_devices_come_again() {
    let (listener, address) = listener();
    let (system, node) = aggregator("aggregator", address, &[]);
    let server = server_of(&listener);
    let mut seven = device(&node, &server, "dev7");
    system.edit("aggregator.luau", "dev9 is not here", "dev9 is away");
    node.signal(Signal::HUP);
    node.line("script.aggregator");
    // Until the new one is in its place the old one answers.
    while seven.stream.write_all(b"1\n").is_ok() && seven.is_open() {}
    drop(seven);
    let mut seven = Liner::to(node.address());
    seven.says("id=dev7\n2");
    server.awaits("+dev7");
    server.awaits("dev7 2");
    drop((seven, server));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_server_that_is_away_for_a_while_misses_nothing() {
    let (held, address) = hold_free_port();
    let (_system, node) = aggregator("aggregator", address, &[]);
    node.event("connect_failed");
    let mut seven = Liner::to(node.address());
    seven.says("id=dev7\n1\n2");
    held.listen(8).unwrap();
    let listener = TcpListener::from(held);
    let server = server_of(&listener);
    assert_eq!([server.hears(), server.hears(), server.hears()], ["+dev7", "dev7 1", "dev7 2"]);
    // It closes, and what comes meanwhile goes over the next connection.
    drop(server);
    node.nth_event("disconnected", 0);
    seven.says("3");
    let mut server = server_of(&listener);
    assert_eq!(server.hears(), "dev7 3");
    server.says("@dev7 GO");
    assert_eq!(seven.hears(), "GO");
    drop((seven, server));
    assert_eq!(node.stop().0, 0);
}

/// The next summary in which this is true of a device.
fn summary(server: &Liner, device: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    loop {
        let line = server.hears();
        let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
        if is_it(&value["devices"][device]) {
            return value["devices"][device].clone();
        }
    }
}

#[test]
fn a_summary_has_what_each_device_has_sent_within_an_interval() {
    let (listener, address) = listener();
    let (_system, node) = aggregator("summary", address, &[("INTERVAL", "300ms")]);
    let server = server_of(&listener);
    let mut seven = device(&node, &server, "dev7");
    // In one write, so that they fall into one interval but for bad luck, which is tried again.
    let whole = loop {
        seven.stream.write_all(b"1\n4\n2.5\n-1.5\nnan\nwarm\n").unwrap();
        let found = summary(&server, "dev7", |device| device["count"] != 0);
        if found["count"] == 4 {
            break found;
        }
        summary(&server, "dev7", |device| device["count"] == 0);
    };
    let expected = json!({
        "here": true, "stale": false, "latest": -1.5, "count": 4, "min": -1.5, "mean": 1.5, "max": 4, "unreadable": 2
    });
    assert_eq!(whole, expected);
    // Silent ones keep their latest and become stale; whoever speaks again is not.
    let stale = summary(&server, "dev7", |device| device["stale"] == true);
    assert_eq!(stale, json!({ "here": true, "stale": true, "latest": -1.5, "count": 0 }));
    seven.says("7");
    let fresh = summary(&server, "dev7", |device| device["count"] == 1);
    assert_eq!((&fresh["stale"], &fresh["mean"]), (&json!(false), &json!(7)));
    // One that has gone is reported at once, and stays in the summary as not here.
    drop(seven);
    while server.hears() != "-dev7 closed" {}
    summary(&server, "dev7", |device| device["here"] == false && device["stale"] == true);
    drop(server);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_summary_may_stand_beside_the_readings_and_forgets_who_is_gone() {
    let (listener, address) = listener();
    let system = System::new("summary");
    for line in [
        "[[connect]]  ",
        "signal = \"field.message_received\"\n",
        "via = [\"trim\"]\n",
        "slot = \"script.aggregator.forward\"",
    ] {
        system.edit("summary.toml", &format!("#{line}"), line);
    }
    system.edit("summary.toml", "forget_after = 360", "forget_after = 2");
    let address = address.to_string();
    let variables = [("FIELD", "127.0.0.1:0"), ("SERVER", address.as_str()), ("INTERVAL", "100ms")];
    let node = system.run("summary.toml", &variables);
    let server = server_of(&listener);
    let mut seven = device(&node, &server, "dev7");
    let _eight = device(&node, &server, "dev8");
    seven.says("5");
    server.awaits("dev7 5");
    let found = summary(&server, "dev7", |device| device["latest"] == 5);
    assert_eq!(found["here"], true);
    drop(seven);
    server.awaits("-dev7 closed");
    summary(&server, "dev7", |device| device.is_null());
    summary(&server, "dev8", |device| device["here"] == true);
    drop(server);
    assert_eq!(node.stop().0, 0);
}

/// As in the first lines of the config: nc is the server and the device.
#[test]
fn nc_is_a_server_and_a_device() {
    if !needs(&["nc", "bash"]) {
        return;
    }
    let (held, address) = hold_free_port();
    drop(held);
    let (_system, node) = aggregator("aggregator", address, &[]);
    let field = node.address();
    let script = format!(
        "exec 3> >(sleep 30)\n(until grep -q 'dev7 21.5' got; do sleep 0.1; done; echo '@dev7 SET 5'; sleep 30) | \
         timeout 30 nc -l {} {} > got & server=$!\n\
         (printf 'id=dev7\\n21.5\\n'; sleep 30) | timeout 30 nc {} {} | head -1\nkill $server; cat got",
        address.ip(),
        address.port(),
        field.ip(),
        field.port(),
    );
    let folder = tempfile::tempdir().unwrap();
    let out = run(Command::new("bash").args(["-c", &script]).current_dir(folder.path()), &[]);
    let printed = String::from_utf8_lossy(&out.stdout);
    assert_eq!(printed, "SET 5\n+dev7\ndev7 21.5\n");
    assert_eq!(node.stop().0, 0);
}
