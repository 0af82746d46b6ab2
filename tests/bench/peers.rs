//! The relays that are compared: each is started on loopback before a backend
//! that the load brings along, and stopped at the end. What is not installed
//! is left out, and said.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Where relays listen and connect, and what they may use.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) folder: PathBuf,
    pub(crate) backend: SocketAddr,
    /// The core of the relays, if they have one to themselves.
    pub(crate) core: Option<usize>,
    pub(crate) threads: usize,
    /// Hubs wait for who is slow: a thousand readers of one process all are, by turns.
    pub(crate) blocks: bool,
}

/// A running relay; dropped, it is ended.
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Where it leads.
    pub(crate) backend: SocketAddr,
    child: Option<Child>,
}

impl Peer {
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// No relay at all, as the bound of what can be reached.
    fn direct(ground: &Ground) -> Self {
        Self { name: "direct".into(), address: ground.backend, backend: ground.backend, child: None }
    }

    fn start(name: &str, address: SocketAddr, ground: &Ground, program: &Path, arguments: &[String]) -> Self {
        let mut command = match ground.core {
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.args(["-c", &core.to_string()]).arg(program);
                pinned
            }
            None => Command::new(program),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let peer = Self { name: name.into(), address, backend: ground.backend, child: Some(child) };
        // Ready when it listens. Its target is not there yet, so it resets or closes what comes.
        let give_up = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < give_up, "{name} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let pid = rustix::process::Pid::from_child(child);
            // Asked first: one that is killed would leave its workers behind.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let give_up = Instant::now() + Duration::from_secs(3);
            while Instant::now() < give_up && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All peers by name, in the order of the table. `node@FILE`, `node-hub@FILE` and so on are another build of the
/// node, to compare the two.
pub(crate) const ALL: &[&str] = &[
    "direct",
    "node",
    "haproxy",
    "haproxy-splice",
    "nginx",
    "realm",
    "socat",
    "naive",
    "splice",
    "qt",
    "qt-bounded",
    "node-0",
    "node-1",
    "node-4",
    "node-unread",
    "node-json",
];

/// Those that join many, for the rows that need that.
pub(crate) const HUBS: &[&str] = &["node-hub", "ncat", "qt-hub"];

/// And those that join them to one that is dialled.
pub(crate) const PUBLISHERS: &[&str] = &["node-publish"];

/// And those that join them for one that is dialled.
pub(crate) const COLLECTORS: &[&str] = &["node-collect", "qt-collect"];

/// What it is, and which build of it.
pub(crate) fn parts(name: &str) -> (&str, Option<&str>) {
    name.split_once('@').map_or((name, None), |(kind, build)| (kind, Some(build)))
}

/// Starts a peer, or says why it is not there.
pub(crate) fn start(name: &str, ground: &Ground) -> Result<Peer, String> {
    if name == "direct" {
        return Ok(Peer::direct(ground));
    }
    let (kind, build) = parts(name);
    // Those that dial by themselves would be taken for each other.
    let own_ground = Ground { backend: free(), ..ground.clone() };
    let ground = if COLLECTORS.contains(&kind) { &own_ground } else { ground };
    let address = free();
    let (listen, backend) = (address.to_string(), ground.backend.to_string());
    let own = || std::env::current_exe().expect("this program has a path");
    let role = |role: &str| vec!["--role".into(), role.into(), listen.clone(), backend.clone()];
    let node = |more: &[&str]| -> (PathBuf, Vec<String>) {
        let threads = ground.threads.to_string();
        let arguments = [&["-q", "--threads", &threads, "--listen", &listen], more].concat();
        (
            PathBuf::from(build.unwrap_or(env!("CARGO_BIN_EXE_node"))),
            arguments.into_iter().map(str::to_owned).collect(),
        )
    };
    let (program, arguments) = match kind {
        "node" => node(&["--connect", &backend]),
        "node-hub" => {
            let overflow = if ground.blocks { "block" } else { "disconnect" };
            node(&["--mode", "hub", "--frame", "lines", "--overflow", overflow])
        }
        "node-publish" => node(&["--connect", &backend, "--mode", "publish", "--frame", "lines"]),
        "node-collect" => node(&["--connect", &backend, "--mode", "collect", "--frame", "lines"]),
        "ncat" => {
            let port = address.port().to_string();
            let arguments = ["--broker", "-l", "-m", "1100", "127.0.0.1", &port].map(str::to_owned).to_vec();
            (installed("ncat")?, arguments)
        }
        "node-0" | "node-1" | "node-4" | "node-unread" | "naive" | "splice" => (own(), role(name)),
        "node-json" => return node_json(address, ground),
        "haproxy" | "haproxy-splice" => haproxy(name, address, ground)?,
        "nginx" => nginx(address, ground)?,
        "realm" => (installed("realm")?, ["-l", &listen, "-r", &backend].map(str::to_owned).to_vec()),
        "socat" => {
            let from = format!("TCP-LISTEN:{},bind=127.0.0.1,fork,reuseaddr,backlog=4096", address.port());
            (installed("socat")?, vec!["-t".into(), "10".into(), from, format!("TCP:{backend}")])
        }
        "qt" | "qt-bounded" => {
            let limit = if name == "qt" { "0" } else { "65536" };
            (
                qt(ground, "relay")?,
                vec![address.port().to_string(), ground.backend.port().to_string(), limit.into()],
            )
        }
        "qt-hub" => (qt(ground, "hub")?, vec![address.port().to_string()]),
        "qt-collect" => {
            (qt(ground, "hub")?, vec![address.port().to_string(), ground.backend.port().to_string()])
        }
        other => return Err(format!("no peer is called {other}")),
    };
    Ok(Peer::start(name, address, ground, &program, &arguments))
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn installed(program: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let mut files = folders.map(|folder| folder.join(program));
    files.find(|file| file.is_file()).ok_or_else(|| format!("{program} is not installed"))
}

/// The program with JSON events into a pipe that is read slowly.
fn node_json(address: SocketAddr, ground: &Ground) -> Result<Peer, String> {
    let mut command =
        Command::new(if ground.core.is_some() { "taskset" } else { env!("CARGO_BIN_EXE_node") });
    if let Some(core) = ground.core {
        command.args(["-c", &core.to_string(), env!("CARGO_BIN_EXE_node")]);
    }
    command.args(["--log-format", "json", "--listen", &address.to_string()]);
    command.args(["--connect", &ground.backend.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let stderr = child.stderr.take().expect("it is piped");
    let mut lines = BufReader::new(stderr);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        lines.read_line(&mut line).map_err(|error| error.to_string())?;
    }
    // Ends with the pipe, which ends with the node.
    thread::spawn(move || {
        let mut little = [0; 512];
        while lines.read(&mut little).is_ok_and(|count| count > 0) {
            thread::sleep(Duration::from_millis(10));
        }
    });
    Ok(Peer { name: "node-json".into(), address, backend: ground.backend, child: Some(child) })
}

fn haproxy(name: &str, address: SocketAddr, ground: &Ground) -> Result<(PathBuf, Vec<String>), String> {
    let program = installed("haproxy")?;
    let splice =
        if name == "haproxy-splice" { "    option splice-request\n    option splice-response\n" } else { "" };
    let config = format!(
        "global\n    maxconn 9400\n    maxpipes 256\n    nbthread {}\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
         timeout client 1h\n    timeout server 1h\n{splice}listen relay\n    bind {address} backlog 4096\n    \
         maxconn 9400\n    server backend {}\n",
        ground.threads, ground.backend
    );
    let file = ground.folder.join(format!("{name}.cfg"));
    fs::write(&file, config).map_err(|error| error.to_string())?;
    Ok((program, vec!["-q".into(), "-db".into(), "-f".into(), file.display().to_string()]))
}

fn nginx(address: SocketAddr, ground: &Ground) -> Result<(PathBuf, Vec<String>), String> {
    let program = installed("nginx")?;
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.exists() { format!("load_module {};\n", module.display()) } else { String::new() };
    let folder = ground.folder.display();
    let config = format!(
        "{load}daemon off;\nuser root;\nworker_processes {};\nworker_rlimit_nofile 20000;\npid {folder}/nginx.pid;\n\
         error_log /dev/null;\nevents {{ worker_connections 20000; }}\nstream {{\n    server {{\n        \
         listen {address} backlog=4096 reuseport;\n        proxy_pass {};\n        proxy_half_close on;\n        \
         proxy_timeout 1h;\n    }}\n}}\n",
        ground.threads, ground.backend
    );
    let file = ground.folder.join("nginx.conf");
    fs::write(&file, config).map_err(|error| error.to_string())?;
    let checked =
        Command::new(&program).arg("-t").arg("-c").arg(&file).output().map_err(|error| error.to_string())?;
    if !checked.status.success() {
        return Err(format!(
            "nginx has no stream module: {}",
            String::from_utf8_lossy(&checked.stderr).trim()
        ));
    }
    Ok((program, vec!["-c".into(), file.display().to_string()]))
}

/// Builds a small Qt program, if Qt 6 is there.
fn qt(ground: &Ground, what: &str) -> Result<PathBuf, String> {
    let program = ground.folder.join(format!("qt-{what}"));
    if program.exists() {
        return Ok(program);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bench/qt/{what}.cpp"));
    let include =
        ["/usr/include/x86_64-linux-gnu/qt6", "/usr/include/aarch64-linux-gnu/qt6", "/usr/include/qt6"];
    let include =
        include.iter().find(|path| Path::new(path).exists()).ok_or("qt6-base-dev is not installed")?;
    let mut build = Command::new("g++");
    build.args(["-O2", "-std=c++17", "-fPIC"]).arg(format!("-I{include}"));
    build.arg(format!("-I{include}/QtCore")).arg(format!("-I{include}/QtNetwork"));
    build.arg(source).arg("-o").arg(&program).args(["-lQt6Network", "-lQt6Core"]);
    let built = build.output().map_err(|error| error.to_string())?;
    if built.status.success() {
        Ok(program)
    } else {
        Err(String::from_utf8_lossy(&built.stderr).into_owned())
    }
}
