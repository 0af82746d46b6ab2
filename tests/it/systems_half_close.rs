//! The half-close runs of `config/`, in both directions, against programs that
//! send everything, finish, and only then are answered; and what keeps a
//! connection for an answer that takes its time.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::{
    ANY, Ending, NodeProcess, Running, accept_one, binary, connect, hold_free_port, listener, needs,
    read_all, run,
};

const REQUEST: &str = "how much is the fish?";
const RESPONSE: &str = "it is 12.50";

/// The shipped server, which has to end with this code.
fn serves(code: i32, ask: impl FnOnce(SocketAddr)) {
    let node = NodeProcess::shipped("half-close", &[("DOOR", ANY)]);
    ask(node.address());
    let (ended, log) = node.wait();
    assert_eq!(ended, code, "{log:#?}");
    assert_eq!(log.iter().any(|line| line.contains("all steps passed")), code == 0);
}

/// The shipped client, which has to end with this code.
fn asks(code: i32, server: SocketAddr) {
    let (ended, log) = NodeProcess::shipped("half-close-client", &[("SERVER", server)]).wait();
    assert_eq!(ended, code, "{log:#?}");
    assert_eq!(log.iter().any(|line| line.contains("all steps passed")), code == 0);
}

/// A program that sends the request, finishes, and prints what it is answered.
fn answered(command: &mut Command) {
    let out = run(command, REQUEST.as_bytes());
    assert_eq!(String::from_utf8_lossy(&out.stdout), RESPONSE, "{command:?}: {out:?}");
    assert!(out.status.success(), "{command:?}: {out:?}");
}

#[test]
fn as_a_server_it_answers_nc_socat_and_python_after_their_end() {
    if !needs(&["nc", "socat", "python3"]) {
        return;
    }
    serves(0, |address| {
        answered(Command::new("nc").args(["-N", "127.0.0.1", &address.port().to_string()]));
    });
    serves(0, |address| {
        // It waits for the answer, as long as it takes within this limit.
        answered(Command::new("socat").args(["-t20", "-", &format!("TCP:{address}")]));
    });
    let code = "import socket, sys\n\
                peer = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n\
                peer.sendall(sys.stdin.buffer.read())\n\
                peer.shutdown(socket.SHUT_WR)\n\
                while data := peer.recv(100): sys.stdout.buffer.write(data)\n";
    serves(0, |address| {
        answered(Command::new("python3").args(["-c", code, &address.port().to_string()]));
    });
}

#[test]
fn as_a_server_it_answers_nothing_before_the_end_and_says_what_was_wrong() {
    serves(0, |address| {
        let mut client = connect(address);
        // In pieces, and the end after a while.
        for part in REQUEST.as_bytes().chunks(5) {
            client.write_all(part).unwrap();
        }
        client.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        assert_eq!(read_all(&client), (vec![], Ending::Open));
        client.shutdown(Shutdown::Write).unwrap();
        client.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
        assert_eq!(read_all(&client), (RESPONSE.as_bytes().to_vec(), Ending::Fin));
    });
    serves(1, |address| {
        let mut client = connect(address);
        client.write_all(b"how much is the bread?").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client).0, b"");
    });
}

#[test]
fn as_a_client_it_is_answered_by_socat_and_python_after_its_end() {
    if !needs(&["socat", "python3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let got = folder.path().join("got");
    let port = hold_free_port().1;
    let answers = folder.path().join("answers");
    // It reads to the end before it prints.
    fs::write(&answers, format!("cat > {}; printf '{RESPONSE}'", got.display())).unwrap();
    let does = format!("EXEC:sh {}", answers.display());
    let listens = format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr", port.port());
    let socat = Running::start(Command::new("socat").args(["-t20", &listens, &does]));
    asks(0, port);
    assert!(socat.wait().success());
    assert_eq!(fs::read_to_string(&got).unwrap(), REQUEST);

    let code = "import socket, sys\n\
                server = socket.create_server(('127.0.0.1', 0))\n\
                print(server.getsockname()[1], flush=True)\n\
                peer = server.accept()[0]\n\
                got = b''\n\
                while data := peer.recv(100): got += data\n\
                peer.sendall(sys.argv[1].encode())\n\
                peer.close()\n\
                print(got.decode(), flush=True)\n";
    let mut python = Command::new("python3");
    let mut python = Running::start(python.args(["-c", code, RESPONSE]).stdout(Stdio::piped()));
    let mut lines = BufReader::new(python.child.stdout.take().unwrap()).lines().map(Result::unwrap);
    asks(0, SocketAddr::from(([127, 0, 0, 1], lines.next().unwrap().parse().unwrap())));
    assert_eq!(lines.next().unwrap(), REQUEST);
    assert!(python.wait().success());
}

/// A server that answers so to what it has read to the end.
fn server(listener: TcpListener, answer: &'static str) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut stream = accept_one(&listener);
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        let _ = stream.write_all(answer.as_bytes());
        got
    })
}

#[test]
fn as_a_client_it_ends_with_1_at_another_answer_and_passes_at_the_next_run() {
    for (code, answer) in [(1, "it is sold out"), (0, RESPONSE)] {
        let (device, address) = listener();
        let server = server(device, answer);
        asks(code, address);
        assert_eq!(server.join().unwrap(), REQUEST);
    }
}

#[test]
fn the_shipped_client_and_the_shipped_server_pass_together() {
    serves(0, |address| asks(0, address));
}

/// A node with such a config.
fn node(config: &str) -> (tempfile::TempDir, NodeProcess) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    (folder, node)
}

/// Answers who has finished a while after that was told, and finishes too.
const LATE: &str = "code = '''\n\
                    function on_read_finished(conn) emit('over') end\n\
                    function answer(conn) sleep(0.3) conn:write('late') conn:shutdown_write() end\n\
                    '''\n\
                    [[connect]]\nsignal = \"script.s.over\"\nslot = \"script.s.answer\"\n";

/// A run used to lose this race: the connection of whoever had finished was closed before
/// the next step could answer, unless that step came at once.
#[test]
fn who_has_finished_stays_for_an_answer_that_takes_its_time_if_that_is_allowed() {
    for (key, answer) in [("allow_half_open = true\n", "late"), ("", "")] {
        let (_folder, node) =
            node(&format!("[listen.a]\nbind = \"127.0.0.1:0\"\n{key}[script.s]\ntarget = \"a\"\n{LATE}"));
        let client = connect(node.address());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client), (answer.as_bytes().to_vec(), Ending::Fin), "{key:?}");
        assert_eq!(node.client_gone(0)["reason"], "closed");
        assert_eq!(node.stop().0, 0);
    }
}

/// The server speaks first and finishes, and is answered then.
#[test]
fn a_target_that_has_finished_stays_too_and_is_dialled_again_after_our_end() {
    let (target, address) = listener();
    let (_folder, node) = node(&format!(
        "[client.c]\nto = \"{address}\"\nallow_half_open = true\n[script.s]\ntarget = \"c\"\n{LATE}"
    ));
    for _ in 0..2 {
        let server = accept_one(&target);
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&server), (b"late".to_vec(), Ending::Fin));
    }
    assert_eq!(node.event("disconnected")["reason"], "closed");
    assert_eq!(node.stop().0, 0);
}
