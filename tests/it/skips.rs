//! `bad_frame = "skip"`: what is no message is left out and counted, and what
//! is one arrives, in every mode, from clients and from targets.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use signal_node::event::DropCause;
use signal_node::framing::BadFrame;
use signal_node::{Config, EventBus, Framing, Node, RelayMode};

use crate::support::{
    Controlled, Ending, NodeProcess, PATIENCE, accept_one, accounts, binary, connect, listener, read_all,
    totals, wait_until,
};

fn controlled(mode: &str, framing: &str, more: &[&str]) -> Controlled {
    Controlled::start(&[&["--mode", mode, "--frame", framing, "--bad-frame", "skip"], more].concat())
}

/// A client that is there when this returns, the nth.
fn join(node: &NodeProcess, nth: usize) -> TcpStream {
    let stream = connect(node.address());
    node.nth_event("new_connection", nth);
    stream.set_nodelay(true).unwrap();
    stream
}

fn hears(mut stream: &TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

fn lines(stream: &TcpStream) -> impl Iterator<Item = String> + use<> {
    BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap)
}

/// What was dropped of an object, as the status has it.
fn dropped(controlled: &Controlled, object: &str) -> Value {
    totals(&controlled.status(), object)["dropped"].clone()
}

/// A line with a number, which every tenth time is too long for 64 bytes.
fn numbered(sender: usize, nth: usize) -> (String, bool) {
    let is_bad = nth % 10 == 3;
    let length = if is_bad { 65 + nth % 5_000 } else { nth % 40 };
    (format!("{sender} {nth:06} {}\n", "x".repeat(length)), is_bad)
}

#[test]
fn bad_lines_of_many_are_left_out_and_all_others_arrive_whole_and_in_order() {
    let hub = controlled("hub", "lines", &["--max-frame", "64B", "--threads", "2"]);
    let listens = join(&hub.node, 0);
    let (senders, each) = (4, 3_000);
    let bad: u64 =
        (0..each).map(|nth| numbered(0, nth)).filter(|line| line.1).map(|line| line.0.len() as u64).sum();
    thread::scope(|scope| {
        for sender in 0..senders {
            let mut stream = join(&hub.node, sender + 1);
            scope.spawn(move || {
                let all: String = (0..each).map(|nth| numbered(sender, nth).0).collect();
                for piece in all.as_bytes().chunks(997) {
                    stream.write_all(piece).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&stream).1, Ending::Fin);
            });
        }
        let good: Vec<_> = (0..each).filter(|nth| !numbered(0, *nth).1).collect();
        let mut next = vec![good.iter(); senders];
        for line in lines(&listens).take(senders * good.len()) {
            let sender: usize = line.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(format!("{line}\n"), numbered(sender, *next[sender].next().unwrap()).0);
        }
        assert!(next.iter_mut().all(|rest| rest.next().is_none()));
    });
    let expected =
        json!({ "frame_too_long": { "frames": senders * each / 10, "bytes": senders as u64 * bad } });
    assert_eq!(dropped(&hub, "listen1"), expected);
    let page = String::from_utf8(hub.ask(&["status"]).stdout).unwrap();
    assert!(page.contains("frame_too_long") && page.contains(&(senders * each / 10).to_string()), "{page}");
    let (code, log) = hub.node.stop();
    let events: Vec<Value> = log.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ends: Vec<_> = events.iter().filter(|event| event["event"] == "disconnected").collect();
    assert!(code == 0 && ends.len() == senders + 1);
    assert!(ends.iter().all(|end| end["reason"] == "closed" || end["reason"] == "shutdown"), "{ends:?}");
    // The last one of each connection has all of it.
    for end in ends.iter().filter(|end| end["reason"] == "closed") {
        let mut of = events
            .iter()
            .filter(|event| event["event"] == "frames_dropped" && event["connection"] == end["connection"]);
        let last = of.next_back().unwrap();
        assert_eq!((&last["cause"], &last["frames"]), (&json!("frame_too_long"), &json!(each / 10)));
        assert_eq!(last["bytes"], bad);
    }
}

#[test]
fn noise_between_frames_and_those_begun_anew_are_left_out_however_they_are_split() {
    let stream = b"\r\n\x02one\x03\r\n\x02tw\x02two\x03noise\x0212345678\x03\r\n\x02three\x03\r\n";
    let expected = json!({
        "malformed_frame": { "frames": 5, "bytes": 2 + 2 + 3 + 5 + 2 },
        "frame_too_long": { "frames": 1, "bytes": 12 },
    });
    for size in [1, 3, stream.len()] {
        let hub = controlled("hub", "delimited", &["--max-frame", "5B"]);
        let (mut sender, listens) = (join(&hub.node, 0), join(&hub.node, 1));
        for piece in stream.chunks(size) {
            sender.write_all(piece).unwrap();
        }
        hears(&listens, "\x02one\x03\x02two\x03\x02three\x03");
        // It ends in what is left out, which is counted and no half of a message.
        sender.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&sender), (vec![], Ending::Fin));
        assert_eq!(hub.node.client_gone(0)["reason"], "closed");
        assert_eq!(dropped(&hub, "listen1"), expected, "in pieces of {size}");
    }
}

#[test]
fn a_line_without_end_costs_no_memory_and_its_sender_goes_on() {
    let hub = controlled("hub", "lines", &["--max-frame", "1KiB"]);
    let (mut sender, listens) = (join(&hub.node, 0), join(&hub.node, 1));
    let piece = [b'x'; 1 << 16];
    for _ in 0..1_024 {
        sender.write_all(&piece).unwrap();
    }
    sender.write_all(b"\nhello\n").unwrap();
    hears(&listens, "hello\n");
    assert_eq!(
        dropped(&hub, "listen1"),
        json!({ "frame_too_long": { "frames": 1, "bytes": (64 << 20) + 1 } })
    );
    // The next has not ended when its sender has, who is told nothing of it; half a message is another matter.
    sender.write_all(&piece).unwrap();
    sender.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&sender), (vec![], Ending::Fin));
    assert_eq!(hub.node.client_gone(0)["reason"], "closed");
    let expected = json!({ "frames": 2, "bytes": (64 << 20) + 1 + (1 << 16) });
    assert_eq!(dropped(&hub, "listen1")["frame_too_long"], expected);
    let mut half = join(&hub.node, 2);
    half.write_all(b"half").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&half), (vec![], Ending::Reset));
    assert_eq!(hub.node.client_gone(1)["reason"], "truncated_frame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_was_never_in_the_accounts_of_a_collect() {
    let (upstream, target) = listener();
    let mut config = Config::relay(["127.0.0.1:0".parse().unwrap()], [target.to_string().parse().unwrap()]);
    config.relay.get_mut("relay").unwrap().mode = RelayMode::Collect;
    let front = &mut config.listen.get_mut("listen1").unwrap().options.messages;
    (front.framing, front.max_frame, front.bad_frame) = (Some(Framing::LINES), Some(64), BadFrame::Skip);
    let back = &mut config.client.get_mut("connect1").unwrap().options.messages;
    (back.max_frame, back.bad_frame) = (Some(64), BadFrame::Skip);
    let node = Node::bind_with(config, EventBus::new()).await.unwrap();
    let (senders, each) = (5, 1_000);
    let good = senders * each * 9 / 10;
    let address = node.addresses()[0];
    tokio::task::block_in_place(|| {
        let mut server = accept_one(&upstream);
        let clients: Vec<_> = (0..senders).map(|_| connect(address)).collect();
        thread::scope(|scope| {
            for (sender, mut client) in clients.iter().enumerate() {
                scope.spawn(move || {
                    (0..each).for_each(|nth| client.write_all(numbered(sender, nth).0.as_bytes()).unwrap());
                });
            }
            assert_eq!(lines(&server).take(good).count(), good);
        });
        wait_until("all is acknowledged", PATIENCE, || accounts(&node).sent == good as u64);
        assert_eq!((accounts(&node).received, accounts(&node).dropped), (good as u64, 0));
        // The target says too much at once, and goes on; the connection is the same.
        server.write_all(format!("{}\nok\n", "y".repeat(100)).as_bytes()).unwrap();
        clients.iter().for_each(|client| hears(client, "ok\n"));
    });
    let snapshot = node.bus().snapshot();
    let of = |name: &str| snapshot.totals[name].dropped[&DropCause::FrameTooLong];
    assert_eq!(of("listen1").frames, (senders * each / 10) as u64);
    assert_eq!((of("connect1").frames, of("connect1").bytes), (1, 101));
    assert_eq!(snapshot.totals["connect1"].connections, 1);
    assert_eq!(node.shutdown(PATIENCE).await.cut, 0);
}

/// A device that sends CR LF after each frame, and asks what nobody wants to know in between.
#[test]
fn noise_around_an_answer_does_not_cost_the_answer() {
    let (upstream, target) = listener();
    let node = NodeProcess::start(
        ["--listen", "127.0.0.1:0", "--connect", &target.to_string(), "--mode", "collect"]
            .into_iter()
            .chain(["--frame", "delimited", "--bad-frame", "skip", "--reply", "request"])
            .chain(["--request-timeout", "20s"]),
    );
    let mut device = accept_one(&upstream);
    let clients = [join(&node, 0), join(&node, 1)];
    for (nth, mut client) in clients.iter().enumerate() {
        client.write_all(b"\x02ask\x03\r\n").unwrap();
        hears(&device, "\x02ask\x03");
        device.write_all(format!("?\x02is {nth}\x03\r\n").as_bytes()).unwrap();
        hears(client, &format!("\x02is {nth}\x03"));
    }
    let (code, log) = node.stop();
    assert!(code == 0 && !log.iter().any(|line| line.contains("request_failed")), "{log:#?}");
}

#[test]
fn a_target_that_publishes_is_heard_without_its_bad_lines() {
    let (upstream, target) = listener();
    let publish = controlled("publish", "lines", &["--max-frame", "10B", "--connect", &target.to_string()]);
    let mut source = accept_one(&upstream);
    let clients = [join(&publish.node, 0), join(&publish.node, 1)];
    source.write_all(b"one\nmuch too long\ntwo\n").unwrap();
    clients.iter().for_each(|client| hears(client, "one\ntwo\n"));
    let said = publish.node.event("frames_dropped");
    assert_eq!((&said["endpoint"], &said["cause"]), (&json!("connect1"), &json!("frame_too_long")));
    assert_eq!((&said["frames"], &said["bytes"]), (&json!(1), &json!(14)));
    let expected = json!({ "frame_too_long": { "frames": 1, "bytes": 14 } });
    assert_eq!(dropped(&publish, "connect1"), expected);
    // What is dropped for other causes is counted there, too.
    (&clients[0]).write_all(b"hello\n").unwrap();
    let unheard = json!({ "unheard": { "frames": 1, "bytes": 6 } });
    wait_until("nobody has heard it", PATIENCE, || dropped(&publish, "listen1") == unheard);
}

/// A node that runs this config.
fn runs(config: &str) -> (NodeProcess, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    (NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file)), folder)
}

const PLANT: &str = r#"
[listen.plant]
bind = "127.0.0.1:0"
framing = "lines"
max_frame = "10B"
bad_frame = "skip"
"#;

#[test]
fn wires_are_told_of_what_was_left_out_and_get_the_rest() {
    let (node, _folder) = runs(&format!(
        "{PLANT}[[connect]]\nsignal = \"plant.message_received\"\nslot = \"plant.write\"\n\
         [[connect]]\nsignal = \"plant.frames_dropped\"\nslot = \"plant.broadcast\"\n\
         args = {{ data = \"lost {{frames}}\" }}\n"
    ));
    let mut client = join(&node, 0);
    client.write_all(b"one\nmuch too long\ntwo\n").unwrap();
    let mut heard: Vec<_> = lines(&client).take(3).collect();
    // The line about it comes whenever it is told.
    heard.sort();
    assert_eq!(heard, ["lost 1", "one", "two"]);
}

#[test]
fn who_sends_nothing_but_bad_lines_has_sent_no_first_message() {
    let relay = "first_frame_timeout = \"200ms\"\n[relay.room]\nfrom = \"plant\"\nmode = \"hub\"\n";
    let (node, _folder) = runs(&format!("{PLANT}{relay}"));
    let mut client = join(&node, 0);
    client.write_all(b"much too long\nmuch too long again\n").unwrap();
    assert_eq!(read_all(&client), (vec![], Ending::Reset));
    assert_eq!(node.client_gone(0)["reason"], "first_frame_timeout");
    assert_eq!(node.event("frames_dropped")["frames"], 2);
}

#[test]
fn what_begins_as_tls_does_ends_its_sender_all_the_same() {
    for (framing, size) in [("lines", 3), ("delimited", 3), ("delimited", 1)] {
        let hub = controlled("hub", framing, &[]);
        let mut client = join(&hub.node, 0);
        // No more than tells it, since whoever writes to what was reset does not hear that when it reads.
        b"\x16\x03\x01".chunks(size).for_each(|piece| client.write_all(piece).unwrap());
        assert_eq!(read_all(&client), (vec![], Ending::Reset), "{framing}");
        let gone = hub.node.client_gone(0);
        assert_eq!(gone["reason"], "malformed_frame", "{framing} {size}");
        assert!(dropped(&hub, "listen1").is_null());
    }
}

fn room(bad_frame: &str) -> Config {
    let text =
        format!("{}[relay.room]\nfrom = \"plant\"\nmode = \"hub\"\n", PLANT.replace("skip", bad_frame));
    Config::parse(vec![("x.toml".into(), text)]).unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_it_for_those_who_come() {
    let mut node = Node::bind(room("close")).await.unwrap();
    let address: SocketAddr = node.addresses()[0];
    let says = |mut stream: &TcpStream, text: &str| stream.write_all(text.as_bytes()).unwrap();
    let [listens, old] = [connect(address), connect(address)];
    wait_until("they are there", PATIENCE, || node.bus().snapshot().clients() == 2);
    let changes = node.reload(room("skip")).await.unwrap();
    assert_eq!(changes.changed, ["listen.plant.bad_frame"]);
    let new = connect(address);
    wait_until("it is there", PATIENCE, || node.bus().snapshot().clients() == 3);
    says(&new, "much too long\nnew\n");
    hears(&listens, "new\n");
    hears(&old, "new\n");
    says(&old, "old\nmuch too long\n");
    hears(&listens, "old\n");
    assert_eq!(read_all(&old).1, Ending::Reset);
    says(&new, "new again\n");
    hears(&listens, "new again\n");
    drop((listens, new));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[test]
fn where_it_has_no_meaning_the_check_says_what_to_write() {
    let faults = |arguments: &[&str]| {
        let out = crate::support::run(Command::new(binary()).args(arguments), &[]);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    for framing in ["length:4", "fixed:16", "mbap", "raw"] {
        let said =
            faults(&["--listen", "127.0.0.1:0", "--mode", "hub", "--frame", framing, "--bad-frame", "skip"]);
        let expected = format!(
            "error: --bad-frame: {framing} does not tell where the next message begins after a bad one; \
             write close, or the framing lines or delimited\n"
        );
        assert_eq!(said, expected);
    }
    let said = faults(&["--listen", "127.0.0.1:0", "--connect", "127.0.0.1:1", "--bad-frame", "skip"]);
    assert!(said.contains("--bad-frame: mode pair passes bytes on as they come; remove it"), "{said}");
    let said =
        faults(&["--listen", "127.0.0.1:0", "--mode", "hub", "--frame", "lines", "--bad-frame", "drop"]);
    assert_eq!(said, "error: --bad-frame: `drop` is not possible; write close or skip\n");
}
