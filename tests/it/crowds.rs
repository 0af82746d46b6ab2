//! Thousands that never read, or begin a message and stall, in a process of
//! their own: what they cost, and that one healthy client notices nothing.
//! `CROWD=5000` is the full form, of twice as many where they only begin.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;

use crate::support::{NodeProcess, Running, binary, connect, needs};
use crate::topologies::{disconnected, hub, join, lines};

/// How many there are.
fn size() -> usize {
    std::env::var("CROWD").map_or(1_000, |count| count.parse().unwrap())
}

/// So many connections in a Python process, each begun with `each`; it never reads.
fn crowd(address: SocketAddr, count: usize, each: &str) -> Running {
    let code = format!(
        "import socket,resource,time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE,({limit},{limit}))\n\
         a=[]\n\
         for i in range({count}):\n\
         \x20s=socket.socket()\n\
         \x20s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,4096)\n\
         \x20s.connect(('127.0.0.1',{port}))\n\
         \x20{each}\n\
         \x20a.append(s)\n\
         time.sleep(1000)",
        limit = count + 100,
        port = address.port()
    );
    Running::start(Command::new("python3").args(["-c", &code]).stdin(Stdio::null()))
}

/// The most memory the node has had, in KiB.
fn peak(node: &NodeProcess) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    peak.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the kernel holds for the connections of a listener of ours, in KiB, and how many there are.
fn in_the_kernel(address: SocketAddr) -> (usize, usize) {
    let port = format!(":{}", address.port());
    let out =
        Command::new("ss").args(["-tmnHO", "state", "established", "sport", "=", &port]).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let held = |line: &str| {
        let memory = line.split_once("skmem:(").unwrap().1;
        // Received, queued to be sent, and reserved for either.
        let fields = memory.split([',', ')']).filter(|field| {
            let digits = field.trim_start_matches(['r', 'w', 'f']);
            digits.len() + 1 == field.len() && digits.parse::<usize>().is_ok()
        });
        fields.map(|field| field[1..].parse::<usize>().unwrap()).sum::<usize>()
    };
    (text.lines().map(held).sum::<usize>() >> 10, text.lines().count())
}

#[test]
fn those_that_never_read_are_cut_and_one_that_does_gets_everything() {
    if !needs(&["python3"]) {
        return;
    }
    let size = size();
    let node = hub(&["--frame", "lines", "-m", &(size + 100).to_string()]);
    let _crowd = crowd(node.address(), size, "");
    node.nth_event("new_connection", size - 1);
    let (mut source, healthy) = (join(&node, size), join(&node, size + 1));
    let total: usize = 4_000;
    thread::scope(|scope| {
        scope.spawn(|| {
            let line = format!("{}\n", "y".repeat(1_023));
            for _ in 0..total {
                source.write_all(line.as_bytes()).unwrap();
            }
        });
        assert_eq!(lines(&healthy).take(total).filter(|line| line.len() == 1_023).count(), total);
    });
    disconnected(&node, "slow_consumer");
    let peak = peak(&node);
    eprintln!("CROWD={size} that never read and are cut: {peak} KiB at most");
    assert!(peak < 50_000 + 20 * size, "{peak} KiB");
}

#[test]
fn those_that_never_read_and_may_stay_cost_a_bounded_share_of_both_memories() {
    if !needs(&["python3", "ss"]) {
        return;
    }
    let size = size();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let text = "[listen.crowd]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\nqueue_overflow = \"drop_oldest\"\n\
                [listen.good]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\nqueue_overflow = \"block\"\n\
                [relay.r]\nfrom = [\"crowd\", \"good\"]\nmode = \"hub\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    let (to_crowd, to_good) = (node.address_of(0), node.address_of(1));
    let _crowd = crowd(to_crowd, size, "");
    node.nth_event("new_connection", size - 1);
    let (mut source, healthy) = (connect(to_good), connect(to_good));
    node.nth_event("new_connection", size + 1);
    let total: usize = 8_000;
    thread::scope(|scope| {
        scope.spawn(|| {
            let line = format!("{}\n", "y".repeat(1_023));
            for _ in 0..total {
                source.write_all(line.as_bytes()).unwrap();
            }
        });
        assert_eq!(lines(&healthy).take(total).filter(|line| line.len() == 1_023).count(), total);
    });
    let (kernel, connections) = in_the_kernel(to_crowd);
    let peak = peak(&node);
    eprintln!(
        "CROWD={size} that never read and stay: {peak} KiB at most, and {kernel} KiB in the kernel for {connections}"
    );
    assert_eq!(connections, size, "none was cut");
    assert!(peak < 50_000 + 20 * size, "{peak} KiB");
    // Twice what may be unsent, since the kernel counts its own overhead too.
    assert!(kernel < 512 * size, "{kernel} KiB");
}

#[test]
fn those_that_begin_a_message_and_stall_share_one_memory() {
    if !needs(&["python3"]) {
        return;
    }
    let size = 2 * size();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    // A quarter of the budget is for unfinished messages: room for some seven thousand of these in 4 MiB.
    let text = "[node]\nbudget = \"4MiB\"\n[listen.l]\nbind = \"127.0.0.1:0\"\nframing = \"length:4\"\n\
                [relay.r]\nfrom = \"l\"\nmode = \"hub\"\n";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    // A header, and in a small crowd some of the body, so that their share does not suffice.
    let begun = if size < 8_000 { 2_000 } else { 1 };
    let _crowd = crowd(node.address(), size, &format!("s.send(b'\\0\\1\\0\\0'+b'x'*{begun})"));
    let first = disconnected(&node, "stalled_frame");
    let oldest = &node.event("new_connection")["connection"];
    assert_eq!(&first["connection"], oldest);
    node.nth_event("new_connection", size - 1);
    let (mut healthy, other) = (connect(node.address()), connect(node.address()));
    node.nth_event("new_connection", size + 1);
    healthy.write_all(b"\0\0\0\x05hello").unwrap();
    let mut frame = [0; 9];
    (&other).read_exact(&mut frame).unwrap();
    assert_eq!(&frame, b"\0\0\0\x05hello");
    let peak = peak(&node);
    eprintln!("{size} unfinished messages: {peak} KiB at most");
    assert!(peak < 50_000 + 10 * size, "{peak} KiB");
}
