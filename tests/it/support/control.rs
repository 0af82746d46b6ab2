//! For tests of the control socket: a node that has one, and a client that
//! speaks its language itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use signal_node::Node;
use signal_node::registry::{Accounts, ObjectKind};

use super::{Ending, NodeProcess, PATIENCE, binary, connect, pattern, read_all, run};

/// A node with a control socket in a folder of its own.
pub(crate) struct Controlled {
    pub(crate) node: NodeProcess,
    pub(crate) folder: tempfile::TempDir,
}

impl Controlled {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let node = NodeProcess::start(
            [&["--control", path.to_str().unwrap(), "--listen", "127.0.0.1:0"], arguments].concat(),
        );
        node.address();
        Self { node, folder }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    pub(crate) fn talk(&self) -> Talk {
        Talk::to(&self.path())
    }

    /// Runs one of the verbs.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        run(Command::new(binary()).args(arguments).env("SIGNAL_NODE_CONTROL", self.path()), &[])
    }

    pub(crate) fn status(&self) -> Value {
        let out = self.ask(&["status", "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }
}

/// A control client that speaks the protocol itself.
pub(crate) struct Talk {
    pub(crate) stream: BufReader<UnixStream>,
}

impl Talk {
    pub(crate) fn to(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut talk = Self { stream: BufReader::new(stream) };
        let greeting = talk.next().unwrap();
        assert_eq!(greeting["protocol"], 1, "{greeting}");
        talk
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"))),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.say(&format!("{request}\n"));
        self.next().expect("no answer")
    }
}

pub(crate) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Sends `count` bytes through an echo and reads them back.
pub(crate) fn echoes(address: SocketAddr, count: usize) {
    let mut client = connect(address);
    let bytes = pattern(1, 0, count);
    let mut writer = client.try_clone().unwrap();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut back = vec![0; count];
    client.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == bytes);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), (Vec::new(), Ending::Fin));
}

/// What an object of a status has done since the start.
pub(crate) fn totals<'a>(status: &'a Value, object: &str) -> &'a Value {
    let objects = status["objects"].as_array().unwrap();
    &objects.iter().find(|candidate| candidate["object"] == object).unwrap()["totals"]
}

/// What the accounts of the target say, which add up whenever they are looked at.
pub(crate) fn accounts(node: &Node) -> Accounts {
    let Some(ObjectKind::Client { accounts: Some(accounts), .. }) =
        node.registry().find("connect1").map(|found| found.kind)
    else {
        panic!("connect1 has no accounts")
    };
    let Accounts { received, sent, queued, dropped, unconfirmed } = accounts;
    assert_eq!(received, sent + queued + dropped + unconfirmed, "{accounts:?}");
    accounts
}
