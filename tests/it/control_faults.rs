//! The control socket: nobody who uses it badly harms anyone else.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Controlled, NodeProcess, PATIENCE, Talk, binary, echoes, hold_free_port, run, text_of, totals, wait_until,
};

#[test]
fn a_control_client_that_stops_reading_harms_nobody() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let address = node.node.address();
    // One that watches everything, and one that asks and asks, and neither ever reads.
    let mut watcher = node.talk();
    watcher.say("{\"call\":\"signals\",\"pattern\":\"*\"}\n");
    let asker = UnixStream::connect(node.path()).unwrap();
    asker.set_nonblocking(true).unwrap();
    let questions = "{\"call\":\"status\"}\n".repeat(100);
    wait_until("its questions are not read any more", PATIENCE, || {
        (&asker).write(questions.as_bytes()).is_err()
    });
    for _ in 0..300 {
        echoes(address, 100);
    }
    echoes(address, 32 << 20);
    let begun = Instant::now();
    let status = node.status();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(totals(&status, "listen1")["received"], 300 * 100 + (32 << 20));
    assert_eq!(status["control_clients"], 3);
    let begun = Instant::now();
    assert_eq!(node.ask(&["stop"]).status.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(node.node.wait().0, 0);
    drop((watcher, asker));
}

#[test]
fn two_nodes_cannot_share_a_path() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let (free, port) = hold_free_port();
    let path = node.path();
    let arguments =
        ["--listen", &port.to_string(), "--connect", "echo:", "--control", path.to_str().unwrap()];
    let out = run(Command::new(binary()).args(arguments), &[]);
    let said = text_of(&out.stderr);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        said.contains(path.to_str().unwrap()) && said.contains(&format!("pid {}", node.node.pid())),
        "{said}"
    );
    assert!(!said.contains("listening"), "{said}");
    assert_eq!(node.status()["pid"], node.node.pid());
    drop(free);

    let other = node.folder.path().join("file");
    std::fs::write(&other, "data").unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--connect", "echo:", "--control", other.to_str().unwrap()];
    let out = run(Command::new(binary()).args(arguments), &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text_of(&out.stderr).contains("a file that is no socket"), "{}", text_of(&out.stderr));
    assert_eq!(std::fs::read(&other).unwrap(), b"data");
}

#[test]
fn what_a_killed_node_has_left_is_replaced() {
    let first = Controlled::start(&["--connect", "echo:"]);
    let path = first.path();
    let Controlled { node, folder: _folder } = first;
    node.signal(Signal::KILL);
    node.wait();
    assert!(path.exists());
    let second = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        "echo:",
        "--control",
        path.to_str().unwrap(),
    ]);
    second.address();
    assert_eq!(Talk::to(&path).ask(&json!({ "call": "status" }))["ok"]["pid"], second.pid());
    assert_eq!(second.stop().0, 0);
    assert!(!path.exists());
}

#[test]
fn wrong_input_gets_one_clear_answer() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let mut talk = node.talk();
    for (line, expected) in [
        ("nonsense", "not JSON"),
        ("", "not JSON"),
        ("\u{0}\u{1}", "not JSON"),
        ("{\"id\":1}", "no `call`"),
        ("{\"id\":1,\"call\":\"statsu\"}", "there are status, signals, call, reload, stop"),
        ("{\"id\":1,\"call\":\"call\",\"object\":\"listen2\",\"slot\":\"pause\"}", "did you mean `listen1`"),
        ("{\"id\":1,\"call\":\"call\",\"object\":\"listen1\",\"slot\":\"paus\"}", "did you mean `pause`"),
        (
            "{\"id\":1,\"call\":\"call\",\"object\":\"relay\",\"slot\":\"pause\"}",
            "`relay` has no slot `pause`; it has none",
        ),
        ("{\"id\":1,\"call\":\"call\",\"object\":\"node\",\"slot\":\"disconnect\"}", "takes the id"),
        (
            "{\"id\":1,\"call\":\"call\",\"object\":\"node\",\"slot\":\"disconnect\",\"args\":[0]}",
            "no connection 0",
        ),
        ("{\"id\":1,\"call\":\"reload\"}", "nothing to reload"),
    ] {
        talk.say(&format!("{line}\n"));
        let answer = talk.next().unwrap();
        assert!(answer["error"].as_str().unwrap().contains(expected), "{line}: {answer}");
        assert_eq!(answer["id"], if line.contains("\"id\"") { json!(1) } else { Value::Null });
    }
    assert_eq!(talk.ask(&json!({ "call": "status" }))["ok"]["state"], "running");

    talk.say(&"x".repeat(70_000));
    assert!(talk.next().unwrap()["error"].as_str().unwrap().contains("longer than 65536 bytes"));
    assert_eq!(talk.next(), None);

    let mut stream = node.talk();
    stream.say("{\"call\":\"signals\"}\n{\"call\":\"status\"}\n");
    assert!(stream.next().unwrap()["ok"].is_object());
    assert!(stream.next().unwrap()["error"].as_str().unwrap().contains("another one"));
    assert_eq!(stream.next(), None);
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn what_cannot_be_meant_is_told_apart_from_what_is_refused() {
    let node = Controlled::start(&["--connect", "echo:"]);
    for (arguments, code) in [
        (&["stop", "--grace", "soon"][..], 2),
        (&["stop", "--grace", "18446744073709551615"], 2),
        (&["stop", "--grace", "367days"], 2),
        (&["signals", "listen1.disconected"], 2),
        (&["status", "--connections", "20000"], 2),
        (&["call", "node.disconnect", "abc"], 2),
        (&["call", "node.disconnect"], 2),
        (&["call", "listen1.paus"], 2),
        (&["call", "listen1.pause", "7"], 2),
        (&["call", "node.disconnect", "999999"], 1),
        (&["call", "nobody.pause"], 1),
        (&["reload"], 1),
    ] {
        let out = node.ask(arguments);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", text_of(&out.stderr));
        assert!(out.stdout.is_empty());
    }
    // One who speaks the language is told, too, and the node goes on.
    let mut talk = node.talk();
    let forever = talk.ask(&json!({ "call": "stop", "grace": "18446744073709551615s" }));
    assert_eq!(forever["wrong"], true, "{forever}");
    assert_eq!(talk.ask(&json!({ "call": "reload" }))["wrong"], Value::Null);
    assert_eq!(node.status()["state"], "running");
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn a_node_that_accepts_nobody_is_given_up_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let address = socket2::SockAddr::unix(&path).unwrap();
    let stopped = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    stopped.bind(&address).unwrap();
    stopped.listen(0).unwrap();
    let _fills_it = UnixStream::connect(&path).unwrap();
    let out = run(Command::new(binary()).args(["status", "--control"]).arg(&path), &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text_of(&out.stderr).contains("the node accepts nobody"), "{}", text_of(&out.stderr));
}

#[test]
fn off_on_the_command_line_is_no_control_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.toml");
    let text = "[node]\ncontrol = \"control\"\n[listen.front]\nbind = \"127.0.0.1:0\"\n\
                [relay.r]\nfrom = \"front\"\nmode = \"echo\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg(&file).args(["--control", "off", "--log-format", "json"]);
    let node = NodeProcess::spawn(command.current_dir(&folder));
    node.address();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn there_is_a_limit_to_control_clients_and_the_next_one_is_told() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let mut clients: Vec<_> = (0..16).map(|_| node.talk()).collect();
    let out = node.ask(&["status"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text_of(&out.stderr).contains("16 control clients already"), "{}", text_of(&out.stderr));
    assert_eq!(clients[15].ask(&json!({ "call": "status" }))["ok"]["control_clients"], 16);
    clients.pop();
    wait_until("there is a place again", PATIENCE, || node.ask(&["status"]).status.success());
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn a_node_that_cannot_be_asked_is_an_error_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("file"), "").unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("dead")).unwrap());
    for (arguments, code, expected) in [
        (vec!["status".to_owned()], 2, "SIGNAL_NODE_CONTROL"),
        (vec!["status".into(), "--control".into(), path("none")], 1, "there is no such socket"),
        (vec!["status".into(), "--control".into(), path("file")], 1, "it is no socket"),
        (vec!["stop".into(), "--control".into(), path("dead")], 1, "no node listens there any more"),
        (vec!["call".into(), "pause".into(), "--control".into(), path("none")], 2, "OBJECT.SLOT"),
        (vec!["status".into(), "--connections".into(), "x".into()], 2, "not a number"),
    ] {
        let out = run(Command::new(binary()).args(&arguments).env_remove("SIGNAL_NODE_CONTROL"), &[]);
        assert_eq!(out.status.code(), Some(code), "{arguments:?}");
        assert!(text_of(&out.stderr).contains(expected), "{arguments:?}: {}", text_of(&out.stderr));
    }
}
