//! Proxies before us and behind us: PROXY headers to and from nginx and
//! HAProxy, byte by byte; and connections made by SOCKS5 and HTTP proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::support::{
    Ending, NodeProcess, Peer, Plant, Running, accept_one, binary, connect, has, hold_free_port, listener,
    needs, read_all, run, wait_until,
};

fn quiet(command: &mut Command) -> Running {
    Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

fn until_it_listens(port: u16) {
    wait_until("the program listens", Duration::from_secs(20), || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}

/// A node that echoes to those whom proxies of `network` announce.
fn announced(network: &str, options: &[&str]) -> NodeProcess {
    let own = ["--listen", "127.0.0.1:0", "--connect", "echo:", "--accept-proxy", network];
    NodeProcess::start([&own, options].concat())
}

#[test]
fn a_target_is_told_byte_by_byte_which_client_it_is_for() {
    for version in ["v1", "v2"] {
        let (upstream, target) = listener();
        let target = target.to_string();
        let node =
            NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target, "--send-proxy", version]);
        let mut client = connect(node.address());
        let mut server = accept_one(&upstream);
        client.write_all(b"first").unwrap();
        let (from, to) = (client.local_addr().unwrap(), node.address());
        let expected = match version {
            "v1" => format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), to.port()).into_bytes(),
            _ => [
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".as_slice(),
                &from.port().to_be_bytes(),
                &to.port().to_be_bytes(),
            ]
            .concat(),
        };
        let mut header = vec![0; expected.len()];
        server.read_exact(&mut header).unwrap();
        assert_eq!(header.escape_ascii().to_string(), expected.escape_ascii().to_string());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&server), (b"first".to_vec(), Ending::Fin));
        drop(server);
        // The header is not the client's, and is not counted.
        assert_eq!(node.client_gone(0)["received"], 5);
    }
}

#[test]
fn nginx_and_haproxy_learn_the_client_from_us() {
    if !needs(&["nginx", "haproxy", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), readable).unwrap();
    let path = folder.path().display();
    let (nginx_port, haproxy_port) = (hold_free_port().1.port(), hold_free_port().1.port());
    let nginx = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\nevents {{ }}\n\
         http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p; \
         fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
         server {{ listen 127.0.0.1:{nginx_port} proxy_protocol; \
         location / {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }} }} }}\n"
    );
    let haproxy = format!(
        "defaults\n mode http\n timeout client 9s\n timeout connect 9s\n timeout server 9s\nfrontend f\n \
         bind 127.0.0.1:{haproxy_port} accept-proxy\n \
         http-request return status 200 content-type text/plain lf-string %[src]:%[src_port]\n"
    );
    fs::write(folder.path().join("nginx.conf"), nginx).unwrap();
    fs::write(folder.path().join("haproxy.cfg"), haproxy).unwrap();
    let _nginx = quiet(Command::new(has("nginx").unwrap()).arg("-c").arg(folder.path().join("nginx.conf")));
    let _haproxy =
        quiet(Command::new(has("haproxy").unwrap()).arg("-f").arg(folder.path().join("haproxy.cfg")));
    for port in [nginx_port, haproxy_port] {
        until_it_listens(port);
        for version in ["v1", "v2"] {
            let target = format!("127.0.0.1:{port}");
            let node = NodeProcess::start([
                "--listen",
                "127.0.0.1:0",
                "--connect",
                &target,
                "--send-proxy",
                version,
            ]);
            let mut curl = Command::new("curl");
            curl.args(["--silent", "--max-time", "20", "--write-out", " %{local_ip}:%{local_port}"]);
            let out = run(curl.arg(format!("http://{}/", node.address())), &[]);
            let text = String::from_utf8(out.stdout).unwrap();
            let (seen, own) = text.split_once(' ').unwrap_or_default();
            assert!(!own.is_empty() && seen == own, "{version} to {port}: {text}");
        }
    }
}

#[test]
fn we_learn_the_client_from_nginx_and_haproxy() {
    if !needs(&["nginx", "haproxy"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let node = announced("127.0.0.0/8", &[]);
    let address = node.address();
    let ports: [u16; 3] = std::array::from_fn(|_| hold_free_port().1.port());
    let nginx = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\nevents {{ }}\n\
         stream {{ server {{ listen 127.0.0.1:{}; proxy_pass {address}; proxy_protocol on; }} }}\n",
        ports[0]
    );
    // It sends version 1 alone, before 1.31.4. Debian has the module for streams in a file of its own.
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let nginx = if fs::exists(module).unwrap() { format!("load_module {module};\n{nginx}") } else { nginx };
    let haproxy = format!(
        "defaults\n mode tcp\n timeout client 9s\n timeout connect 9s\n timeout server 9s\n\
         listen one\n bind 127.0.0.1:{}\n server s {address} send-proxy\n\
         listen two\n bind 127.0.0.1:{}\n server s {address} send-proxy-v2 proxy-v2-options crc32c,unique-id\n",
        ports[1], ports[2]
    );
    fs::write(folder.path().join("nginx.conf"), nginx).unwrap();
    fs::write(folder.path().join("haproxy.cfg"), haproxy).unwrap();
    let _nginx = quiet(Command::new(has("nginx").unwrap()).arg("-c").arg(folder.path().join("nginx.conf")));
    let _haproxy =
        quiet(Command::new(has("haproxy").unwrap()).arg("-f").arg(folder.path().join("haproxy.cfg")));
    for port in ports {
        if port == ports[0]
            && !run(Command::new("nginx").arg("-V"), &[]).stderr.windows(13).any(|w| w == b"--with-stream")
        {
            continue;
        }
        until_it_listens(port);
        let mut client = connect(SocketAddr::from(([127, 0, 0, 1], port)));
        client.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello", "{port}");
        let own = client.local_addr().unwrap().to_string();
        let line = node.line(&format!("\"peer\":\"{own}\""));
        assert!(line.contains("new_connection") && line.contains("\"via\":\"127.0.0.1:"), "{line}");
    }
}

#[test]
fn a_header_is_believed_from_trusted_networks_alone_and_lists_judge_whom_it_announces() {
    let node = announced("10.0.0.0/8", &[]);
    let mut forger = connect(node.address());
    // It is reset for its address, before it has said anything perhaps.
    let _ = forger.write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nhello");
    let (bytes, ending) = read_all(&forger);
    assert!(bytes.is_empty() && ending != Ending::Open);
    let failed = node.event("handshake_failed");
    assert!(failed["error"].as_str().unwrap().contains("`trusted`"), "{failed}");
    assert_eq!(
        failed["peer"],
        forger.local_addr().map_or_else(|_| failed["peer"].clone(), |own| own.to_string().into())
    );

    let node = announced("127.0.0.1", &["--allow", "192.0.2.0/24", "--deny", "192.0.2.9"]);
    for (source, may) in [("192.0.2.1", true), ("192.0.2.9", false), ("127.0.0.1", false)] {
        let mut client = connect(node.address());
        client.write_all(format!("PROXY TCP4 {source} 198.51.100.1 7 8\r\nhello").as_bytes()).unwrap();
        // Who is refused may be reset by now.
        let finished = client.shutdown(Shutdown::Write);
        assert!(finished.is_ok() || !may, "{source}");
        let expected = if may { (b"hello".to_vec(), Ending::Fin) } else { (Vec::new(), Ending::Reset) };
        assert_eq!(read_all(&client), expected, "{source}");
    }
    let came = node.event("new_connection");
    assert_eq!((&came["peer"], &came["local"]), (&"192.0.2.1:7".into(), &"198.51.100.1:8".into()));
    assert!(came["via"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(node.nth_event("accept_rejected", 0)["peer"], "192.0.2.9:7");
    assert_eq!(node.nth_event("accept_rejected", 1)["peer"], "127.0.0.1:7");
}

#[test]
fn a_header_may_come_slowly_but_within_three_seconds_and_nothing_else_may_come_first() {
    let node = announced("127.0.0.1", &[]);
    let silent = connect(node.address());
    let mut slow = connect(node.address());
    for byte in b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" {
        slow.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    // A second header is the client's own bytes.
    slow.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    slow.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&slow), (b"PROXY UNKNOWN\r\n".to_vec(), Ending::Fin));
    let mut stranger = connect(node.address());
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let (bytes, ending) = read_all(&stranger);
    assert!(bytes.is_empty() && ending != Ending::Open);
    let error = node.event("handshake_failed")["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "it sent no PROXY header, which this listener waits for");
    assert!(read_all(&silent).1 != Ending::Open);
    let error = node.nth_event("handshake_failed", 1)["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "its PROXY header was not there within 3s");
}

#[test]
fn a_client_is_announced_through_a_chain_and_before_tls() {
    let plant = Plant::new();
    let (upstream, target) = listener();
    let (cert, key, ca) = (plant.path("localhost.pem"), plant.path("localhost.key"), plant.path("ca.pem"));
    let back = NodeProcess::start([
        "--listen",
        "tls://127.0.0.1:0",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--accept-proxy",
        "127.0.0.1",
        "--connect",
        &target.to_string(),
        "--send-proxy",
        "v1",
    ]);
    let middle = format!("tls://localhost:{}", back.address().port());
    let front = NodeProcess::start([
        "--listen",
        "127.0.0.1:0",
        "--connect",
        &middle,
        "--tls-ca",
        &ca,
        "--send-proxy",
        "v2",
    ]);
    let mut client = connect(front.address());
    let own = client.local_addr().unwrap();
    let server = accept_one(&upstream);
    client.write_all(b"x").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nx", own.port(), front.address().port());
    assert_eq!(read_all(&server), (header.into_bytes(), Ending::Fin));
    drop(server);
    assert_eq!(back.event("new_connection")["peer"], own.to_string());
}

/// A proxy in Python.
pub(super) fn proxy(kind: &str, login: (&str, &str), refuse: &str) -> (Peer, u16) {
    let mut command = Command::new("python3");
    command.arg("-c").arg(include_str!("support/proxies.py")).args([kind, login.0, login.1, refuse]);
    let mut peer = Peer::start(&mut command);
    let port = peer.line().parse().unwrap();
    (peer, port)
}

#[test]
fn socks5_and_http_proxies_connect_us_by_names_that_only_they_know() {
    if !needs(&["python3"]) {
        return;
    }
    for kind in ["socks5", "http"] {
        for (login, written) in [(("-", "-"), ""), (("a@b", "s3cret"), "a%40b:s3cret@")] {
            let (upstream, target) = listener();
            let (mut peer, port) = proxy(kind, login, "-");
            let connects = format!("only.proxy.knows:{}", target.port());
            let url = format!("{kind}://{written}127.0.0.1:{port}");
            let node = NodeProcess::start([
                "-v",
                "--listen",
                "127.0.0.1:0",
                "--connect",
                &connects,
                "--proxy",
                &url,
            ]);
            let client = connect(node.address());
            let mut server = accept_one(&upstream);
            // The first word of the target comes right behind the answer of the proxy.
            server.write_all(b"welcome").unwrap();
            assert_eq!(peer.line(), format!("asked only.proxy.knows {}", target.port()));
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&server), (Vec::new(), Ending::Fin));
            drop(server);
            assert_eq!(read_all(&client), (b"welcome".to_vec(), Ending::Fin), "{kind}");
            assert_eq!(node.event("connected")["peer"], format!("127.0.0.1:{port}"));
            let lines = node.stop().1.join("\n");
            assert!(!lines.contains("s3cret"), "{lines}");
        }
    }
}

#[test]
fn what_a_proxy_refuses_is_said_with_its_reason_and_without_the_password() {
    if !needs(&["python3"]) {
        return;
    }
    for (kind, login, refuse, written, problem) in [
        ("socks5", ("u", "right"), "-", "u:wrong@", "it does not accept this user and password"),
        ("socks5", ("u", "right"), "-", "", "it wants a user and a password"),
        ("socks5", ("-", "-"), "5", "", "the target refused the connection"),
        ("http", ("u", "right"), "-", "u:wrong@", "it does not accept this user and password"),
        ("http", ("u", "right"), "-", "", "it wants a user and a password"),
        ("http", ("-", "-"), "502 Bad Gateway", "", "it answered 502 Bad Gateway"),
        ("http", ("-", "-"), "-", "", "it does not speak HTTP"),
        ("socks5", ("-", "-"), "-", "", "it does not speak SOCKS5"),
    ] {
        let speaks = match problem {
            "it does not speak HTTP" => "socks5",
            "it does not speak SOCKS5" => "http",
            _ => kind,
        };
        let (_peer, port) = proxy(speaks, login, refuse);
        let url = format!("{kind}://{written}127.0.0.1:{port}");
        let node = NodeProcess::start([
            "--listen",
            "127.0.0.1:0",
            "--connect",
            "127.0.0.1:9",
            "--proxy",
            &url,
            "--connect-timeout",
            "2s",
        ]);
        let _client = connect(node.address());
        let error = node.event("connect_failed")["error"].as_str().unwrap().to_owned();
        let is_said = error.contains(problem) || speaks != kind && error.starts_with("the proxy ");
        assert!(is_said && !error.contains("wrong"), "{kind} {problem}: {error}");
    }
}

#[test]
fn tinyproxy_connects_us_with_a_password_and_what_it_refuses_is_said() {
    if !needs(&["tinyproxy"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tinyproxy.conf");
    let (upstream, target) = listener();
    let port = hold_free_port().1.port();
    let config = format!(
        "Port {port}\nListen 127.0.0.1\nTimeout 20\nBasicAuth ann s3cret\nConnectPort {}\n",
        target.port()
    );
    fs::write(&file, config).unwrap();
    let _tinyproxy = quiet(Command::new(has("tinyproxy").unwrap()).args(["-d", "-c"]).arg(&file));
    until_it_listens(port);
    let through = |login: &str, target: &str| {
        let url = format!("http://{login}127.0.0.1:{port}");
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", target, "--proxy", &url])
    };
    let node = through("ann:s3cret@", &format!("localhost:{}", target.port()));
    let mut client = connect(node.address());
    client.write_all(b"through").unwrap();
    let mut server = accept_one(&upstream);
    let mut word = [0; 7];
    server.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"through");
    server.write_all(b"and back").unwrap();
    drop(server);
    assert_eq!(read_all(&client), (b"and back".to_vec(), Ending::Fin));
    assert_eq!(node.event("connected")["peer"], format!("127.0.0.1:{port}"));
    let allowed = target.to_string();
    for (login, target, problem) in [
        ("ann:wrong@", allowed.as_str(), "it does not accept this user and password"),
        ("", &allowed, "it wants a user and a password"),
        ("ann:s3cret@", "127.0.0.1:9", "it answered 403 "),
    ] {
        let node = through(login, target);
        let client = connect(node.address());
        let failed = node.event("connect_failed");
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains(problem) && !error.contains("s3cret"), "{failed}");
        assert_eq!(read_all(&client).1, Ending::Reset);
    }
}

#[test]
fn ssh_connects_us_through_its_tunnel() {
    if !needs(&["sshd", "ssh", "ssh-keygen"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for key in ["host", "user"] {
        let mut make = Command::new("ssh-keygen");
        assert!(run(make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(key)), &[]).status.success());
    }
    let (port, tunnel) = (hold_free_port().1.port(), hold_free_port().1.port());
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nPidFile none\n",
        file("host").display(),
        file("user.pub").display()
    );
    fs::write(file("sshd_config"), config).unwrap();
    let _ = fs::create_dir_all("/run/sshd");
    let _sshd = quiet(Command::new(has("sshd").unwrap()).args(["-D", "-e", "-f"]).arg(file("sshd_config")));
    until_it_listens(port);
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-N"]);
    ssh.args(["-o", "BatchMode=yes", "-p", &port.to_string(), "-D", &format!("127.0.0.1:{tunnel}"), "-i"]);
    let _ssh = quiet(ssh.arg(file("user")).arg("127.0.0.1"));
    until_it_listens(tunnel);
    let (upstream, target) = listener();
    let url = format!("socks5://127.0.0.1:{tunnel}");
    let node =
        NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string(), "--proxy", &url]);
    let mut client = connect(node.address());
    client.write_all(b"through").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut server = accept_one(&upstream);
    assert_eq!(read_all(&server), (b"through".to_vec(), Ending::Fin));
    server.write_all(b"and back").unwrap();
    drop(server);
    assert_eq!(read_all(&client), (b"and back".to_vec(), Ending::Fin));
}

#[test]
fn a_password_is_never_shown_and_what_is_shown_in_its_place_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let config = "[listen.a]\nbind = \"127.0.0.1:0\"\n[client.b]\nto = \"host:1\"\nproxy = \"socks5://u:${SECRET}@p:1\"\n\
                  [relay.r]\nfrom = \"a\"\nto = \"b\"\n";
    fs::write(&file, config).unwrap();
    let check = |options: &[&str]| {
        run(Command::new(binary()).arg("check").args(options).arg(&file).env("SECRET", "s3cret"), &[])
    };
    let shown = String::from_utf8(check(&["--show"]).stdout).unwrap();
    assert!(shown.contains("proxy = \"socks5://u:***@p:1\"") && !shown.contains("s3cret"), "{shown}");
    fs::write(&file, &shown).unwrap();
    let again = String::from_utf8(check(&[]).stderr).unwrap();
    assert!(again.contains("*** stands for a password"), "{again}");
}

#[test]
fn a_collector_names_its_clients_as_they_are_announced() {
    let (upstream, target) = listener();
    let target = target.to_string();
    let mode = ["--mode", "collect", "--frame", "lines", "--tag", "{name} "];
    let ends = ["--listen", "127.0.0.1:0", "--connect", &target, "--accept-proxy", "127.0.0.1"];
    let node = NodeProcess::start([&ends[..], &mode].concat());
    let mut server = accept_one(&upstream);
    let mut client = connect(node.address());
    client.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\nhello\n").unwrap();
    let mut line = [0; 21];
    server.read_exact(&mut line).unwrap();
    assert_eq!(line.escape_ascii().to_string(), r"192.0.2.7:1234 hello\n");
}
