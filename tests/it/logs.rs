//! What the operator sees: nothing but data on stdout, one JSON object a
//! line, every byte with `-x`, and a log that can stall nobody.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    NodeProcess, Running, accept_one, binary, connect, listener, listening_port, pattern, read_all,
    wait_until,
};

#[test]
fn with_json_every_line_is_one_object_with_a_timestamp() {
    let node = NodeProcess::start(["-v", "-x", "--listen", "0", "--connect", "echo:"]);
    let mut client = connect(node.address());
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    read_all(&client);
    node.client_gone(0);
    node.signal(Signal::HUP);
    node.line("nothing to reload");
    let (code, lines) = node.stop();
    assert_eq!(code, 0);
    for line in &lines {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(object["event"].is_string() || object["message"].is_string(), "{line}");
    }
    for kind in ["listening", "new_connection", "connected", "ready_read", "hexdump", "disconnected"] {
        assert!(lines.iter().any(|line| line.contains(&format!("\"event\":\"{kind}\""))), "no {kind}");
    }
}

#[test]
fn stdout_stays_empty_and_text_is_for_people() {
    let mut command = Command::new(binary());
    command.args(["-v", "--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let mut node = NodeProcess::spawn_as_is(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let line = node.line("listening");
    let port = line.rsplit_once(':').unwrap().1.trim().parse::<u16>().unwrap();
    let mut client = connect(([127, 0, 0, 1], port).into());
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    read_all(&client);
    let line = node.line(" disconnected connection=1 ");
    for part in ["peer=127.0.0.1:", "received=5", "sent=5", "reason=closed", "duration=", "target=\"echo:\""]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    let mut stdout = node.stdout();
    let (code, lines) = node.stop();
    assert_eq!(code, 0);
    assert!(lines.iter().all(|line| !line.contains('\x1b')), "colours in a pipe");
    let mut data = Vec::new();
    stdout.read_to_end(&mut data).unwrap();
    assert_eq!(data, b"");
}

#[test]
fn a_quiet_log_tells_of_ends_with_a_loss_and_of_no_other() {
    let mut command = Command::new(binary());
    command.args(["-q", "--listen", "127.0.0.1:0", "--mode", "hub", "--frame", "lines"]);
    let node = NodeProcess::spawn_as_is(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let address = ([127, 0, 0, 1], listening_port(node.pid())).into();
    for text in ["whole\n", "cut"] {
        let mut client = connect(address);
        client.write_all(text.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        read_all(&client);
    }
    let line = node.line("a connection ended with a loss");
    assert!(line.contains("WARN") && line.contains("cause=\"truncated_frame\""), "{line}");
    let (code, lines) = node.stop();
    assert_eq!((code, lines.len()), (0, 1), "{lines:?}");
}

#[test]
fn a_wildcard_listener_says_where_it_can_be_reached() {
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["--listen", "0", "--connect", "echo:"]));
    let line = node.line("reachable at");
    assert!(line.contains("127.0.0.1:"), "{line}");
    node.line("over a connection of its own, to echo:");
    assert_eq!(node.stop().0, 0);
}

/// The bytes of one direction, put together from the dump by their offsets, and how many were skipped.
fn undump(lines: &[String], direction: &str) -> (Vec<u8>, u64) {
    let (mut bytes, mut skipped) = (Vec::new(), 0);
    for line in lines {
        let object: Value = serde_json::from_str(line).unwrap();
        if object["direction"] != direction {
            continue;
        }
        assert_eq!(object["offset"].as_u64().unwrap(), bytes.len() as u64 + skipped, "{line}");
        if object["event"] == "hexdump_skipped" {
            skipped += object["bytes"].as_u64().unwrap();
        } else {
            let hex = object["hex"].as_str().unwrap();
            let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
            bytes.extend((0..hex.len()).step_by(2).map(byte));
        }
    }
    (bytes, skipped)
}

#[test]
fn the_dump_shows_every_byte_of_both_directions() {
    let node = NodeProcess::start(["-x", "--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let client = connect(node.address());
    let sent = pattern(5, 0, 300_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_all(&client).0 == sent);
    });
    node.client_gone(0);
    let (_, lines) = node.stop();
    for direction in ["to_target", "to_client"] {
        let (bytes, skipped) = undump(&lines, direction);
        assert_eq!(skipped, 0);
        assert!(bytes == sent, "{direction}");
    }
}

#[test]
fn what_comes_in_parts_of_messages_is_dumped_once() {
    let (upstream, target) = listener();
    let mode = ["-x", "--mode", "collect", "--frame", "lines", "--listen", "127.0.0.1:0", "--connect"];
    let node = NodeProcess::start(mode.map(str::to_owned).into_iter().chain([target.to_string()]));
    let (mut client, mut server) = (connect(node.address()), accept_one(&upstream));
    let sent = b"many of these make a read\n".repeat(10_000);
    client.write_all(b"the first comes in ").unwrap();
    node.line("the first comes in ");
    client.write_all(b"two parts\n").unwrap();
    client.write_all(&sent).unwrap();
    let mut taken = vec![0; 29 + sent.len()];
    server.read_exact(&mut taken).unwrap();
    drop(client);
    node.client_gone(0);
    let (_, lines) = node.stop();
    // As it was written to the target, and as it was taken from the client.
    for connection in ["\"connection\":1,", "\"connection\":2,"] {
        let its: Vec<_> = lines.iter().filter(|line| line.contains(connection)).cloned().collect();
        assert!(undump(&its, "to_target") == (taken.clone(), 0), "{connection}");
    }
}

#[test]
fn a_stopped_terminal_stalls_no_byte_and_what_it_missed_is_named() {
    let (upstream, target) = listener();
    let mut command = Command::new(binary());
    command.args([
        "-x",
        "-vv",
        "--log-format",
        "json",
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &target.to_string(),
    ]);
    let mut running =
        Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
    let mut stderr = running.child.stderr.take().unwrap();
    // Only the first line is read now; the pipe fills and stays full.
    let mut head = Vec::new();
    while !head.ends_with(b"\"listening\",\"endpoint\":\"listen1\",") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let port = listening_port(running.child.id());
    let (client, server) = (connect(([127, 0, 0, 1], port).into()), accept_one(&upstream));
    let size = 64 << 20;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&client).write_all(&pattern(6, 0, size)).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        let (bytes, _) = read_all(&server);
        assert!(bytes == pattern(6, 0, size), "a stopped terminal cost bytes");
    });
    drop((client, server));
    // Now the terminal goes on.
    let reading = std::thread::spawn(move || {
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).unwrap();
        rest
    });
    running.signal(Signal::TERM);
    assert!(running.wait().success());
    let rest = reading.join().unwrap();
    let lines: Vec<_> = rest.lines().skip(1).map(str::to_owned).collect();
    let (shown, skipped) = undump(&lines, "to_target");
    assert!(skipped > 0);
    assert_eq!(shown.len() as u64 + skipped, size as u64);
}

#[test]
fn a_closed_stderr_does_not_end_the_node() {
    let mut command = Command::new(binary());
    command.args(["-v", "--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let mut running =
        Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()));
    drop(running.child.stderr.take());
    let port = listening_port(running.child.id());
    for _ in 0..5 {
        let mut client = connect(([127, 0, 0, 1], port).into());
        client.write_all(b"still here").unwrap();
        client.read_exact(&mut [0; 10]).unwrap();
    }
    running.signal(Signal::TERM);
    assert!(running.wait().success());
}

#[test]
fn closed_standard_streams_are_survived() {
    let script = "exec 0<&- 1>&-; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", binary(), "--log-format", "json"]);
    let node = NodeProcess::spawn(command.args(["--listen", "127.0.0.1:0", "--connect", "echo:"]));
    let mut client = connect(node.address());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_repeated_failure_is_one_line_a_second_and_a_count() {
    let (_held, target) = crate::support::hold_free_port();
    let mut command = Command::new(binary());
    let node =
        NodeProcess::spawn(command.args(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]));
    let port = listening_port(node.pid());
    for _ in 0..200 {
        read_all(&connect(([127, 0, 0, 1], port).into()));
    }
    let all = |lines: &[String]| {
        let counts = lines.iter().filter(|line| line.contains("cannot connect, again"));
        let times = counts.filter_map(|line| line.rsplit_once("times=")?.1.parse::<u64>().ok()).sum::<u64>();
        let single = lines.iter().filter(|line| line.contains("cannot connect endpoint")).count() as u64;
        (single, single + times)
    };
    // Each warning's count comes in its own time.
    wait_until("all failures are accounted for", Duration::from_secs(20), || {
        let lines = node.lines();
        all(&lines).1 == 200 && lines.iter().any(|line| line.contains("clients reset, again"))
    });
    let lines = node.lines();
    assert!(all(&lines).0 < 30);
    let has = |parts: [&str; 2]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(["cannot connect endpoint", &format!("cause=\"{target} refused")]), "{lines:?}");
    assert!(has(["clients reset endpoint", " peer=127.0.0.1:"]), "{lines:?}");
    assert!(has(["clients reset, again", " last_peer=127.0.0.1:"]), "{lines:?}");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_filter_holds_for_json_events_too() {
    let node = NodeProcess::start(["--log", "error", "--listen", "127.0.0.1:0", "--connect", "echo:"]);
    let port = listening_port(node.pid());
    let mut client = connect(([127, 0, 0, 1], port).into());
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(node.stop(), (0, vec![]));
}

/// A node as it is typed, with its log for people.
fn with_text(arguments: &[&str]) -> (NodeProcess, std::net::SocketAddr) {
    let mut command = Command::new(binary());
    command.args(["--listen", "127.0.0.1:0"]).args(arguments);
    let node = NodeProcess::spawn_as_is(command.stdin(Stdio::null()).stdout(Stdio::null()));
    let address = ([127, 0, 0, 1], listening_port(node.pid())).into();
    (node, address)
}

#[test]
fn what_was_dropped_is_said_in_frames_and_bytes() {
    let (_held, target) = crate::support::hold_free_port();
    let target = target.to_string();
    let (node, address) = with_text(&[
        "--connect",
        &target,
        "--mode",
        "collect",
        "--frame",
        "lines",
        "--shutdown-grace",
        "100ms",
    ]);
    let mut client = connect(address);
    client.write_all(b"hello\n".repeat(5).as_slice()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    node.line(" disconnected connection");
    let (_, lines) = node.stop();
    let said = lines.iter().filter(|line| line.contains("frames dropped"));
    let numbers = said.map(|line| line.split_once(" frames=").unwrap().1.to_owned()).collect::<Vec<_>>();
    let frames = |text: &String| text.split_once(" bytes=").unwrap().0.parse::<u64>().unwrap();
    assert_eq!(numbers.iter().map(frames).sum::<u64>(), 5, "{lines:?}");
}

#[test]
fn a_lost_uplink_is_a_warning_and_a_target_that_is_back_is_told_of() {
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = target.local_addr().unwrap();
    let (node, _) = with_text(&["--connect", &at.to_string(), "--mode", "collect", "--frame", "lines"]);
    let (uplink, _) = target.accept().unwrap();
    drop(target);
    socket2::SockRef::from(&uplink).set_linger(Some(Duration::ZERO)).unwrap();
    drop(uplink);
    let line = node.line(" disconnected connection");
    assert!(line.contains(" WARN ") && line.contains("reason=reset"), "{line}");
    node.line("cannot connect endpoint=connect1");
    let target = std::net::TcpListener::bind(at).unwrap();
    let line = node.line("target reachable again");
    assert!(line.contains(" INFO ") && line.contains("endpoint=connect1 away="), "{line}");
    drop(target);
    node.stop();
}
