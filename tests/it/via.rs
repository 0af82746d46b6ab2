//! Filters of relays: what goes through `via` and `via_back` in each mode that has messages, what is
//! dropped and counted, who waits, and what stays in order.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{NodeProcess, PATIENCE, binary, connect, listener, read_all, run, wait_until};

/// A node of a config and the script `s.luau` beside it.
struct Filtered {
    folder: TempDir,
    node: NodeProcess,
}

impl Filtered {
    fn start(config: &str, script: &str) -> Self {
        let folder = files(config, script);
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json"]).arg(folder.path().join("node.toml"));
        let node = NodeProcess::spawn(&mut command);
        Self { folder, node }
    }

    fn reload(&self, config: &str) {
        fs::write(self.folder.path().join("node.toml"), config).unwrap();
        let count = || self.node.lines().iter().filter(|line| line.contains("reloaded: ")).count();
        let before = count();
        self.node.signal(Signal::HUP);
        wait_until("it is reloaded", PATIENCE, || count() > before);
    }

    fn dropped(&self, cause: &str) -> Value {
        serde_json::from_str(&self.node.line(&format!("\"cause\":\"{cause}\""))).unwrap()
    }
}

fn files(config: &str, script: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("node.toml"), config).unwrap();
    fs::write(folder.path().join("s.luau"), script).unwrap();
    folder
}

fn check(config: &str, script: &str) -> (i32, String) {
    let folder = files(config, script);
    let out = run(Command::new(binary()).arg("check").arg(folder.path().join("node.toml")), &[]);
    let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    (out.status.code().unwrap(), text.into_owned())
}

/// A listener and a target in mode collect.
fn collect(target: SocketAddr, listen: &str, client: &str, relay: &str) -> String {
    format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\n{listen}\n[client.back]\nto = \"{target}\"\n{client}\n\
         [relay.r]\nfrom = \"front\"\nto = \"back\"\nmode = \"collect\"\n{relay}\n[script.s]\nfile = \"s.luau\"\n"
    )
}

fn hub(relay: &str) -> String {
    format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n[relay.r]\nfrom = \"front\"\nmode = \"hub\"\n{relay}\n"
    )
}

struct Peer {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Peer {
    fn of(stream: TcpStream) -> Self {
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    fn at(node: &NodeProcess) -> Self {
        Self::of(connect(node.address()))
    }

    fn accepted(server: &TcpListener) -> Self {
        Self::of(server.accept().unwrap().0)
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

/// STX, payload, the exclusive or of its bytes, ETX.
fn with_bcc(payload: &[u8]) -> Vec<u8> {
    let bcc = payload.iter().fold(0, |bcc, byte| bcc ^ byte);
    [&[2][..], payload, &[bcc], &[3]].concat()
}

const BCC: &str = "
local function bcc(text)
  local sum = 0
  for i = 1, #text do sum = bit32.bxor(sum, text:byte(i)) end
  return string.char(sum)
end
function verify(conn, frame)
  local payload, sum = frame:sub(1, -2), frame:sub(-1)
  if bcc(payload) == sum then return payload end
  return reply('NAK')
end
function make(conn, line)
  if line == '' then return nil end
  return line .. bcc(line)
end
";

#[test]
fn a_checksum_is_verified_one_way_and_made_the_other() {
    let (host, at) = listener();
    let config = collect(
        at,
        "framing = \"delimited:02,03\"",
        "framing = \"lines\"",
        "via = [\"script.s.verify\", \"trim\"]\nvia_back = [\"script.s.make\"]",
    );
    let node = Filtered::start(&config, BCC);
    let mut host = Peer::accepted(&host);
    let mut scale = connect(node.node.address());
    scale.write_all(&with_bcc(b" 12.5 kg ")).unwrap();
    assert_eq!(host.hear(), "12.5 kg");
    scale.write_all(b"\x0212.5 kgX\x03").unwrap();
    let mut answer = [0; 5];
    scale.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"\x02NAK\x03");
    // The checksum of `hb` is the byte that ends a line.
    for line in ["", "TARES", "hb"] {
        host.say(line);
    }
    for line in ["TARES", "hb"] {
        let mut answer = vec![0; line.len() + 3];
        scale.read_exact(&mut answer).unwrap();
        assert_eq!(answer, with_bcc(line.as_bytes()), "{line}");
    }
    drop((host, scale));
    let event = node.dropped("filtered");
    assert_eq!((&event["endpoint"], &event["frames"]), (&"back".into(), &1.into()));
    node.node.stop();
}

#[test]
fn built_in_filters_work_in_hub_and_publish_and_what_they_drop_is_counted() {
    let node = Filtered::start(
        &hub("via = [\"trim\", { match = \".\" }, { split = \",\" }, { prefix = \"{conn} \" }, \"upper\"]"),
        "",
    );
    let (mut one, mut other) = (Peer::at(&node.node), Peer::at(&node.node));
    node.node.nth_event("new_connection", 1);
    one.say("  ");
    one.say(" a,b ");
    assert_eq!((other.hear(), other.hear()), ("{CONN} A".into(), "{CONN} B".into()));
    other.say("back");
    assert_eq!(one.hear(), "{CONN} BACK");
    one.stream.shutdown(Shutdown::Write).unwrap();
    let event = node.dropped("filtered");
    assert_eq!((&event["frames"], &event["bytes"]), (&1.into(), &2.into()));
    drop((one, other));
    assert_eq!(node.node.stop().0, 0);

    let (wall, at) = listener();
    let config = format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"lines\"\n[client.wall]\nto = \"{at}\"\n[relay.r]\n\
         from = \"front\"\nto = \"wall\"\nmode = \"publish\"\nvia = [{{ template = \"{{conn.name}}: {{data}}\" }}]\n"
    );
    let node = Filtered::start(&config, "");
    let mut wall = Peer::accepted(&wall);
    let mut speaker = Peer::at(&node.node);
    speaker.say("x");
    let heard = wall.hear();
    assert!(heard.starts_with("front#") && heard.ends_with(": x"), "{heard}");
    drop((wall, speaker));
    node.node.stop();
}

/// Each message waits in the script, the first longest: those of one connection do not overtake each other,
/// and those of another do.
#[test]
fn a_filter_that_waits_keeps_its_connection_in_order_and_holds_up_no_other() {
    let script = "function slow(conn, line)\n  local n = tonumber(line:match('%d+'))\n  \
                  if line:find('slow') then sleep((20 - n) / 500) end\n  return line\nend\n";
    let node =
        Filtered::start(&(hub("via = [\"script.s.slow\"]") + "[script.s]\nfile = \"s.luau\"\n"), script);
    let (mut slow, mut fast) = (Peer::at(&node.node), Peer::at(&node.node));
    let mut hears = Peer::at(&node.node);
    node.node.nth_event("new_connection", 2);
    for nth in 0..20 {
        slow.say(&format!("slow {nth}"));
    }
    fast.say("fast 1");
    let heard: Vec<_> = (0..21).map(|_| hears.hear()).collect();
    let slow_ones: Vec<_> = heard.iter().filter(|line| line.starts_with("slow")).cloned().collect();
    assert_eq!(slow_ones, (0..20).map(|nth| format!("slow {nth}")).collect::<Vec<_>>());
    let fast_at = heard.iter().position(|line| line == "fast 1").unwrap();
    assert!(fast_at < 20, "it waited for all others: {heard:?}");
    drop((slow, fast, hears));
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn one_that_finishes_at_once_still_gets_what_a_filter_replies() {
    let script = "function echo(conn, line)\n  sleep(0.02)\n  return reply('had ' .. line)\nend\n";
    let node =
        Filtered::start(&(hub("via = [\"script.s.echo\"]") + "[script.s]\nfile = \"s.luau\"\n"), script);
    for _ in 0..20 {
        let stream = connect(node.node.address());
        (&stream).write_all(b"a\nb\nc\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (bytes, _) = read_all(&stream);
        assert_eq!(String::from_utf8_lossy(&bytes), "had a\nhad b\nhad c\n");
    }
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn accounts_are_exact_through_filters_and_what_was_read_before_a_stop_arrives() {
    let (server, at) = listener();
    let script = "local n = 0\nfunction third(conn, line)\n  n += 1\n  if n % 3 == 0 then return nil end\n  \
                  if n % 3 == 1 then return { line, line } end\n  if n % 300 == 2 then sleep(0.001) end\n  return line\nend\n";
    let config = collect(at, "framing = \"lines\"", "", "via = [\"script.s.third\"]");
    let node = Filtered::start(&config, script);
    let upstream = Peer::accepted(&server);
    let mut client = connect(node.node.address());
    let text = (0..30_000).fold(String::new(), |mut text, nth| {
        writeln!(text, "{nth}").unwrap();
        text
    });
    client.write_all(text.as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let gone = node.node.client_gone(0);
    assert_eq!(gone["received"], text.len());
    node.node.signal(Signal::TERM);
    let (bytes, _) = read_all(&upstream.stream);
    let expected = (0..30_000).fold(String::new(), |mut text, nth| {
        match nth % 3 {
            0 => write!(text, "{nth}\n{nth}\n").unwrap(),
            1 => writeln!(text, "{nth}").unwrap(),
            _ => {}
        }
        text
    });
    assert!(String::from_utf8(bytes).unwrap() == expected, "not all came, or not in order");
    drop((upstream, client));
    let log = node.node.wait().1;
    let dropped = log.iter().filter(|line| line.contains("\"frames_dropped\"")).filter_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        (event["cause"] == "filtered").then(|| event["frames"].as_u64().unwrap())
    });
    assert_eq!(dropped.max(), Some(10_000), "the last tells all");
}

#[test]
fn a_target_that_stalls_holds_back_who_speaks_through_a_filter() {
    let (server, at) = listener();
    let config = collect(at, "framing = \"lines\"", "queue_max = \"64KiB\"", "via = [\"script.s.same\"]");
    let node = Filtered::start(&config, "function same(conn, line)\n  return line\nend\n");
    let _never_read = Peer::accepted(&server);
    holds_back(node);
}

#[test]
fn a_script_that_stalls_holds_back_who_speaks_through_it() {
    let script = "function never(conn, line)\n  sleep(3600)\n  return line\nend\n";
    let node =
        Filtered::start(&(hub("via = [\"script.s.never\"]") + "[script.s]\nfile = \"s.luau\"\n"), script);
    holds_back(node);
}

/// Writes lines of 1,000 bytes until the node takes no more.
fn holds_back(node: Filtered) {
    let mut client = connect(node.node.address());
    client.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let line = [&[b'x'; 1_000][..], b"\n"].concat();
    let mut written = 0;
    while let Ok(count) = client.write(&line[written % line.len()..]) {
        written += count;
        assert!(written < 64 << 20, "it is not held back");
    }
    drop(client);
    node.node.signal(Signal::TERM);
    node.node.signal(Signal::TERM);
    node.node.wait();
}

#[test]
fn requests_and_tagged_answers_go_through_filters_too() {
    let (server, at) = listener();
    let script = "function ask(conn, line)\n  if line == 'local' then return reply('here') end\n  return line:upper()\nend\n\
                  function answer(conn, line)\n  if line == 'WHAT' then return reply('again') end\n  return line:lower()\nend\n";
    let relay = "reply = \"request\"\nvia = [\"script.s.ask\"]\nvia_back = [\"script.s.answer\"]";
    let node = Filtered::start(&collect(at, "framing = \"lines\"", "", relay), script);
    let mut device = Peer::accepted(&server);
    let (mut one, mut other) = (Peer::at(&node.node), Peer::at(&node.node));
    one.say("local");
    assert_eq!(one.hear(), "here");
    one.say("first");
    assert_eq!(device.hear(), "FIRST");
    other.say("second");
    // What a filter has to say to it would be taken for a request.
    device.say("WHAT");
    device.say("ONE");
    assert_eq!(one.hear(), "one");
    assert_eq!(device.hear(), "SECOND");
    device.say("TWO");
    assert_eq!(other.hear(), "two");
    drop((device, one, other));
    node.node.stop();

    let relay = "tag = \"{name}:\"\nname = \"^HELLO (\\\\w+)\"\nname_frame = \"consume\"\nreply = \"tagged\"\n\
                 via = [\"script.s.ask\"]\nvia_back = [\"script.s.answer\"]";
    let node = Filtered::start(&collect(at, "framing = \"lines\"", "", relay), script);
    let mut device = Peer::accepted(&server);
    let mut one = Peer::at(&node.node);
    one.say("hello dev7");
    one.say("reading");
    assert_eq!(device.hear(), "DEV7:READING");
    device.say("DEV7:SET");
    drop(one);
    // What comes back is in small letters before it is told whose it is, and nobody is called so.
    let event = node.dropped("unknown");
    assert_eq!(event["endpoint"], "back");
    assert_eq!(node.node.client_gone(0)["reason"], "closed");
    let mut stranger = Peer::at(&node.node);
    stranger.say("good morning");
    assert_eq!(node.node.client_gone(1)["reason"], "unnamed");
    drop((device, stranger));
    node.node.stop();
}

#[test]
fn a_reload_changes_filters_under_connections_that_stay() {
    let script = "function f(conn, line)\n  conn.data.n = (conn.data.n or 0) + 1\n  return conn.data.n .. ' ' .. line\nend\n";
    let more = "[script.s]\nfile = \"s.luau\"\n";
    let node = Filtered::start(&(hub("via = [\"script.s.f\"]") + more), script);
    let (mut one, mut other) = (Peer::at(&node.node), Peer::at(&node.node));
    node.node.nth_event("new_connection", 1);
    one.say("a");
    one.say("b");
    assert_eq!((other.hear(), other.hear()), ("1 a".into(), "2 b".into()));
    node.reload(&hub("via = [\"upper\"]"));
    one.say("c");
    assert_eq!(other.hear(), "C");
    node.reload(&hub(""));
    one.say("d");
    assert_eq!(other.hear(), "d");
    drop((one, other));
    assert_eq!(node.node.stop().0, 0);
}

#[test]
fn filters_where_there_are_no_messages_are_refused_and_it_is_said_what_to_do() {
    let pair = "[listen.front]\nbind = \"127.0.0.1:0\"\n[client.back]\nto = \"127.0.0.1:9\"\n[relay.r]\nfrom = \"front\"\nto = \"back\"\nvia = [\"trim\"]\n";
    let raw = hub("via = [\"trim\"]").replace("framing = \"lines\"", "framing = \"raw\"");
    for (config, expected) in [
        (
            pair.to_owned(),
            "relay.r.via: mode pair moves bytes and has no messages to filter; write mode = \"collect\"",
        ),
        (pair.replace("via =", "mode = \"bridge\"\nvia ="), "relay.r.via: mode bridge moves bytes"),
        (raw, "relay.r.via: `listen.front` has no messages to filter; give it a framing"),
        (
            hub("via_back = [\"trim\"]"),
            "relay.r.via_back: in mode hub nothing goes back; write the filters in via",
        ),
        (hub("via = [\"tirm\"]"), "did you mean `trim`?"),
        (hub("via = [\"script.s.f\"]"), "there is no `script.s`"),
        (hub("via = [\"script.s.g\"]") + "[script.s]\nfile = \"s.luau\"\n", "`script.s` has no function `g`"),
        (hub("via = [{ template = \"{reason}\" }]"), "carries no `reason`"),
    ] {
        let (code, text) = check(&config, "function f(conn, line) return line end\n");
        assert!(code == 2 && text.contains(expected), "{config}\n{text}");
    }
}
