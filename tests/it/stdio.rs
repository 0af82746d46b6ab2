//! A lone `--listen` or `--connect` is a conversation with this terminal: two
//! of them can talk, a pipe ends cleanly, and failures end with 1.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::{
    Ending, NodeProcess, abort, accept_one, binary, connect, hold_free_port, listener, needs, pattern,
    read_all, run,
};

/// A node whose standard streams are pipes of ours.
fn piped(arguments: &[&str]) -> NodeProcess {
    let mut command = Command::new(binary());
    command.args(["--log-format", "json"]).args(arguments);
    NodeProcess::spawn_as_is(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

#[test]
fn two_terminals_talk_in_both_directions() {
    let mut alice = piped(&["--listen", "127.0.0.1:0"]);
    let mut bob = piped(&["--connect", &alice.address().to_string()]);
    let (mut from_alice, mut from_bob) = (BufReader::new(bob.stdout()), BufReader::new(alice.stdout()));
    let mut line = String::new();
    for _ in 0..3 {
        bob.stdin.as_mut().unwrap().write_all(b"hello from bob\n").unwrap();
        line.clear();
        from_bob.read_line(&mut line).unwrap();
        assert_eq!(line, "hello from bob\n");
        alice.stdin.as_mut().unwrap().write_all(b"hello from alice\n").unwrap();
        line.clear();
        from_alice.read_line(&mut line).unwrap();
        assert_eq!(line, "hello from alice\n");
    }
    // Bob has finished; Alice may still talk.
    bob.stdin = None;
    let seen = alice.event("read_finished");
    assert_eq!(seen["received"], 3 * 15);
    alice.stdin.as_mut().unwrap().write_all(b"bye\n").unwrap();
    alice.stdin = None;
    let mut rest = String::new();
    from_alice.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bye\n");
    assert_eq!(alice.wait().0, 0);
    assert_eq!(bob.wait().0, 0);
}

#[test]
fn a_pipe_arrives_whole_and_both_programs_end() {
    let sent = pattern(9, 0, 30 << 20);
    let mut receiver = piped(&["--listen", "127.0.0.1:0"]);
    // As with `</dev/null`: the receiver has nothing to say from the start.
    receiver.stdin = None;
    let address = receiver.address().to_string();
    let mut output = receiver.stdout();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).unwrap();
        bytes
    });
    let sender = run(Command::new(binary()).args(["-q", "--connect", &address]), &sent);
    assert_eq!(sender.status.code(), Some(0));
    assert!(sender.stdout.is_empty());
    assert!(reading.join().unwrap() == sent);
    assert_eq!(receiver.wait().0, 0);
}

#[test]
fn tar_crosses_a_pipe() {
    if !needs(&["tar", "bash"]) {
        return;
    }
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for i in 0..20 {
        std::fs::write(from.path().join(format!("file{i}")), pattern(i, 0, 100_000)).unwrap();
    }
    let mut receiver = piped(&["--listen", "127.0.0.1:0"]);
    receiver.stdin = None;
    let mut tar = Command::new("tar");
    let mut tar = tar.args(["x", "-C"]).arg(to.path()).stdin(receiver.stdout()).spawn().unwrap();
    let script =
        format!("tar c -C {} . | {} --connect {}", from.path().display(), binary(), receiver.address());
    assert!(run(Command::new("bash").args(["-o", "pipefail", "-c", &script]), &[]).status.success());
    assert!(tar.wait().unwrap().success());
    for i in 0..20 {
        assert!(std::fs::read(to.path().join(format!("file{i}"))).unwrap() == pattern(i, 0, 100_000));
    }
    assert_eq!(receiver.wait().0, 0);
}

#[test]
fn further_clients_wait_while_the_first_talks() {
    let mut node = piped(&["--listen", "127.0.0.1:0"]);
    let address = node.address();
    let first = connect(address);
    node.event("new_connection");
    let second = connect(address);
    let mut output = node.stdout();
    (&second).write_all(b"unheard").unwrap();
    (&first).write_all(b"heard").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    node.stdin = None;
    assert_eq!(read_all(&first).1, Ending::Fin);
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"heard");
    assert_eq!(node.wait().0, 0);
    // The listener is gone with the conversation.
    assert_eq!(read_all(&second).1, Ending::Reset);
}

#[test]
fn a_conversation_that_breaks_ends_with_1() {
    let (upstream, target) = listener();
    let node = piped(&["--connect", &target.to_string()]);
    let server = accept_one(&upstream);
    node.event("connected");
    abort(server);
    assert_eq!(node.client_gone(0)["reason"], "partner_lost");
    assert_eq!(node.wait().0, 1);
}

#[test]
fn nobody_to_talk_to_ends_with_1_and_no_second_attempt() {
    let (_held, target) = hold_free_port();
    let (code, lines) = piped(&["--connect", &target.to_string()]).wait();
    assert_eq!(code, 1);
    assert_eq!(lines.iter().filter(|line| line.contains("connect_failed")).count(), 1);
}

#[test]
fn a_reader_that_goes_away_is_a_failure_seen_by_the_peer() {
    let (upstream, target) = listener();
    let mut node = piped(&["--connect", &target.to_string()]);
    let mut server = accept_one(&upstream);
    drop(node.stdout());
    let error = loop {
        if let Err(error) = server.write_all(&[0; 4096]) {
            break error;
        }
    };
    assert!(matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe));
    assert_eq!(node.wait().0, 1);
}

#[test]
fn told_to_stop_a_pipe_drains_first() {
    let (upstream, target) = listener();
    let mut node = piped(&["--connect", &target.to_string()]);
    let mut server = accept_one(&upstream);
    node.signal(Signal::TERM);
    node.line("stopping");
    node.stdin.as_mut().unwrap().write_all(b"the rest").unwrap();
    node.stdin = None;
    let mut bytes = [0; 8];
    server.read_exact(&mut bytes).unwrap();
    drop(server);
    assert_eq!(node.wait().0, 0);
}

#[test]
fn stdio_can_be_named_as_either_end() {
    let mut node = piped(&["--listen", "stdio:", "--connect", "echo:"]);
    node.stdin.as_mut().unwrap().write_all(b"parrot").unwrap();
    node.stdin = None;
    let mut answer = String::new();
    node.stdout().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "parrot");
    assert_eq!(node.wait().0, 0);
}

/// Output was kept until a line was full, so that a prompt never showed.
#[test]
fn a_prompt_without_a_line_end_is_shown_at_once() {
    let (upstream, target) = listener();
    let mut node = piped(&["--connect", &target.to_string()]);
    let (mut server, mut output) = (accept_one(&upstream), node.stdout());
    server.write_all(b"login: ").unwrap();
    let mut prompt = [0; 7];
    output.read_exact(&mut prompt).unwrap();
    assert_eq!(&prompt, b"login: ");
    node.stdin.as_mut().unwrap().write_all(b"me\n").unwrap();
    let mut answer = [0; 3];
    server.read_exact(&mut answer).unwrap();
    server.write_all(b"password: ").unwrap();
    output.read_exact(&mut [0; 10]).unwrap();
    drop(server);
    node.stdin = None;
    assert_eq!(node.wait().0, 0);
}

/// The place of the one conversation used to come back at its end, and
/// whoever waited at another listener was let in for a moment.
#[test]
fn the_second_in_line_is_never_let_in() {
    let mut node = piped(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let first = connect(node.address_of(1));
    node.event("new_connection");
    let waiting = [connect(node.address_of(0)), connect(node.address_of(1))];
    first.shutdown(Shutdown::Write).unwrap();
    node.stdin = None;
    assert_eq!(read_all(&first).1, Ending::Fin);
    let (code, lines) = node.wait();
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("\"new_connection\"")).count(), 1);
    for client in &waiting {
        assert_eq!(read_all(client).1, Ending::Reset);
    }
}

/// After its output had gone, a pipe's input used to be relayed for a minute.
#[test]
fn without_a_reader_no_more_is_taken_from_the_input() {
    let (upstream, target) = listener();
    let mut node = piped(&["--connect", &target.to_string()]);
    let mut server = accept_one(&upstream);
    let mut input = node.stdin.take().unwrap();
    let producing = std::thread::spawn(move || while input.write_all(b"more\n").is_ok() {});
    drop(node.stdout());
    server.write_all(b"to nobody").unwrap();
    assert_eq!(read_all(&server).1, Ending::Reset);
    assert_eq!(node.client_gone(0)["reason"], "reset");
    assert_eq!(node.wait().0, 1);
    producing.join().unwrap();
}
