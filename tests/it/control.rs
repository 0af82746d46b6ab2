//! The control socket: what it tells adds up, and what it is told happens.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{
    Controlled, Ending, NodeProcess, PATIENCE, Talk, accept_one, binary, connect, echoes, hold_free_port,
    listener, read_all, run, text_of, totals, wait_until,
};

#[test]
fn status_adds_up_with_what_clients_saw() {
    let (dead, refused) = hold_free_port();
    let node =
        Controlled::start(&["--connect", &refused.to_string(), "--connect", "echo:", "--deny", "127.0.0.66"]);
    let address = node.node.address();
    for nth in 1..=20 {
        echoes(address, nth * 1_000);
    }
    let stranger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    stranger.bind(&"127.0.0.66:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    stranger.connect(&address.into()).unwrap();
    node.node.event("accept_rejected");
    let mut stays = connect(address);
    stays.write_all(b"seven b").unwrap();
    stays.read_exact(&mut [0; 7]).unwrap();
    node.node.client_gone(19);

    let status = node.status();
    let bytes = 210_000 + 7;
    let expected = json!({ "connections": 21, "failed": 1, "received": bytes, "sent": bytes, "unsent": 0 });
    assert_eq!(*totals(&status, "listen1"), expected);
    let expected = json!({ "connections": 21, "failed": 0, "received": bytes, "sent": bytes, "unsent": 0 });
    assert_eq!(*totals(&status, "connect2"), expected);
    let expected = json!({ "connections": 0, "failed": 1, "received": 0, "sent": 0, "unsent": 0 });
    assert_eq!(*totals(&status, "connect1"), expected);
    assert_eq!((&status["clients"], &status["state"]), (&json!(1), &json!("running")));
    assert_eq!(status["pid"], node.node.pid());
    let client = &status["connections"][0];
    assert_eq!(client["peer"], stays.local_addr().unwrap().to_string());
    assert_eq!((&client["received"], &client["sent"]), (&json!(7), &json!(7)));
    assert_eq!(status["connections"][1]["partner"], client["connection"]);
    let few = node.talk().ask(&json!({ "id": 4, "call": "status", "connections": 1 }));
    assert_eq!((&few["id"], &few["ok"]["connections_omitted"]), (&json!(4), &json!(1)));

    let page = text_of(&node.ask(&["status"]).stdout);
    assert!(page.contains("clients: 1 now, 21 since the start, 1 refused; dials failed: 1"), "{page}");
    assert!(page.contains(&stays.local_addr().unwrap().to_string()), "{page}");
    assert!(page.lines().all(|line| line.chars().count() <= 100), "{page}");
    drop(dead);
}

/// What a stream of signals said: how many of each kind, the missing `seq`s, and the lag it reported.
#[derive(Debug, Default)]
struct Account {
    disconnected: usize,
    missing: u64,
    lagged: u64,
}

impl Account {
    /// Reads until the node ends.
    fn of(mut talk: Talk) -> Self {
        let mut account = Self::default();
        let mut before = None;
        while let Some(item) = talk.next() {
            if item["end"].is_string() {
                return account;
            }
            account.lagged += item["lagged"].as_u64().unwrap_or(0);
            let Some(seq) = item["signal"]["seq"].as_u64() else { continue };
            if let Some(before) = before.replace(seq) {
                assert!(seq > before);
                account.missing += seq - before - 1;
            }
            account.disconnected += usize::from(item["signal"]["event"] == "disconnected");
        }
        panic!("the stream broke off: {account:?}");
    }
}

#[test]
fn signals_of_a_busy_node_lose_nothing_that_is_not_reported() {
    const CLIENTS: usize = 1_500;
    let node = Controlled::start(&["--connect", "echo:"]);
    let address = node.node.address();
    let subscribe = || {
        let mut talk = node.talk();
        assert_eq!(talk.ask(&json!({ "id": "s", "call": "signals" })), json!({ "id": "s", "ok": {} }));
        talk
    };
    let (keen, asleep) = (subscribe(), subscribe());
    let keen = std::thread::spawn(|| Account::of(keen));
    for _ in 0..CLIENTS {
        let mut client = connect(address);
        client.write_all(b"x").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client), (b"x".to_vec(), Ending::Fin));
    }
    node.node.client_gone(CLIENTS - 1);
    let status = node.status();
    assert_eq!(totals(&status, "listen1")["connections"], CLIENTS);
    node.node.signal(Signal::TERM);
    // It wakes too late for most of it.
    let asleep = Account::of(asleep);
    let keen = keen.join().unwrap();
    for account in [&keen, &asleep] {
        assert_eq!(account.missing, account.lagged, "{account:?}");
        assert!(account.disconnected > 0);
    }
    if keen.lagged == 0 {
        assert_eq!(keen.disconnected, 2 * CLIENTS);
    }
    assert!(asleep.lagged > 0, "it was meant to be too slow: {asleep:?}");
    assert_eq!(node.node.wait().0, 0);
}

#[test]
fn signals_are_filtered_by_object_and_kind_and_shown_as_lines() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let address = node.node.address();
    let mut watching = Vec::new();
    for (arguments, expected) in [
        (
            &["signals", "--json", "listen1.*"][..],
            "bytes_written disconnected new_connection read_finished ready_read state_changed",
        ),
        (&["signals", "--json", "disconnected"], "disconnected disconnected"),
        (&["signals", "--json", "connect1.*conn*"], "connected disconnected"),
    ] {
        let mut command = Command::new(binary());
        command.args(arguments).env("SIGNAL_NODE_CONTROL", node.path()).stdout(std::process::Stdio::piped());
        watching.push((command.spawn().unwrap(), expected));
    }
    wait_until("they watch", PATIENCE, || node.status()["control_clients"] == 4);
    let mut client = connect(address);
    client.write_all(b"x").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    read_all(&client);
    node.node.client_gone(0);
    assert!(text_of(&node.ask(&["stop"]).stdout).ends_with("stopped\n"));
    for (child, expected) in watching {
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0));
        let printed = text_of(&out.stdout);
        let kind = |line| serde_json::from_str::<Value>(line).unwrap()["event"].as_str().unwrap().to_owned();
        // The coalesced ones are between the first and the last.
        let mut kinds: Vec<_> = printed.lines().map(kind).collect();
        kinds.sort_unstable();
        assert_eq!(kinds.join(" "), expected);
    }
    assert_eq!(node.node.wait().0, 0);
}

#[test]
fn a_listener_is_paused_resumed_and_closed_by_name() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let address = node.node.address();
    assert_eq!(node.ask(&["call", "listen1.pause"]).status.code(), Some(0));
    assert_eq!(node.status()["objects"][1]["state"], "paused");
    // It waits in the backlog, and with it what it sent.
    let mut client = connect(address);
    client.write_all(b"x").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.read(&mut [0]).is_err());
    assert_eq!(node.status()["clients"], 0);
    assert_eq!(node.ask(&["call", "listen1.resume"]).status.code(), Some(0));
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.read_exact(&mut [0]).unwrap();
    // Who is in stays in.
    assert_eq!(node.ask(&["call", "listen1.close"]).status.code(), Some(0));
    wait_until("it is closed", PATIENCE, || TcpStream::connect(address).is_err());
    client.write_all(b"y").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let closed = node.ask(&["call", "listen1.resume"]);
    assert_eq!(closed.status.code(), Some(1));
    assert!(text_of(&closed.stderr).contains("`listen1` is closed"));
    drop(client);
    assert_eq!(node.node.wait().0, 0);
}

#[test]
fn a_connection_is_ended_by_its_id_and_its_neighbours_are_not() {
    let (upstream, target) = listener();
    let node = Controlled::start(&["--connect", &target.to_string()]);
    let address = node.node.address();
    let (stays, stays_there) = (connect(address), accept_one(&upstream));
    let (goes, goes_there) = (connect(address), accept_one(&upstream));
    node.node.nth_event("connected", 1);
    let peer = goes.local_addr().unwrap().to_string();
    let status = node.status();
    let connections = status["connections"].as_array().unwrap();
    let of_peer = connections.iter().find(|connection| connection["peer"] == peer).unwrap();
    let id = of_peer["connection"].to_string();
    let wrong = node.ask(&["call", "connect1.disconnect", &id]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text_of(&wrong.stderr).contains("belongs to `listen1`"));
    assert_eq!(node.ask(&["call", "node.disconnect", &id]).status.code(), Some(0));
    assert_eq!(read_all(&goes).1, Ending::Reset);
    assert_eq!(read_all(&goes_there).1, Ending::Reset);
    assert_eq!(node.node.client_gone(0)["reason"], "killed");
    let gone = node.ask(&["call", "node.disconnect", &id]);
    assert!(text_of(&gone.stderr).contains("no connection"), "{}", text_of(&gone.stderr));
    (&stays).write_all(b"x").unwrap();
    (&stays_there).read_exact(&mut [0]).unwrap();

    // By the id of its target's connection, too.
    let status = node.status();
    let id = status["connections"][1]["connection"].to_string();
    assert_eq!(node.ask(&["call", "connect1.disconnect", &id]).status.code(), Some(0));
    assert_eq!(read_all(&stays).1, Ending::Reset);
    assert_eq!(node.node.client_gone(1)["reason"], "killed");
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn a_client_that_waits_for_its_target_can_be_ended_too() {
    let (silent, target) = hold_free_port();
    silent.listen(0).unwrap();
    let _fills_it = connect(target);
    let node = Controlled::start(&["--connect", &target.to_string(), "--connect-timeout", "1h"]);
    let client = connect(node.node.address());
    let id = node.node.event("new_connection")["connection"].to_string();
    wait_until("it dials", PATIENCE, || node.status()["connections"][1]["state"] == "connecting");
    assert_eq!(node.ask(&["call", "listen1.disconnect", &id]).status.code(), Some(0));
    assert_eq!(read_all(&client).1, Ending::Reset);
    assert!(
        node.node.event("connect_failed")["error"].as_str().unwrap().contains("the client was disconnected")
    );
    assert_eq!(node.node.client_gone(0)["reason"], "killed");
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn stop_drains_and_comes_back_when_the_node_has_ended() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let mut client = connect(node.node.address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let (path, begun) = (node.path(), Instant::now());
    let asking = std::thread::spawn(move || {
        run(Command::new(binary()).args(["stop", "--grace", "1h", "--control"]).arg(path), &[])
    });
    node.node.line("stopping");
    assert_eq!(node.status()["state"], "stopping");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client).1, Ending::Fin);
    let out = asking.join().unwrap();
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(text_of(&out.stdout), "stopping; 1 client has 1h to end\nstopped\n");
    assert!(begun.elapsed() < PATIENCE);
    assert!(!node.path().exists());
    assert_eq!(node.node.wait().0, 0);

    let node = Controlled::start(&["--connect", "echo:", "--shutdown-grace", "1h"]);
    let client = connect(node.node.address());
    node.node.event("connected");
    assert_eq!(node.ask(&["stop", "--grace", "0s"]).status.code(), Some(0));
    assert_eq!(read_all(&client).1, Ending::Reset);
    assert_eq!(node.node.wait().0, 1);
}

#[test]
fn the_socket_is_the_users_alone_and_named_in_the_log() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let mode = std::fs::symlink_metadata(node.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let line = node.node.line("the control socket is open");
    assert!(line.contains(node.path().to_str().unwrap()));
    let path = node.path();
    assert_eq!(node.node.stop().0, 0);
    assert!(!path.exists());
}

#[test]
fn a_file_can_name_the_path_and_the_command_line_wins() {
    let folder = tempfile::tempdir().unwrap();
    let (file, taken, free) =
        (folder.path().join("node.toml"), folder.path().join("taken"), folder.path().join("free"));
    let text = "[node]\ncontrol = \"PATH\"\n[listen.front]\nbind = \"127.0.0.1:0\"\n\
                [relay.r]\nfrom = \"front\"\nmode = \"echo\"\n";
    std::fs::write(&file, text.replace("PATH", taken.to_str().unwrap())).unwrap();
    let start = |control: &[&Path]| {
        let mut command = Command::new(binary());
        command.arg("run").arg(&file).args(["--log-format", "json"]);
        command.args(control.iter().flat_map(|path| [Path::new("--control"), path]));
        command
    };
    let first = NodeProcess::spawn(&mut start(&[]));
    first.address();
    assert_eq!(Talk::to(&taken).ask(&json!({ "call": "status" }))["ok"]["pid"], first.pid());
    let second = NodeProcess::spawn(&mut start(&[&free]));
    second.address();
    assert_eq!(Talk::to(&free).ask(&json!({ "call": "status" }))["ok"]["pid"], second.pid());
    let third = run(&mut start(&[]), &[]);
    assert_eq!(third.status.code(), Some(1));
    let said = text_of(&third.stderr);
    assert!(said.contains(&format!("{}:2:11", file.display())) && said.contains("pid"), "{said}");
    assert_eq!((first.stop().0, second.stop().0), (0, 0));
}

#[test]
fn a_reload_is_answered_with_what_has_changed_or_with_every_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (file, control) = (folder.path().join("node.toml"), folder.path().join("control"));
    let write = |most: &str, rest: &str| {
        let text = format!(
            "[node]\nmax_connections = {most}\n{rest}[listen.front]\nbind = \"127.0.0.1:0\"\n\
             [relay.r]\nfrom = \"front\"\nmode = \"echo\"\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("10", "");
    let mut command = Command::new(binary());
    command.arg("run").arg(&file).arg("--control").arg(&control).args(["--log-format", "json"]);
    let node = NodeProcess::spawn(&mut command);
    node.address();
    let reload = || run(Command::new(binary()).arg("reload").env("SIGNAL_NODE_CONTROL", &control), &[]);
    let said = |out: Output| (out.status.code(), text_of(&out.stdout), text_of(&out.stderr));

    assert_eq!(said(reload()), (Some(0), "reloaded: nothing has changed\n".into(), String::new()));
    write("20", "threads = 2\n");
    let expected = "reloaded: changed node.max_connections\nonly a restart changes threads\n";
    assert_eq!(said(reload()), (Some(0), expected.into(), String::new()));
    write("\"many\"", "treads = 2\n");
    let (code, out, faults) = said(reload());
    assert_eq!((code, out.as_str(), faults.lines().count()), (Some(1), "", 2), "{faults}");
    for (line, at) in faults.lines().zip([":2:19: ", ":3:1: "]) {
        assert!(line.starts_with(&format!("error: {}{at}", file.display())), "{line}");
    }
    let answer = Talk::to(&control).ask(&json!({ "id": 1, "call": "reload" }));
    assert_eq!(answer["error"].as_str().unwrap().lines().count(), 2, "{answer}");
    assert_eq!(Talk::to(&control).ask(&json!({ "call": "status" }))["ok"]["state"], "running");

    // Many at once, as one.
    write("30", "");
    let all: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| said(reload()))).collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(all.iter().all(|(code, ..)| *code == Some(0)), "{all:?}");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_node_with_files_stays_when_its_last_listener_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, control) = (folder.path().join("node.toml"), folder.path().join("control"));
    let text = "[listen.front]\nbind = \"127.0.0.1:0\"\n[relay.r]\nfrom = \"front\"\nmode = \"echo\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg(&file).arg("--control").arg(&control).args(["--log-format", "json"]);
    let node = NodeProcess::spawn(&mut command);
    let ask = |arguments: &[&str]| {
        run(Command::new(binary()).args(arguments).env("SIGNAL_NODE_CONTROL", &control), &[]).status.code()
    };
    echoes(node.address(), 10);
    assert_eq!(ask(&["call", "front.close"]), Some(0));
    node.line("no listener is open");
    assert_eq!(ask(&["reload"]), Some(0));
    let again = node.nth_event("listening", 1)["address"].as_str().unwrap().parse().unwrap();
    echoes(again, 10);
    assert_eq!(ask(&["call", "front.close"]), Some(0));
    assert_eq!(ask(&["stop"]), Some(0));
    assert_eq!(node.wait().0, 0);
}

#[test]
fn told_to_stop_twice_it_says_the_time_that_holds() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let client = connect(node.node.address());
    node.node.event("connected");
    let stop =
        |grace: &str| node.talk().ask(&json!({ "call": "stop", "grace": grace }))["ok"]["grace"].clone();
    assert_eq!(stop("1h"), "1h");
    let second = stop("2h");
    assert!(second.as_str().unwrap().starts_with("59m"), "{second}");
    assert_eq!(stop("1s"), "1s");
    drop(client);
    node.node.wait();
}

#[test]
fn a_pipe_that_has_ended_still_gets_its_answers() {
    let node = Controlled::start(&["--connect", "echo:"]);
    let mut talk = node.talk();
    talk.say("{\"id\":1,\"call\":\"status\"}\n{\"id\":2,\"call\":\"signals\"}\n");
    talk.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(talk.next().unwrap()["id"], 1);
    assert_eq!(talk.next().unwrap()["ok"], json!({}));
    echoes(node.node.address(), 10);
    assert_eq!(talk.next().unwrap()["signal"]["event"], "new_connection");
    // One that has gone altogether gives its place back, though nothing happens.
    drop(talk);
    wait_until("it is let go", PATIENCE, || node.status()["control_clients"] == 1);
    assert_eq!(node.node.stop().0, 0);
}

/// The connection to a kept target used to be counted and shown as a client.
#[test]
fn a_target_that_is_kept_connected_is_no_client() {
    let (upstream, target) = listener();
    let target = target.to_string();
    let node = Controlled::start(&["--connect", &target, "--mode", "collect", "--frame", "lines"]);
    let _server = accept_one(&upstream);
    node.node.event("connected");
    let status = node.status();
    assert_eq!((&status["clients"], &status["connections"][0]["dialled"]), (&json!(0), &json!(true)));
    let page = text_of(&node.ask(&["status"]).stdout);
    assert!(page.contains("clients: 0 now") && !page.contains("none yet"), "{page}");
    let id = status["connections"][0]["connection"].to_string();
    let refused = node.ask(&["call", "node.disconnect", &id]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text_of(&refused.stderr).contains("its relay keeps it connected"));
}

#[test]
fn a_client_is_shown_beside_the_target_that_all_share_or_none() {
    let (upstream, target) = listener();
    let target = target.to_string();
    let shown = |node: &Controlled| {
        let _client = connect(node.node.address());
        node.node.event("new_connection");
        let page = text_of(&node.ask(&["status"]).stdout);
        page.lines().last().unwrap().split_whitespace().nth(3).map(str::to_owned)
    };
    let collect = Controlled::start(&["--connect", &target, "--mode", "collect", "--frame", "lines"]);
    let _server = accept_one(&upstream);
    collect.node.event("connected");
    assert_eq!(shown(&collect), Some(target));
    let hub = Controlled::start(&["--mode", "hub", "--frame", "lines"]);
    assert_eq!(shown(&hub).as_deref(), Some("-"));
}

#[test]
fn signals_of_an_object_that_does_not_exist_are_refused() {
    let node = Controlled::start(&["--connect", "echo:"]);
    for (pattern, expected) in [
        ("lsten1.*", "no object is called `lsten1`; did you mean `listen1`?"),
        ("lsten1", "no object and no kind of signal is called `lsten1`; did you mean `listen1`?"),
        ("disconected", "did you mean `disconnected`?"),
        ("x*.disconnected", "no object is called `x*`; there are "),
    ] {
        let out = node.ask(&["signals", pattern]);
        let error = text_of(&out.stderr);
        assert!(out.status.code() == Some(2) && error.contains(expected), "{pattern}: {error}");
    }
    assert!(text_of(&node.ask(&["stop"]).stdout).ends_with("stopped\n"));
}
