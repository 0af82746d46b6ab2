//! Real programs through the relay: HTTP, Redis, iperf3, ssh, socat, and the
//! textbook pair in Python. Each is started on a free port and stopped.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{
    Namespace, NodeProcess, Running, binary, hold_free_port, needs, needs_namespaces, pattern, run,
    wait_until,
};

/// A port that is free now. It is given up at once, so that a program can have it.
fn free_port() -> u16 {
    hold_free_port().1.port()
}

fn quiet(command: &mut Command) -> Running {
    Running::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// Waits until the program answers, and puts the node before it.
fn relay_to(port: u16) -> (NodeProcess, SocketAddr) {
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until("the program listens", Duration::from_secs(20), || TcpStream::connect(target).is_ok());
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target.to_string()]);
    let address = node.address();
    (node, address)
}

fn succeeds(command: &mut Command, input: &[u8]) -> String {
    let out = run(command, input);
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {:?}\n{stdout}\n{stderr}", out.status);
    stdout.into_owned()
}

#[test]
fn http_a_hundred_megabytes_from_nginx_to_curl() {
    if !needs(&["nginx", "curl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // nginx's workers may run as another user.
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), readable).unwrap();
    let content = pattern(11, 0, 100_000_000);
    fs::write(folder.path().join("file"), &content).unwrap();
    let (port, path) = (free_port(), folder.path().display());
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;\n\
         events {{ }}\n\
         http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p; \
         fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {path}; }} }}\n"
    );
    fs::write(folder.path().join("nginx.conf"), config).unwrap();
    let _nginx = quiet(Command::new("nginx").arg("-c").arg(folder.path().join("nginx.conf")));
    let (node, address) = relay_to(port);
    let copy = folder.path().join("copy");
    let mut curl = Command::new("curl");
    succeeds(curl.args(["-sf", &format!("http://{address}/file"), "-o"]).arg(&copy), &[]);
    assert!(fs::read(copy).unwrap() == content);
    let range = ["-sf", "-r", "5000-5099", &format!("http://{address}/file")];
    assert_eq!(run(Command::new("curl").args(range), &[]).stdout, content[5_000..5_100]);
    assert_eq!(node.stop().0, 0);
}

#[test]
fn redis_answers_its_own_benchmark() {
    if !needs(&["redis-server", "redis-benchmark", "redis-cli"]) {
        return;
    }
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new("redis-server");
    server.args([
        "--port",
        &port.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
    ]);
    let _redis = quiet(server.arg(folder.path()));
    let (node, address) = relay_to(port);
    let port = address.port().to_string();
    let benchmark = ["-p", &port, "-n", "20000", "-c", "50", "-P", "4", "-t", "set,get,lpush", "-q"];
    let printed = succeeds(Command::new("redis-benchmark").args(benchmark), &[]);
    assert_eq!(printed.matches("requests per second").count(), 3, "{printed}");
    succeeds(Command::new("redis-cli").args(["-p", &port, "set", "key", "value"]), &[]);
    assert_eq!(succeeds(Command::new("redis-cli").args(["-p", &port, "get", "key"]), &[]).trim(), "value");
    assert_eq!(node.stop().0, 0);
}

#[test]
fn iperf3_measures_both_directions() {
    if !needs(&["iperf3"]) {
        return;
    }
    let port = free_port();
    let _server = quiet(Command::new("iperf3").args(["-s", "-B", "127.0.0.1", "-p", &port.to_string()]));
    let (node, address) = relay_to(port);
    for direction in ["--json", "--reverse", "--bidir"] {
        let arguments =
            ["-c", "127.0.0.1", "-p", &address.port().to_string(), "-t", "1", "-P", "2", "--json", direction];
        // The server serves one test at a time, and may still be busy with the one before,
        // which its client does not count as a failure.
        let mut result = serde_json::Value::Null;
        wait_until("iperf3 has its turn", Duration::from_secs(30), || {
            let out = run(Command::new("iperf3").args(arguments), &[]);
            result = serde_json::from_slice(&out.stdout).unwrap_or_default();
            out.status.success() && result["error"].is_null()
        });
        let received = result["end"]["sum_received"]["bytes"].as_u64();
        assert!(received.is_some_and(|bytes| bytes > 1_000_000), "{result}");
    }
    drop(node);
}

#[test]
fn ssh_speaks_first_and_runs_a_command() {
    if !needs(&["sshd", "ssh", "ssh-keygen"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    for key in ["host", "user"] {
        succeeds(
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file(key)),
            &[],
        );
    }
    let port = free_port();
    let text = |path: &Path| path.display().to_string();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nPidFile none\n",
        text(&file("host")),
        text(&file("user.pub"))
    );
    fs::write(file("sshd_config"), config).unwrap();
    // What sshd wants to exist when it is started by root; without the right to make it, it is not needed.
    let _ = fs::create_dir_all("/run/sshd");
    let sshd = crate::support::has("sshd").unwrap();
    let _sshd = quiet(Command::new(sshd).args(["-D", "-e", "-f"]).arg(file("sshd_config")));
    let (node, address) = relay_to(port);
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    ssh.args(["-o", "BatchMode=yes", "-p", &address.port().to_string(), "-i"]).arg(file("user"));
    let big = pattern(12, 0, 3_000_000);
    let out = run(ssh.args(["127.0.0.1", "cat"]), &big);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout == big);
    drop(node);
}

#[test]
fn socat_gets_the_answer_that_comes_after_its_end() {
    if !needs(&["socat"]) {
        return;
    }
    let port = free_port();
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork");
    let _server =
        quiet(Command::new("socat").args(["-t", "10", &listen, "SYSTEM:cat >/dev/null; sleep 2; echo late"]));
    let (node, address) = relay_to(port);
    let answer = succeeds(Command::new("socat").args(["-t", "10", "-", &format!("TCP:{address}")]), b"hi\n");
    assert_eq!(answer, "late\n");
    drop(node);
}

#[test]
fn a_client_that_resets_and_a_target_that_comes_back_leave_the_node_working() {
    if !needs(&["socat", "nc"]) {
        return;
    }
    let port = free_port();
    let target = format!("127.0.0.1:{port}");
    let node = NodeProcess::start(["--listen", "127.0.0.1:0", "--connect", &target]);
    let address = node.address();
    let talk = || run(Command::new("nc").args(["-N", "127.0.0.1", &address.port().to_string()]), b"hello\n");
    assert_eq!(talk().stdout, b"");
    node.event("connect_failed");
    let listen = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork");
    let _server = quiet(Command::new("socat").args([&listen, "EXEC:cat"]));
    wait_until("the target is up", Duration::from_secs(20), || TcpStream::connect(&target).is_ok());
    assert_eq!(talk().stdout, b"hello\n");
    let client = crate::support::connect(address);
    crate::support::abort(client);
    assert_eq!(talk().stdout, b"hello\n");
}

const PYTHON_SERVER: &str = "
import socket
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('0.0.0.0', 8888))
s.listen(5)
while True:
    c, peer = s.accept()
    print(c.recv(1024).decode(), flush=True)
    c.sendall(b'Hello from server!')
    c.close()
";
const PYTHON_CLIENT: &str = "
import socket, sys
s = socket.socket()
s.connect(('127.0.0.1', int(sys.argv[1])))
s.sendall(b'Hello from client!')
print(s.recv(1024).decode(), flush=True)
s.close()
";

/// The pair that every tutorial has, on its usual port, so in a network of its own.
#[test]
fn the_textbook_pair_in_python_meets_each_of_our_roles_and_itself_through_the_relay() {
    if !needs_namespaces() || !needs(&["python3", "ss"]) {
        return;
    }
    let net = Namespace::new("py");
    let listens = |port: u16| {
        let filter = format!("sport = :{port}");
        let sees = || !run(net.command("ss").args(["-Hltn", &filter]), &[]).stdout.is_empty();
        wait_until("it listens", Duration::from_secs(20), sees);
    };
    // Our server, their client.
    let mut ours = net.command(binary());
    let ours = std::thread::scope(|scope| {
        let server =
            scope.spawn(|| run(ours.args(["-q", "--listen", "127.0.0.1:8888"]), b"Hello from server!"));
        listens(8888);
        let said = succeeds(net.command("python3").args(["-c", PYTHON_CLIENT, "8888"]), &[]);
        assert_eq!(said, "Hello from server!\n");
        server.join().unwrap()
    });
    assert_eq!((ours.status.code(), &ours.stdout[..]), (Some(0), &b"Hello from client!"[..]));
    // Their server, our client.
    let _server = quiet(net.command("python3").args(["-c", PYTHON_SERVER]));
    listens(8888);
    let ours = run(net.command(binary()).args(["-q", "--connect", "127.0.0.1:8888"]), b"Hello from client!");
    assert_eq!((ours.status.code(), &ours.stdout[..]), (Some(0), &b"Hello from server!"[..]));
    // Both of theirs, through the relay.
    let node = net.node(&["--listen", "127.0.0.1:9000", "--connect", "8888"]);
    node.event("listening");
    let said = succeeds(net.command("python3").args(["-c", PYTHON_CLIENT, "9000"]), &[]);
    assert_eq!(said, "Hello from server!\n");
    assert_eq!(node.client_gone(0)["received"], 18);
}
