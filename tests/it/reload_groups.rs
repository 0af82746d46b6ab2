//! Reload of what the members of a group have agreed on: names, answers,
//! what is sent again, and how requests take their turns.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use signal_node::registry::{Accounts, ObjectKind};
use signal_node::{Config, Node};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{Device, Got, MUTE, Master, PATIENCE, abort, accept_one, connect, listener, wait_until};

/// Clients of `front`, collected for `server`, with more lines for the relay.
fn collect(target: SocketAddr, framing: &str, relay: &str) -> Config {
    let text = format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\nframing = \"{framing}\"\n[client.server]\nto = \"{target}\"\n\
         [relay.up]\nfrom = \"front\"\nto = \"server\"\nmode = \"collect\"\n{relay}\n"
    );
    Config::parse(vec![("x.toml".into(), text)]).unwrap().0
}

fn hears(mut stream: &TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

fn says(mut stream: &TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tag_name_and_reply_hold_for_those_who_come_and_for_the_next_connection_to_the_target() {
    let (upstream, target) = listener();
    let broadcast = "tag = \"{name} \"";
    let mut node = Node::bind(collect(target, "lines", broadcast)).await.unwrap();
    let server = accept_one(&upstream);
    let old = connect(node.addresses()[0]);
    let address = old.local_addr().unwrap();
    says(&old, "one\n");
    hears(&server, &format!("{address} one\n"));
    says(&server, "for all\n");
    hears(&old, "for all\n");

    let tagged =
        "reply = \"tagged\"\ntag = \"[{name}] \"\nname = \"^id=([a-z]+)$\"\nname_frame = \"consume\"";
    let changes = node.reload(collect(target, "lines", tagged)).await.unwrap();
    let expected = ["relay.up.reply", "relay.up.tag", "relay.up.name", "relay.up.name_frame"];
    assert_eq!(changes.changed, expected);
    let before = server;
    let server = accept_one(&upstream);
    assert_eq!((&before).read(&mut [0]).unwrap(), 0, "the one before has been let go");
    let new = connect(node.addresses()[0]);
    says(&new, "id=pump\nthree\n");
    hears(&server, "[pump] three\n");
    // Who was there is called as before.
    says(&old, "two\n");
    hears(&server, &format!("{address} two\n"));
    says(&server, &format!("[{address}] to one\n[pump] to the other\n"));
    hears(&old, "to one\n");
    hears(&new, "to the other\n");

    node.reload(collect(target, "lines", broadcast)).await.unwrap();
    let server = accept_one(&upstream);
    says(&server, "[pump] for all again\n");
    hears(&old, "[pump] for all again\n");
    hears(&new, "[pump] for all again\n");
    drop((old, new, server));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

fn accounts(node: &Node) -> Accounts {
    let Some(ObjectKind::Client { accounts: Some(accounts), .. }) =
        node.registry().find("server").map(|found| found.kind)
    else {
        panic!("server has no accounts")
    };
    accounts
}

/// A target that reads nothing, and whose kernel takes little.
fn narrow(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

/// Waits until it has taken what it takes. Yields how many messages are unconfirmed then.
fn unconfirmed(node: &Node) -> u64 {
    let mut looks = Vec::new();
    wait_until("nothing moves any more", PATIENCE, || {
        looks.push(accounts(node));
        let last = &looks[looks.len().saturating_sub(20)..];
        looks.len() > 20 && last.iter().all(|look| *look == last[0] && look.unconfirmed > 0)
    });
    looks.pop().unwrap().unconfirmed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resend_holds_for_what_the_next_connection_is_given() {
    let upstream = narrow("127.0.0.1:0".parse().unwrap());
    let target = upstream.local_addr().unwrap();
    let mut node = Node::bind(collect(target, "lines", "")).await.unwrap();
    let mut client = connect(node.addresses()[0]);
    let lines = 60_000;
    client.write_all(&b"123456789\n".repeat(lines)).unwrap();
    let server = accept_one(&upstream);
    drop(upstream);
    let lost = unconfirmed(&node);
    abort(server);

    node.reload(collect(target, "lines", "resend = true")).await.unwrap();
    let upstream = narrow(target);
    let server = accept_one(&upstream);
    assert!(unconfirmed(&node) > lost);
    abort(server);
    let mut server = accept_one(&upstream);
    SockRef::from(&server).set_recv_buffer_size(1 << 20).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut bytes = vec![0; 1 << 16];
    wait_until("all has arrived", PATIENCE, || {
        while let Ok(1..) = server.read(&mut bytes) {}
        accounts(&node).sent + lost == lines as u64
    });
    assert_eq!(accounts(&node).unconfirmed, lost, "only what was written under the old rule");
    drop((client, server));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_requests_take_their_turns_changes_at_once_and_for_who_is_there() {
    let device = Device::start(listener().0);
    let config = |relay: &str| collect(device.address, "mbap", &format!("reply = \"request\"\n{relay}"));
    let mut node = Node::bind(config("request_timeout = \"1h\"")).await.unwrap();
    let address = node.addresses()[0];
    let (mut mute, mut master) = (Master::new(address, MUTE), Master::new(address, 1));
    mute.ask(7).unwrap();
    wait_until("the mute one has the link", PATIENCE, || device.seen().len() == 1);
    master.ask(1).unwrap();

    // overlap: the one behind it goes at once.
    node.reload(config("request_timeout = \"1h\"\noverlap = 2")).await.unwrap();
    assert!(matches!(master.answer().unwrap().1, Got::Value(_)));
    // request_timeout: the one that waits fails then.
    node.reload(config("request_timeout = \"1s\"\noverlap = 2")).await.unwrap();
    assert_eq!(mute.answer().unwrap().1, Got::Exception(0x0B));
    // pause.
    node.reload(config("request_timeout = \"1h\"\npause = \"400ms\"")).await.unwrap();
    for register in 2..5 {
        assert!(matches!(master.read(register).unwrap(), Got::Value(_)));
    }
    let seen = device.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen[2..].windows(2).all(|two| two[1].2 - two[0].2 >= Duration::from_millis(390)), "{seen:?}");
    assert_eq!(device.accepted().len(), 1, "all that over one connection");
    // delay_after_connect.
    node.reload(config("request_timeout = \"1h\"\ndelay_after_connect = \"400ms\"")).await.unwrap();
    assert!(device.reset());
    wait_until("it is connected again", PATIENCE, || device.accepted().len() == 2);
    assert!(matches!(master.read(6).unwrap(), Got::Value(_)));
    let (accepted, seen) = (device.accepted(), device.seen());
    assert_eq!((accepted.len(), seen.len()), (2, 6));
    assert!(seen[5].2 - accepted[1] >= Duration::from_millis(390), "it was left alone");
    drop((mute, master));
    assert_eq!(node.shutdown(Duration::from_secs(10)).await.cut, 0);
}
