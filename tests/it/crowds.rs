//! Thousands that never read, or begin a message and stall, or send a byte now
//! and then, in a process of their own: what they cost, and that one healthy
//! client notices nothing. `CROWD=5000` is the full form, of twice as many where
//! they only begin and of three times as many where they only connect.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::support::{
    Namespace, NodeProcess, PATIENCE, Peer, binary, connect, needs, needs_descriptors, needs_two_networks,
    run, two_networks, wait_until,
};
use crate::topologies::{disconnected, hub, join, lines};

/// How many there are.
fn size() -> usize {
    std::env::var("CROWD").map_or(1_000, |count| count.parse().unwrap())
}

/// So many connections in a Python process, each begun with `each`; it never reads.
fn crowd(address: SocketAddr, count: usize, each: &str) -> Peer {
    crowd_that(address, count, each, "time.sleep(1)")
}

/// The same, and each of them sends a byte a second, one after the other.
fn slow_crowd(address: SocketAddr, count: usize) -> Peer {
    let then = "for s in a:\n\
                \x20\x20s.send(b'x')\n\
                \x20\x20next=max(next,time.time()-.1)+1/len(a)\n\
                \x20\x20time.sleep(max(0,next-time.time()))";
    crowd_that(address, count, "", then)
}

/// Yields once all are connected.
fn crowd_that(address: SocketAddr, count: usize, each: &str, then: &str) -> Peer {
    let code = format!(
        "import socket,resource,time\n\
         resource.setrlimit(resource.RLIMIT_NOFILE,({limit},{limit}))\n\
         a,next=[],0\n\
         for i in range({count}):\n\
         \x20s=socket.socket()\n\
         \x20s.setsockopt(socket.SOL_SOCKET,socket.SO_RCVBUF,4096)\n\
         \x20s.connect(('127.0.0.1',{port}))\n\
         \x20{each}\n\
         \x20a.append(s)\n\
         print('all',flush=True)\n\
         while True:\n\
         \x20{then}",
        limit = count + 100,
        port = address.port()
    );
    let mut crowd = Peer::start(Command::new("python3").args(["-c", &code]));
    assert_eq!(crowd.line(), "all");
    crowd
}

/// Echoes to all who come, and says so of the last of as many as are expected.
const SINK: &str = "
import resource, select, socket, sys
count = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
listener = socket.create_server(('127.0.0.1', 0), backlog=4096)
print(listener.getsockname()[1], flush=True)
poll, peers = select.epoll(), {}
poll.register(listener, select.EPOLLIN)
while True:
    for number, _ in poll.poll():
        if number == listener.fileno():
            peer, _ = listener.accept()
            peers[peer.fileno()] = peer
            poll.register(peer, select.EPOLLIN)
            if len(peers) == count: print('all', flush=True)
        else:
            peers[number].send(peers[number].recv(4096))
";

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
    let peak = node.memory("VmHWM");
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
    let peak = node.memory("VmHWM");
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
    let peak = node.memory("VmHWM");
    eprintln!("{size} unfinished messages: {peak} KiB at most");
    assert!(peak < 50_000 + 10 * size, "{peak} KiB");
}

/// The 99th percentile of a lone client's round trips, in the middle one of five rounds: others use the machine too, and
/// in some rounds by chance nobody does.
fn p99(address: SocketAddr) -> Duration {
    let mut client = connect(address);
    client.set_nodelay(true).unwrap();
    let round = |client: &mut TcpStream| {
        let mut times: Vec<_> = (0..4_000)
            .map(|_| {
                let begun = Instant::now();
                client.write_all(&[7; 64]).unwrap();
                client.read_exact(&mut [0; 64]).unwrap();
                begun.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() * 99 / 100]
    };
    let mut rounds: Vec<_> = (0..5).map(|_| round(&mut client)).collect();
    rounds.sort();
    rounds[2]
}

/// The same crowd, with the same system calls and wakes, talks first to another process, a plain echo, and then to the
/// node: what the healthy client of the node waits for beside the first is the machine, whose cores they share; what it
/// waits for beside the second, and not beside the first, is the node.
#[test]
fn many_that_send_a_byte_now_and_then_delay_nobody() {
    if !needs(&["python3"]) {
        return;
    }
    let size = size();
    let most = (size + 100).to_string();
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", "echo:", "-m", &most]);
    let alone = p99(node.address());
    let mut sink = Peer::start(Command::new("python3").args(["-c", SINK, &size.to_string()]));
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], sink.line().parse().unwrap()));
    let crowd = slow_crowd(elsewhere, size);
    assert_eq!(sink.line(), "all");
    let baseline = p99(node.address());
    drop((crowd, sink));
    let _crowd = slow_crowd(node.address(), size);
    // Its healthy client comes after them all in the backlog, so that all have been accepted.
    let beside = p99(node.address());
    eprintln!(
        "CROWD={size} that send a byte a second: p99 {beside:?} beside them, {baseline:?} while they talk to another \
         process, {alone:?} without them"
    );
    // A small one, in whose milliseconds other tests have their part, gets some of these too.
    let slack = Duration::from_millis(if size < 5_000 { 20 } else { 0 });
    assert!(beside < 2 * baseline + slack, "{beside:?} beside them, {baseline:?} without them in the node");
    assert!(!node.lines().iter().any(|line| line.contains("\"disconnected\"") && !line.contains("closed")));
}

#[test]
#[ignore = "the clients of the test below, in a process and a network of their own"]
fn storm() {
    let count: u32 = std::env::var("STORM").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let begun = Instant::now();
    let told = runtime.block_on(async {
        let mut clients = JoinSet::new();
        for nth in 0..count {
            sleep_until((begun + WITHIN * nth / count).into()).await;
            clients.spawn(say_and_hear(begun));
        }
        clients.join_all().await
    });
    let all = begun.elapsed();
    let (connected, failed): (Vec<_>, Vec<_>) = told.into_iter().partition(Result::is_ok);
    let last = connected.into_iter().map(|told| told.unwrap().1).max();
    eprintln!("{count} connects in {:.2?}, all heard after {all:.2?}", last.unwrap_or_default());
    assert!(failed.is_empty() && all < Duration::from_secs(10), "{failed:?}");
}

/// One client: what it says it hears again. It stays connected. With the time after which it was.
async fn say_and_hear(begun: Instant) -> io::Result<(tokio::net::TcpStream, Duration)> {
    let mut stream = tokio::net::TcpStream::connect("10.81.1.1:9000").await?;
    let connected = begun.elapsed();
    let mut heard = [0];
    stream.write_all(b"x").await?;
    stream.read_exact(&mut heard).await?;
    if heard == *b"x" { Ok((stream, connected)) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// In which so many are to connect.
const WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_storm_of_connects_from_another_network_is_served_and_nobody_refused() {
    let size = 3 * size();
    let descriptors = size + 200;
    if !needs_two_networks() || !needs(&["bash", "sysctl"]) || !needs_descriptors(descriptors) {
        return;
    }
    let (clients, middle, _servers) = two_networks();
    let raised = |network: &Namespace, program: &str| {
        let mut command = network.command("bash");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors.to_string(), program]);
        command
    };
    let mut command = raised(&middle, binary());
    command.args(["--log-format", "json", "--log", "warn", "--listen", "9000", "--mode", "echo", "-m"]);
    let node = NodeProcess::spawn(command.arg((size + 1).to_string()));
    wait_until("it listens", PATIENCE, || {
        String::from_utf8_lossy(&middle.command("ss").args(["-Hltn"]).output().unwrap().stdout)
            .contains(":9000")
    });
    // With the kernel's own range the last of them would look for a free port for most of the time.
    let wide = ["-qw", "net.ipv4.ip_local_port_range=1024 65535"];
    assert!(clients.command("sysctl").args(wide).status().unwrap().success());
    let this = std::env::current_exe().unwrap();
    let mut command = raised(&clients, this.to_str().unwrap());
    command.args(["--exact", "crowds::storm", "--ignored", "--nocapture"]).env("STORM", size.to_string());
    let out = run(&mut command, &[]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    eprintln!("{}", text.lines().find(|line| line.contains("connects in")).unwrap());
    // A refusal would have been a warning.
    assert_eq!(node.lines(), Vec::<String>::new());
}
