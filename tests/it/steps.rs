//! Scripted runs, `[[step]]`, against peers of their own: what passes, and what
//! the first failure says.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::Command;
use std::thread;

use crate::support::{Ending, NodeProcess, PATIENCE, accept_one, binary, connect, listener, read_all, root};

/// Runs a config to its end.
fn ran(config: &str) -> (i32, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(&file);
    NodeProcess::spawn(&mut command).wait()
}

/// The shipped run, with a device that answers so.
fn commissioned(device: TcpListener, address: SocketAddr, idn: &'static str) -> (i32, Vec<String>) {
    let answers = thread::spawn(move || {
        let stream = accept_one(&device);
        let mut writer = stream.try_clone().unwrap();
        for line in BufReader::new(&stream).lines().map_while(Result::ok) {
            let answer = match line.as_str() {
                "*IDN?" => idn,
                "LOGIN service" => "OK welcome",
                _ => "ERROR",
            };
            if writeln!(writer, "{answer}").is_err() {
                return;
            }
        }
        let _ = writeln!(writer, "BYE");
    });
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/commissioning.toml"));
    let result = NodeProcess::spawn(command.env("DEVICE", address.to_string())).wait();
    answers.join().unwrap();
    result
}

#[test]
fn the_shipped_commissioning_asks_logs_in_finishes_its_half_and_ends_with_0() {
    let (device, address) = listener();
    let (code, log) = commissioned(device, address, "ACME,X-1,7");
    assert_eq!(code, 0, "{log:#?}");
    let all = log.join("\n");
    assert_eq!(all.matches("step passed").count(), 9, "{all}");
    assert!(all.contains("all steps passed"), "{all}");
}

#[test]
fn the_first_failure_ends_the_run_with_1_and_says_which_step_and_what_came() {
    let (device, address) = listener();
    let (code, log) = commissioned(device, address, "OTHER,1");
    assert_eq!(code, 1);
    let all = log.join("\n");
    assert_eq!(all.matches("step passed").count(), 2, "{all}");
    let failure = log.iter().find(|line| line.contains("step failed")).unwrap();
    for part in [
        "\"step\":3",
        "\"of\":9",
        "wait device.message_received",
        "something that matches",
        "OTHER,1",
        " came",
    ] {
        assert!(failure.contains(part), "{part}: {failure}");
    }
}

/// The node is both ends: no script, no other program.
#[test]
fn a_node_tests_its_own_listener_and_a_raw_stream_is_compared_as_it_comes() {
    let (free, address) = listener();
    drop(free);
    let config = format!(
        "[listen.echo]\nbind = \"{address}\"\n[client.probe]\nto = \"{address}\"\n\
         [[connect]]\nsignal = \"echo.message_received\"\nslot = \"echo.write\"\n\
         [[step]]\nwait = \"probe.connected\"\n\
         [[step]]\ncall = \"probe.write\"\nargs = {{ data = \"one two\" }}\n\
         [[step]]\nwait = \"probe.message_received\"\nexpect = \"one\"\n\
         [[step]]\nwait = \"probe.message_received\"\nexpect = {{ hex = \"20 74 77 6f\" }}\n\
         [[step]]\ncall = \"probe.close\"\n\
         [[step]]\nwait = \"echo.disconnected\"\nexpect = \"closed\"\n\
         [[step]]\ncall = \"node.quit\"\nargs = {{ code = 3 }}\n"
    );
    let (code, log) = ran(&config);
    assert_eq!(code, 3, "{log:#?}");
    assert_eq!(log.iter().filter(|line| line.contains("step passed")).count(), 7);
}

#[test]
fn a_listener_is_answered_by_steps_and_the_node_serves_on_when_they_have_passed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let config = "[listen.door]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n\
         [[step]]\nwait = \"door.new_connection\"\nwithin = \"1m\"\n\
         [[step]]\ncall = \"door.write\"\nargs = { data = \"password?\" }\n\
         [[step]]\nwait = \"door.message_received\"\nexpect = \"secret\"\n\
         [[step]]\ncall = \"door.write\"\nargs = { data = \"you said {data}\" }\n";
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(&file);
    let node = NodeProcess::spawn(&mut command);
    let mut stream = connect(node.address());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hears = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    assert_eq!(hears.next().unwrap(), "password?");
    stream.write_all(b"secret\n").unwrap();
    assert_eq!(hears.next().unwrap(), "you said secret");
    node.line("all steps passed");
    // Nobody takes what comes now, and it holds nobody up.
    let line = [&[b'x'; 10_000][..], b"\n"].concat();
    for _ in 0..500 {
        stream.write_all(&line).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&stream), (Vec::new(), Ending::Fin));
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_signal_that_does_not_come_is_said_with_the_limit() {
    let (_silent, address) = listener();
    let config = format!(
        "[client.c]\nto = \"{address}\"\nframing = \"lines\"\n\
         [[step]]\nwait = \"c.message_received\"\nwithin = \"50ms\"\nexpect = \"x\"\n"
    );
    let (code, log) = ran(&config);
    assert_eq!(code, 1);
    let all = log.join("\n");
    assert!(all.contains(r#"expected \"x\"; nothing came within 50ms"#), "{all}");
}
