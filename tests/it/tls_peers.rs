//! TLS to servers that are not ours, and what stands around it: the
//! authorities of the machine, proxies on the way, and reloads.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::Command;

use super::proxies::proxy;
use super::tls::{dialling, listening, text};
use crate::support::{Ending, NodeProcess, Peer, Plant, binary, connect, needs, read_all};

/// OpenSSL's own server, which answers each line backwards.
fn reversing(plant: &Plant, options: &[&str]) -> (Peer, String) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-rev", "-accept", "127.0.0.1:0", "-cert"]).arg(plant.file("localhost.pem"));
    let mut server = Peer::start(command.arg("-key").arg(plant.file("localhost.key")).args(options));
    let port = (0..9).find_map(|_| server.line().strip_prefix("ACCEPT 127.0.0.1:").map(ToOwned::to_owned));
    let port = port.expect("it says where it listens");
    (server, format!("tls://localhost:{port}"))
}

/// Has a line turned round, and the server end the conversation.
fn converse(address: SocketAddr) {
    let mut client = connect(address);
    client.write_all(b"hello\n").unwrap();
    let mut back = [0; 6];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"olleh\n");
    client.write_all(b"CLOSE\n").unwrap();
    assert_eq!(read_all(&client), (Vec::new(), Ending::Fin));
}

#[test]
fn openssl_s_servers_of_1_2_and_1_3_are_spoken_to_with_a_certificate_and_without() {
    if !needs(&["openssl"]) {
        return;
    }
    let plant = Plant::new();
    let (ca, cert, key) = (plant.path("ca.pem"), plant.path("device7.pem"), plant.path("device7.key"));
    let wants = ["-Verify", "1", "-verify_return_error", "-CAfile", &ca];
    for version in ["-tls1_2", "-tls1_3"] {
        let (_open, target) = reversing(&plant, &[version]);
        let node = dialling(&plant, &target, &[]);
        converse(node.address());
        assert_eq!(node.client_gone(0)["reason"], "closed");

        let (_strict, target) = reversing(&plant, &[&[version], &wants[..]].concat());
        let node = dialling(&plant, &target, &["--tls-cert", &cert, "--tls-key", &key]);
        converse(node.address());
        assert_eq!(node.client_gone(0)["reason"], "closed");
    }
    let (_strict, target) = reversing(&plant, &[&["-tls1_2"], &wants[..]].concat());
    let node = dialling(&plant, &target, &[]);
    let client = connect(node.address());
    assert_eq!(read_all(&client), (Vec::new(), Ending::Reset));
    assert_eq!(
        text(&node.event("connect_failed"), "error"),
        "it refused the TLS handshake; it may want a certificate of ours: set `cert` (`--tls-cert`) and `key` (`--tls-key`)"
    );
    let (_old, target) = reversing(&plant, &["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]);
    let node = dialling(&plant, &target, &[]);
    let client = connect(node.address());
    assert_eq!(read_all(&client), (Vec::new(), Ending::Reset));
    assert_eq!(text(&node.event("connect_failed"), "error"), "it speaks no version of TLS that we do");
}

#[test]
fn without_a_file_the_authorities_of_the_machine_are_believed() {
    if !needs(&["python3"]) {
        return;
    }
    let (plant, strangers) = (Plant::new(), Plant::new());
    let (_server, port) = plant.server("localhost", false);
    let target = format!("tls://localhost:{port}");
    let believing = |file: String| {
        let mut command = Command::new(binary());
        command.args(["--log-format", "json", "--listen", "127.0.0.1:0", "--connect", &target]);
        command.env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR");
        NodeProcess::spawn(&mut command)
    };
    let node = believing(plant.path("ca.pem"));
    let mut client = connect(node.address());
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let node = believing(strangers.path("ca.pem"));
    let _client = connect(node.address());
    assert_eq!(
        text(&node.event("connect_failed"), "error"),
        "its certificate is signed by an unknown authority; name that in `ca` (`--tls-ca`) if it is yours"
    );
    let (code, lines) = believing(plant.path("none.pem")).wait();
    assert_eq!(code, 2);
    assert!(lines.join("\n").contains("has no list of authorities"), "{lines:?}");
}

#[test]
fn a_server_that_vanishes_without_its_end_in_tls_is_a_truncation_and_is_dialled_again() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let (server, port) = plant.server("localhost", false);
    let target = format!("tls://localhost:{port}");
    let pairs = dialling(&plant, &target, &[]);
    let mut client = connect(pairs.address());
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    let collector = dialling(&plant, &target, &["--mode", "collect", "--frame", "lines"]);
    // A server that has read nothing since the handshake would be reset by its end.
    let mut member = connect(collector.address());
    member.write_all(b"hello\n").unwrap();
    member.read_exact(&mut [0; 6]).unwrap();
    drop(server);
    assert_eq!(read_all(&client), (Vec::new(), Ending::Reset));
    for node in [&pairs, &collector] {
        let gone = node.event("disconnected");
        assert_eq!((&gone["endpoint"], &gone["reason"]), (&"connect1".into(), &"truncated".into()), "{gone}");
    }
    collector.event("reconnecting");
}

#[test]
fn a_reload_turns_tls_on_for_later_clients_and_leaves_those_without() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let file = plant.file("node.toml");
    let plain = "[listen.front]\nbind = \"127.0.0.1:0\"\n[relay.r]\nfrom = \"front\"\nmode = \"echo\"\n";
    fs::write(&file, plain).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    let mut first = connect(node.address());
    first.write_all(b"one").unwrap();
    first.read_exact(&mut [0; 3]).unwrap();
    let with_tls = plain.replace("[relay.r]", "tls = \"own\"\n[relay.r]");
    let (cert, key) = (plant.path("localhost.pem"), plant.path("localhost.key"));
    fs::write(&file, format!("{with_tls}[tls.own]\ncert = \"{cert}\"\nkey = \"{key}\"\n")).unwrap();
    node.signal(rustix::process::Signal::HUP);
    let line = node.line("reloaded");
    assert!(line.contains("listen.front.tls"), "{line}");
    let out = plant.client(node.address(), "localhost", "-", "talk");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "hello TLSv1.3\nclosed\n");
    first.write_all(b"two").unwrap();
    first.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&first), (b"two".to_vec(), Ending::Fin));
}

#[test]
fn a_reload_has_later_dials_believe_another_authority() {
    if !needs(&["python3"]) {
        return;
    }
    let (plant, others) = (Plant::new(), Plant::new());
    let (_server, port) = plant.server("localhost", false);
    fs::copy(others.file("ca.pem"), plant.file("believed.pem")).unwrap();
    let file = plant.file("node.toml");
    let config = format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\n[client.back]\nto = \"localhost:{port}\"\ntls = \"them\"\n\
         [relay.r]\nfrom = \"front\"\nto = \"back\"\n[tls.them]\nca = \"{}\"\n",
        plant.path("believed.pem")
    );
    fs::write(&file, config).unwrap();
    let mut command = Command::new(binary());
    let node = NodeProcess::spawn(command.args(["run", "--log-format", "json"]).arg(&file));
    assert_eq!(read_all(&connect(node.address())), (Vec::new(), Ending::Reset));
    assert!(text(&node.event("connect_failed"), "error").contains("unknown authority"));
    fs::copy(plant.file("ca.pem"), plant.file("believed.pem")).unwrap();
    node.signal(rustix::process::Signal::HUP);
    node.line("reloaded: changed tls.them");
    let mut client = connect(node.address());
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn the_proxy_on_the_way_the_header_and_tls_come_in_this_order() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    for kind in ["socks5", "http"] {
        let back = listening(&plant, &["--connect", "echo:", "--accept-proxy", "127.0.0.1"]);
        let (mut asked, port) = proxy(kind, ("-", "-"), "-");
        let target = format!("tls://localhost:{}", back.address().port());
        let way = format!("{kind}://127.0.0.1:{port}");
        let front = dialling(&plant, &target, &["--proxy", &way, "--send-proxy", "v2"]);
        let mut client = connect(front.address());
        let own = client.local_addr().unwrap();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&client), (b"hello".to_vec(), Ending::Fin), "{kind}");
        assert_eq!(asked.line(), format!("asked localhost {}", back.address().port()));
        let came = back.event("new_connection");
        assert_eq!(came["peer"], own.to_string());
        assert_ne!(came["via"], own.to_string());
    }
}

#[test]
fn a_check_of_a_target_is_a_whole_handshake_with_a_proper_end() {
    let plant = Plant::new();
    let back = listening(&plant, &["--connect", "echo:"]);
    let file = plant.file("node.toml");
    // Only where there are several is any checked.
    let target = format!("to = \"localhost:{}\"\ntls = \"them\"\n", back.address().port());
    let config = format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\n[client.one]\n{target}[client.two]\n{target}[relay.r]\n\
         from = \"front\"\nto = [\"one\", \"two\"]\ncheck = \"100ms\"\n[tls.them]\nca = \"{}\"\n",
        plant.path("ca.pem")
    );
    fs::write(&file, config).unwrap();
    let _front = NodeProcess::spawn(Command::new(binary()).args(["run", "--log-format", "json"]).arg(&file));
    for nth in 0..3 {
        let gone = back.nth_event("disconnected", nth);
        assert_eq!(gone["reason"], "closed", "{gone}");
    }
}
