//! Under a service manager: what it is told and when, the sockets it passes,
//! its unit files, and what packages install.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::{
    NodeProcess, PATIENCE, binary, connect, hold_free_port, listener, needs, root, run, wait_until,
};

/// The manager's end: a datagram socket, and the value of `NOTIFY_SOCKET` that leads to it.
fn manager(folder: &Path, is_abstract: bool) -> (UnixDatagram, String) {
    let (socket, name) = if is_abstract {
        let name = format!("signal-node-test-{}", folder.file_name().unwrap().display());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        (UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}"))
    } else {
        let path = folder.join("notify");
        (UnixDatagram::bind(&path).unwrap(), path.display().to_string())
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, name)
}

/// The lines of the next datagram.
fn told(manager: &UnixDatagram) -> Vec<String> {
    let mut buffer = [0; 4096];
    let length = manager.recv(&mut buffer).expect("nothing was told");
    String::from_utf8(buffer[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
}

fn supervised(notify: &str, arguments: &[&str]) -> NodeProcess {
    let mut command = Command::new(binary());
    command.args(["--log-format", "json"]).args(arguments).env("NOTIFY_SOCKET", notify);
    NodeProcess::spawn(&mut command)
}

#[test]
fn a_manager_hears_ready_when_all_listen_then_of_reload_and_stop() {
    for is_abstract in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (manager, notify) = manager(folder.path(), is_abstract);
        let (_held, port) = hold_free_port();
        let door = folder.path().join("door");
        let unix = format!("unix:{}", door.display());
        let node =
            supervised(&notify, &["--listen", &port.to_string(), "--listen", &unix, "--connect", "echo:"]);

        let ready = told(&manager);
        // At once: whoever was told may rely on it.
        connect(port);
        UnixStream::connect(&door).unwrap();
        assert_eq!(ready[0], "READY=1");
        assert!(ready[1].starts_with("STATUS=relaying each client"), "{ready:?}");

        node.signal(Signal::HUP);
        let reloading = told(&manager);
        assert_eq!(reloading[0], "RELOADING=1");
        let microseconds = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        assert!((now - microseconds.parse::<i64>().unwrap() / 1_000_000).abs() < 60, "{reloading:?}");
        assert_eq!(told(&manager)[0], "READY=1");

        node.signal(Signal::TERM);
        let stopping = told(&manager);
        assert_eq!(stopping[..2], ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"]);
        assert!(stopping[2].starts_with("STATUS=stopping"), "{stopping:?}");
        node.wait();
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 10]).is_err(), "more was told");
    }
}

#[test]
fn a_manager_hears_of_a_stop_that_a_slot_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, notify) = manager(folder.path(), false);
    let file = folder.path().join("node.toml");
    let config = "[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n[[connect]]\n\
                  signal = \"front.message_received\"\nslot = \"node.quit\"\nargs = { code = \"3\" }\n";
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg(&file).args(["--log-format", "json"]).env("NOTIFY_SOCKET", notify);
    let node = NodeProcess::spawn(&mut command);
    assert_eq!(told(&manager)[0], "READY=1");
    let mut client = connect(node.address());
    client.write_all(b"x\n").unwrap();
    assert_eq!(told(&manager)[0], "STOPPING=1");
    drop(client);
    assert_eq!(node.wait().0, 3);
}

#[test]
fn a_reload_that_is_refused_leaves_the_node_ready_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, notify) = manager(folder.path(), false);
    let file = folder.path().join("node.toml");
    std::fs::write(
        &file,
        "[listen.front]\nbind = \"127.0.0.1:0\"\n[relay.r]\nfrom = \"front\"\nmode = \"echo\"\n",
    )
    .unwrap();
    let mut command = Command::new(binary());
    command.arg("run").arg(&file).args(["--log-format", "json"]).env("NOTIFY_SOCKET", notify);
    let node = NodeProcess::spawn(&mut command);
    let ready = told(&manager);
    std::fs::write(&file, "nonsense").unwrap();
    node.signal(Signal::HUP);
    assert_eq!(told(&manager)[0], "RELOADING=1");
    assert_eq!(told(&manager), ready);
    connect(node.address());
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_node_that_cannot_listen_everywhere_is_never_ready() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, notify) = manager(folder.path(), false);
    let (_held, taken) = listener();
    let taken = taken.to_string();
    let node = supervised(&notify, &["--listen", "127.0.0.1:0", "--listen", &taken, "--connect", "echo:"]);
    assert_eq!(node.wait().0, 1);
    manager.set_nonblocking(true).unwrap();
    assert!(manager.recv(&mut [0; 10]).is_err(), "a node that failed was ready");
}

#[test]
fn a_watchdog_is_fed_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (manager, notify) = manager(folder.path(), false);
    let mut command = Command::new(binary());
    command.args(["--listen", "127.0.0.1:0", "--connect", "echo:"]);
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000").env_remove("WATCHDOG_PID");
    let node = NodeProcess::spawn(&mut command);
    assert_eq!(told(&manager)[0], "READY=1");
    for _ in 0..3 {
        assert_eq!(told(&manager), ["WATCHDOG=1"]);
    }
    drop(node);
}

#[test]
fn a_manager_that_cannot_be_reached_is_named_and_stops_nobody() {
    for (notify, why) in [("relative", "neither a path"), ("/nowhere/notify", "No such file")] {
        let node = supervised(notify, &["--listen", "127.0.0.1:0", "--connect", "echo:"]);
        let line = node.line("cannot reach the service manager");
        assert!(line.contains(why) && line.contains(notify), "{line}");
        connect(node.address());
        assert_eq!(node.stop().0, 0);
    }
}

/// Opens a TCP and a Unix socket and a datagram one, and becomes the node with these as its descriptors from 3 on.
const LAUNCHER: &str = r#"
import fcntl, os, socket, sys
tcp = socket.create_server(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[1]); unix.listen()
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); other.bind(("127.0.0.1", 0))
high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 20) for s in (tcp, unix, other)]
for place, descriptor in enumerate(high):
    os.dup2(descriptor, 3 + place)
os.environ.update(LISTEN_FDS="3", LISTEN_FDNAMES="front:back:odd", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

fn launcher(path: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", LAUNCHER]).arg(path).args([binary(), "--log-format", "json"]).args(arguments);
    command
}

fn says_back(mut stream: impl Read + Write) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

#[test]
fn passed_sockets_are_served_by_name_and_what_nobody_uses_is_said() {
    if !needs(&["python3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let both = ["--listen", "systemd:front", "--listen", "systemd:back", "--connect", "echo:"];
    let node = NodeProcess::spawn(&mut launcher(&path, &both));
    says_back(connect(node.address()));
    says_back(UnixStream::connect(&path).unwrap());
    let line = node.line("no listener uses this socket");
    assert!(line.contains("\"odd\""), "{line}");
    assert_eq!(node.nth_event("listening", 1)["address"], format!("unix:{}", path.display()));
    assert_eq!(node.stop().0, 0);
    assert!(path.exists(), "a socket of the manager was removed");

    std::fs::remove_file(&path).unwrap();
    let first = NodeProcess::spawn(&mut launcher(&path, &["--listen", "systemd:", "--connect", "echo:"]));
    says_back(connect(first.address()));
    assert!(first.line("no listener uses").contains("\"back\""));
    assert_eq!(first.stop().0, 0);
}

#[test]
fn a_reload_gives_no_list_of_networks_to_a_passed_unix_socket() {
    if !needs(&["python3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, file) = (folder.path().join("door"), folder.path().join("node.toml"));
    let write = |more: &str| {
        let text = format!(
            "[listen.a]\nbind = \"systemd:back\"\n{more}\n[relay.r]\nfrom = \"a\"\nmode = \"echo\"\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("");
    let node = NodeProcess::spawn(
        Command::new("python3")
            .args(["-c", LAUNCHER])
            .arg(&path)
            .args([binary(), "run"])
            .arg(&file)
            .args(["--log-format", "json"]),
    );
    node.event("listening");
    write("allow = \"10.0.0.0/8\"");
    node.signal(Signal::HUP);
    let line = node.line("allow and deny know networks");
    assert!(line.contains("`a`"), "{line}");
    node.line("goes on as it was");
    says_back(UnixStream::connect(&path).unwrap());
    assert_eq!(node.stop().0, 0);
}

#[test]
fn a_passed_socket_that_is_not_there_or_not_fit_is_an_error_that_names_what_is() {
    if !needs(&["python3"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut nth = 0;
    let mut refused = |arguments: &[&str]| -> (Option<i32>, String) {
        nth += 1;
        let path = folder.path().join(nth.to_string());
        let out: Output = run(&mut launcher(&path, arguments), &[]);
        (out.status.code(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, text) = refused(&["--listen", "systemd:side", "--connect", "echo:"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("front, back, odd") && text.contains("FileDescriptorName=side"), "{text}");
    let (code, text) = refused(&["--listen", "systemd:odd", "--connect", "echo:"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no stream socket"), "{text}");
    let (code, text) = refused(&["--listen", "systemd:back", "--connect", "echo:", "--allow", "127.0.0.0/8"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("allow and deny know networks"), "{text}");
    let out = run(Command::new(binary()).args(["--listen", "systemd:", "--connect", "echo:"]), &[]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text.contains("no socket was passed"), "{text}");
}

#[test]
fn systemds_own_launcher_starts_it_with_the_first_client() {
    if !needs(&["systemd-socket-activate"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(&path).args([binary(), "--log-format", "json"]);
    command.args(["--listen", "systemd:", "--connect", "echo:"]);
    let node = NodeProcess::spawn(&mut command);
    wait_until("it listens", PATIENCE, || path.exists());
    let mut client = None;
    wait_until("it accepts", PATIENCE, || {
        client = UnixStream::connect(&path).ok();
        client.is_some()
    });
    says_back(client.unwrap());
    assert_eq!(node.stop().0, 0);
}

#[test]
fn the_unit_is_sound_and_shut_tight() {
    if !needs(&["systemd-analyze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dist = root().join("config/dist");
    let unit = std::fs::read_to_string(dist.join("signal-node.service")).unwrap();
    assert!(unit.contains("ExecStart=/usr/bin/signal-node "));
    // Where it is not installed, the program under test stands in for it.
    let service = folder.path().join("signal-node.service");
    std::fs::write(&service, unit.replace("/usr/bin/signal-node", binary())).unwrap();
    let socket = folder.path().join("signal-node.socket");
    std::fs::copy(dist.join("signal-node.socket"), &socket).unwrap();
    let analyze = |arguments: &[&str], units: &[&Path]| {
        let out = run(Command::new("systemd-analyze").args(arguments).args(units), &[]);
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{arguments:?}: {text}");
        text.into_owned()
    };
    let said = analyze(&["verify", "--man=no"], &[&service, &socket]);
    assert!(said.trim().is_empty(), "{said}");
    analyze(&["security", "--no-pager", "--offline=true", "--threshold=25"], &[&service]);
}

#[test]
fn completions_and_the_manual_page_are_what_their_readers_expect() {
    let document = |arguments: &[&str]| {
        let out = run(Command::new(binary()).args(arguments), &[]);
        assert!(out.status.success() && out.stderr.is_empty());
        String::from_utf8(out.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(document(&["completions", shell]).contains("log-format"), "{shell}");
    }
    if needs(&["bash"]) {
        let script = document(&["completions", "bash"]);
        let out = run(Command::new("bash").args(["-n"]), script.as_bytes());
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        // The shell asks for what may follow `node --l`.
        let ask = format!(
            "{script}\nCOMP_WORDS=(node --l); COMP_CWORD=1; _node node --l node; echo \"${{COMPREPLY[*]}}\""
        );
        let out = run(Command::new("bash").args(["-c", &ask]), &[]);
        let offered = String::from_utf8(out.stdout).unwrap();
        assert_eq!(offered.split_whitespace().collect::<Vec<_>>(), ["--listen", "--log", "--log-format"]);
    }
    let page = document(&["man"]);
    if needs(&["groff"]) {
        let out = run(Command::new("groff").args(["-man", "-Tutf8", "-ww", "-P-cbou"]), page.as_bytes());
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        let shown = String::from_utf8_lossy(&out.stdout);
        for expected in ["--idle-timeout", "COMMANDS", "EXIT STATUS", "node help events"] {
            assert!(shown.contains(expected), "{expected} is not in:\n{shown}");
        }
    }
    // Packages install it by another name, and its documents follow.
    let folder = tempfile::tempdir().unwrap();
    let installed = folder.path().join("signal-node");
    std::os::unix::fs::symlink(binary(), &installed).unwrap();
    let out = run(Command::new(&installed).args(["completions", "bash"]), &[]);
    assert!(String::from_utf8_lossy(&out.stdout).contains("-o default signal-node"));
    let out = run(Command::new(&installed).arg("man"), &[]);
    assert!(String::from_utf8_lossy(&out.stdout).contains(".TH signal-node 1"));
}
