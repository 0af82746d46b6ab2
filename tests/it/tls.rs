//! TLS beside others' implementations: OpenSSL by its own tools, curl and
//! Python; certificates good and bad in both roles; ends of all kinds.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::support::{
    Ending, NodeProcess, Peer, Plant, abort, accept_one, binary, connect, listener, needs, pattern, read_all,
    root, run,
};

/// A node that listens by TLS as `localhost`, with more options.
pub(super) fn listening(plant: &Plant, options: &[&str]) -> NodeProcess {
    let (cert, key) = (plant.path("localhost.pem"), plant.path("localhost.key"));
    let own = ["--listen", "tls://127.0.0.1:0", "--tls-cert", &cert, "--tls-key", &key];
    NodeProcess::start([&own, options].concat())
}

/// A node that takes those who come to a TLS server, which it believes by our authority.
pub(super) fn dialling(plant: &Plant, target: &str, options: &[&str]) -> NodeProcess {
    let ca = plant.path("ca.pem");
    NodeProcess::start([&["--listen", "127.0.0.1:0", "--connect", target, "--tls-ca", &ca], options].concat())
}

pub(super) fn text(event: &Value, key: &str) -> String {
    event[key].as_str().unwrap_or_default().to_owned()
}

fn stdout(plant: &Plant, node: &NodeProcess, name: &str, identity: &str) -> String {
    String::from_utf8(plant.client(node.address(), name, identity, "talk").stdout).unwrap()
}

#[test]
fn openssl_speaks_1_2_and_1_3_with_a_listener_and_older_is_refused_by_name() {
    if !needs(&["openssl"]) {
        return;
    }
    let plant = Plant::new();
    let node = listening(&plant, &["--connect", "echo:"]);
    let speak = |version: &str| {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-no_ign_eof", version, "-verify_return_error", "-CAfile"]);
        client.arg(plant.file("ca.pem")).args([
            "-cipher",
            "DEFAULT@SECLEVEL=0",
            "-verify_hostname",
            "localhost",
        ]);
        run(client.args(["-connect", &node.address().to_string()]), b"Q\n")
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let out = speak(version);
        assert!(out.status.success(), "{version}: {}", String::from_utf8_lossy(&out.stderr));
    }
    assert!(!speak("-tls1_1").status.success());
    assert_eq!(
        text(&node.event("handshake_failed"), "error"),
        "it speaks only TLS 1.1 or older, which is not safe"
    );
}

#[test]
fn curl_gets_by_tls_what_a_plain_server_has() {
    if !needs(&["curl", "python3"]) {
        return;
    }
    let plant = Plant::new();
    let content = pattern(5, 0, 3_000_000);
    fs::write(plant.file("content"), &content).unwrap();
    let serve = "import http.server, sys\n\
                 class H(http.server.SimpleHTTPRequestHandler):\n def log_message(self, *a): pass\n\
                 s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)\n\
                 print(s.server_port, flush=True)\ns.serve_forever()\n";
    let mut server = Peer::start(Command::new("python3").args(["-c", serve]).current_dir(plant.file("")));
    let node = listening(&plant, &["--connect", &format!("127.0.0.1:{}", server.line())]);
    for version in ["--tls-max 1.2", "--tlsv1.3"] {
        let url = format!("https://localhost:{}/content", node.address().port());
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(plant.file("ca.pem"));
        let out = run(curl.args(version.split(' ')).arg(url), &[]);
        assert!(out.stdout == content, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn clients_are_judged_by_their_certificates_and_the_good_have_a_name() {
    if !needs(&["python3"]) {
        return;
    }
    let (plant, strangers) = (Plant::new(), Plant::new());
    plant.out_of_time("expired", (2001, 1, 1), (2002, 2, 3));
    plant.out_of_time("early", (2090, 1, 1), (2091, 1, 1));
    for name in ["device7.pem", "device7.key"] {
        fs::copy(strangers.file(name), plant.file(&format!("stranger{}", &name[7..]))).unwrap();
    }
    let ca = plant.path("ca.pem");
    let node = listening(&plant, &["--connect", "echo:", "--tls-client-ca", &ca]);
    assert_eq!(stdout(&plant, &node, "localhost", "device7"), "hello TLSv1.3\nclosed\n");
    assert_eq!(text(&node.event("new_connection"), "name"), "device7");
    assert_eq!(text(&node.client_gone(0), "name"), "device7");
    for (nth, (identity, problem)) in [
        ("-", "it showed no certificate, which `client_ca` (`--tls-client-ca`) asks for"),
        (
            "stranger",
            "its certificate is signed by an unknown authority; name that in `client_ca` (`--tls-client-ca`) if it is yours",
        ),
        ("expired", "its certificate has expired on 2002-02-03"),
        ("early", "its certificate is not valid before 2090-01-01; compare the clocks"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(!plant.client(node.address(), "localhost", identity, "talk").status.success());
        assert_eq!(text(&node.nth_event("handshake_failed", nth), "error"), problem);
    }
    let lines = node.stop().1.join("\n");
    assert_eq!(lines.matches("\"new_connection\"").count(), 1, "{lines}");
}

#[test]
fn servers_are_judged_by_their_certificates_and_each_fault_has_its_words() {
    if !needs(&["python3"]) {
        return;
    }
    let (plant, strangers) = (Plant::new(), Plant::new());
    plant.out_of_time("expired", (2001, 1, 1), (2002, 2, 3));
    let good = plant.server("localhost", false);
    let mutual = plant.server("localhost", true);
    let expired = plant.server("expired", false);
    let stranger = strangers.server("localhost", false);
    let authority = plant.server("ca", false);
    let (plain, plain_address) = listener();
    let answers = thread::spawn(move || {
        let mut client = accept_one(&plain);
        let _ = client.write_all(b"SSH-2.0-OpenSSH_9.6\r\n");
        read_all(&client)
    });
    let identity = ["--tls-cert", &plant.path("device7.pem"), "--tls-key", &plant.path("device7.key")];
    let named = ["--tls-server-name", "other.example"];
    for (target, options, problem) in [
        (format!("tls://localhost:{}", good.1), &[][..], None),
        (format!("tls://127.0.0.1:{}", good.1), &[], None),
        (format!("tls://localhost:{}", mutual.1), &identity, None),
        (
            format!("tls://localhost:{}", good.1),
            &named,
            Some(
                "its certificate is for localhost, 127.0.0.1 and not for other.example; dial it by that name, or set `server_name` (`--tls-server-name`)",
            ),
        ),
        (format!("tls://localhost:{}", expired.1), &[], Some("its certificate has expired on 2002-02-03")),
        (
            format!("tls://localhost:{}", stranger.1),
            &[],
            Some(
                "its certificate is signed by an unknown authority; name that in `ca` (`--tls-ca`) if it is yours",
            ),
        ),
        (
            format!("tls://localhost:{}", authority.1),
            &[],
            Some(
                "its certificate is one of an authority; give it one that an authority has signed, as `node cert` does",
            ),
        ),
        (
            format!("tls://{plain_address}"),
            &[],
            Some("it does not speak TLS; remove `tls`, or try another port"),
        ),
    ] {
        let node = dialling(&plant, &target, options);
        let mut client = connect(node.address());
        // Reset already, perhaps, where the target is refused.
        let written = client.write_all(b"hello");
        match problem {
            None => {
                written.unwrap();
                client.read_exact(&mut [0; 5]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&client), (Vec::new(), Ending::Fin), "{target}");
                assert_eq!(node.client_gone(0)["reason"], "closed");
            }
            Some(problem) => {
                assert_eq!(text(&node.event("connect_failed"), "error"), problem);
                assert_eq!(node.client_gone(0)["reason"], "no_target");
            }
        }
    }
    answers.join().unwrap();
    // In 1.3 a server says that it wants a certificate only when the handshake is over for us.
    let node = dialling(&plant, &format!("tls://localhost:{}", mutual.1), &[]);
    let _client = connect(node.address());
    assert_eq!(
        text(&node.event("error_occurred"), "error"),
        "it wants a certificate of ours; set `cert` (`--tls-cert`) and `key` (`--tls-key`)"
    );
}

/// Two nodes, with TLS between them alone: those at the ends speak plain.
fn through_two(plant: &Plant, options: &[&str]) -> (NodeProcess, NodeProcess, std::net::TcpListener) {
    let (upstream, target) = listener();
    let back = listening(plant, &["--connect", &target.to_string()]);
    let front = dialling(plant, &format!("tls://localhost:{}", back.address().port()), options);
    (front, back, upstream)
}

#[test]
fn bulk_crosses_two_nodes_both_ways_at_once_and_is_accounted_for() {
    let plant = Plant::new();
    let (front, back, upstream) = through_two(&plant, &[]);
    let (client, server) = (connect(front.address()), accept_one(&upstream));
    let size = 32u64 << 20;
    thread::scope(|scope| {
        for (seed, sender, receiver) in [(1, &client, &server), (2, &server, &client)] {
            scope.spawn(move || {
                let mut sender = sender;
                for offset in (0..size).step_by(1 << 20) {
                    sender.write_all(&pattern(seed, offset, 1 << 20)).unwrap();
                }
                sender.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let (bytes, ending) = read_all(receiver);
                assert_eq!((bytes.len() as u64, ending), (size, Ending::Fin));
                assert!(bytes == pattern(seed, 0, bytes.len()));
            });
        }
    });
    for node in [front, back] {
        let gone = node.client_gone(0);
        assert_eq!(
            (&gone["received"], &gone["sent"], &gone["unsent"]),
            (&size.into(), &size.into(), &0.into())
        );
        assert_eq!(gone["reason"], "closed");
    }
}

#[test]
fn a_half_close_and_what_is_answered_to_it_cross_two_nodes() {
    let plant = Plant::new();
    let (front, back, upstream) = through_two(&plant, &[]);
    let (mut client, mut server) = (connect(front.address()), accept_one(&upstream));
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), (b"question".to_vec(), Ending::Fin));
    let late = pattern(3, 0, 3 << 20);
    server.write_all(&late).unwrap();
    drop(server);
    let (bytes, ending) = read_all(&client);
    assert_eq!(ending, Ending::Fin);
    assert!(bytes == late);
    assert_eq!(
        (&front.client_gone(0)["reason"], &back.client_gone(0)["reason"]),
        (&"closed".into(), &"closed".into())
    );
}

#[test]
fn an_abort_arrives_as_a_reset_after_what_was_read() {
    let plant = Plant::new();
    let (front, _back, upstream) = through_two(&plant, &[]);
    let (client, mut server) = (connect(front.address()), accept_one(&upstream));
    server.write_all(b"so far").unwrap();
    let mut begin = [0; 6];
    (&client).read_exact(&mut begin).unwrap();
    abort(server);
    assert_eq!((&begin, read_all(&client)), (b"so far", (Vec::new(), Ending::Reset)));
    assert_eq!(front.client_gone(0)["reason"], "partner_lost");
}

#[test]
fn an_end_that_is_not_said_in_tls_is_a_truncation_and_an_abort_for_the_other_side() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let (upstream, target) = listener();
    let node = listening(&plant, &["--connect", &target.to_string()]);
    let address = node.address();
    let ended = thread::spawn(move || {
        let mut server = accept_one(&upstream);
        let mut five = [0; 5];
        server.read_exact(&mut five).unwrap();
        server.write_all(&five).unwrap();
        read_all(&server)
    });
    let out = plant.client(address, "localhost", "-", "truncate");
    assert_eq!(out.stdout, b"hello TLSv1.3\n");
    assert_eq!(ended.join().unwrap(), (Vec::new(), Ending::Reset));
    let gone = node.client_gone(0);
    assert_eq!((&gone["reason"], &gone["received"]), (&"truncated".into(), &5.into()));
    assert!(text(&node.event("error_occurred"), "error").contains("close_notify"));
}

#[test]
fn a_hub_and_a_collector_speak_tls_to_their_members() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let node = listening(&plant, &["--mode", "hub", "--frame", "lines"]);
    let (mut speaks, mut hears) = (plant.stays(node.address(), "hold"), plant.stays(node.address(), "wait"));
    assert!(speaks.line().starts_with("TLSv1.3 "));
    node.nth_event("new_connection", 1);
    // Its own line does not come back, so it waits for one; the other hears it.
    let mut third = plant.stays(node.address(), "hold");
    assert!(third.line().starts_with("TLSv1.3 "));
    node.nth_event("new_connection", 2);
    let asking = thread::spawn(move || speaks.ask("one"));
    assert_eq!(hears.line(), "bytes");
    assert_eq!(third.ask("two"), "one");
    assert_eq!(asking.join().unwrap(), "two");

    let (_server, port) = plant.server("localhost", false);
    let target = format!("tls://localhost:{port}");
    let collector = dialling(&plant, &target, &["--mode", "collect", "--frame", "lines"]);
    let mut client = connect(collector.address());
    collector.event("connected");
    let big = "x".repeat(700_000) + "\n";
    client.write_all(big.as_bytes()).unwrap();
    let mut back = vec![0; big.len()];
    client.read_exact(&mut back).unwrap();
    assert!(back == big.as_bytes());
}

#[test]
fn a_reload_has_new_clients_see_a_new_certificate_and_leaves_the_others() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let file = plant.file("node.toml");
    let config = format!(
        "[listen.front]\nbind = \"127.0.0.1:0\"\ntls = \"own\"\n[tls.own]\ncert = \"{}\"\nkey = \"{}\"\n\
         [relay.r]\nfrom = \"front\"\nmode = \"echo\"\n[node]\nlog_format = \"json\"\n",
        plant.path("localhost.pem"),
        plant.path("localhost.key"),
    );
    fs::write(&file, config).unwrap();
    let node = NodeProcess::spawn(Command::new(binary()).arg("run").arg(&file));
    let mut first = plant.stays(node.address(), "hold");
    let old = first.line();
    for name in ["localhost.pem", "localhost.key"] {
        fs::remove_file(plant.file(name)).unwrap();
    }
    node.signal(rustix::process::Signal::HUP);
    node.line("localhost.pem is not there");
    node.line("the node goes on as it was");
    assert_eq!(plant.stays(node.address(), "hold").line(), old);
    plant.make(&["localhost"]);
    node.signal(rustix::process::Signal::HUP);
    node.line("reloaded: changed tls.own");
    let new = plant.stays(node.address(), "hold").line();
    assert!(new.starts_with("TLSv1.3 ") && new != old, "{new}");
    assert_eq!(first.ask("still here"), "still here");
    node.signal(rustix::process::Signal::HUP);
    node.line("nothing has changed");
}

#[test]
fn what_is_wrong_with_the_files_is_said_before_anything_is_opened() {
    let (plant, strangers) = (Plant::new(), Plant::new());
    let own = |cert: &str, key: &str| {
        ["--tls-cert".to_owned(), plant.path(cert), "--tls-key".into(), plant.path(key)]
    };
    fs::write(plant.file("empty"), "nothing").unwrap();
    for (options, problem) in [
        (own("localhost.pem", "device7.key"), "device7.key is not the key of"),
        (own("empty", "localhost.key"), "empty has no certificate in PEM"),
        (own("localhost.pem", "empty"), "empty has no private key in PEM"),
        (own("none.pem", "localhost.key"), "none.pem is not there"),
        (
            ["--tls-cert".to_owned(), strangers.path("localhost.pem"), "--idle-timeout".into(), "1h".into()],
            "is missing beside `cert`",
        ),
    ] {
        let mut node = Command::new(binary());
        let out = run(node.args(["--listen", "tls://127.0.0.1:0", "--connect", "echo:"]).args(&options), &[]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && stderr.contains(problem), "{options:?}: {stderr}");
        assert!(stderr.starts_with("error: --tls-"), "{stderr}");
    }
}

#[test]
fn the_shipped_config_speaks_tls_to_both_sides() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    let (_office, port) = plant.server("localhost", true);
    let mut command = Command::new(binary());
    command.args(["run", "--log-format", "json"]).arg(root().join("config/tls.toml"));
    command.env("LISTEN", "127.0.0.1:0").env("OFFICE", format!("localhost:{port}"));
    let node = NodeProcess::spawn(command.env("CERTIFICATES", plant.file("")));
    assert_eq!(stdout(&plant, &node, "localhost", "device7"), "hello TLSv1.3\nclosed\n");
    assert_eq!(text(&node.event("new_connection"), "name"), "device7");
}

#[test]
fn openssl_believes_what_node_cert_makes_and_keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    if !needs(&["openssl"]) {
        return;
    }
    let plant = Plant::new();
    for (name, purpose) in [("localhost", "sslserver"), ("device7", "sslclient")] {
        let mut verify = Command::new("openssl");
        verify.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(plant.file("ca.pem"));
        let out = run(verify.arg(plant.file(&format!("{name}.pem"))), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    for key in ["ca.key", "localhost.key"] {
        assert_eq!(fs::metadata(plant.file(key)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = run(Command::new(binary()).arg("cert").arg(plant.file("")).arg("device7"), &[]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    let wrong = run(Command::new(binary()).arg("cert").arg(plant.file("")).arg("../x"), &[]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn an_address_given_to_the_wrong_place_says_where_tls_belongs() {
    let error = "tls://host:1".parse::<signal_node::Address>().unwrap_err().to_string();
    assert!(error.contains("[tls.ID]"), "{error}");
}

#[test]
fn a_bridge_waits_for_what_is_said_in_tls_and_loses_none_of_it() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    // After its handshake a server sends tickets, by which it says nothing.
    let (server, port) = plant.server("localhost", false);
    let (second, to_second) = listener();
    let (first, to_second) = (format!("tls://localhost:{port}"), to_second.to_string());
    let node = NodeProcess::start([
        "--mode",
        "bridge",
        "--connect",
        &first,
        "--connect",
        &to_second,
        "--tls-ca",
        &plant.path("ca.pem"),
    ]);
    node.event("connected");
    drop(server);
    let gone = node.event("disconnected");
    assert_eq!(gone["endpoint"], "connect1", "{gone}");
    second.set_nonblocking(true).unwrap();
    assert!(second.accept().is_err(), "the second was dialled for nothing");

    let node = listening(&plant, &["--mode", "bridge", "--listen", "127.0.0.1:0"]);
    let mut caller = plant.stays(node.address(), "hold");
    assert!(caller.line().starts_with("TLSv1.3 "));
    node.event("new_connection");
    let asking = thread::spawn(move || caller.ask("while it waits"));
    let mut other = connect(node.address_of(1));
    let mut heard = [0; 15];
    other.read_exact(&mut heard).unwrap();
    assert_eq!(heard.escape_ascii().to_string(), r"while it waits\n");
    other.write_all(b"heard\n").unwrap();
    assert_eq!(asking.join().unwrap(), "heard");
}
