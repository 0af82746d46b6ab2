//! Systems of `config/`, each in a folder of its own as a stranger gets it, and
//! who takes part: terminals, which are nodes on pipes, and raw clients of lines.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;

use tempfile::TempDir;

use super::{MOMENT, NodeProcess, PATIENCE, binary, connect, run};

/// The files of an example.
pub(crate) struct System {
    folder: TempDir,
}

impl System {
    /// Has them written by `node example NAME --into`. `SYSTEM_FILES=FOLDER cargo test` puts others in
    /// their place, so that a changed script can be tried, or a broken one seen to fail, without a build.
    pub(crate) fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = run(Command::new(binary()).args(["example", name, "--into"]).arg(folder.path()), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let others = std::env::var_os("SYSTEM_FILES");
        for entry in others.into_iter().flat_map(|others| fs::read_dir(others).unwrap().flatten()) {
            let file = folder.path().join(entry.file_name());
            if file.exists() {
                fs::copy(entry.path(), file).unwrap();
            }
        }
        Self { folder }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Changes a file as its user would.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(from), "{from} is not in {file}");
        fs::write(self.path(file), text.replace(from, to)).unwrap();
    }

    fn command(&self, file: &str, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json", "--log", "info"]).arg(self.path(file));
        command.envs(variables.iter().copied());
        command
    }

    /// Runs one of its configs, with nobody at its terminal.
    pub(crate) fn run(&self, file: &str, variables: &[(&str, &str)]) -> NodeProcess {
        NodeProcess::spawn(&mut self.command(file, variables))
    }

    /// Runs one of its configs whose keyboard and screen are ours.
    pub(crate) fn terminal(&self, file: &str, variables: &[(&str, &str)]) -> Terminal {
        let mut command = self.command(file, variables);
        let mut node = NodeProcess::spawn_as_is(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let screen = heard(node.stdout());
        Terminal { node, screen }
    }
}

/// A node at whose terminal we are.
pub(crate) struct Terminal {
    pub(crate) node: NodeProcess,
    screen: Receiver<String>,
}

impl Terminal {
    pub(crate) fn types(&mut self, line: &str) {
        let keyboard = self.node.stdin.as_mut().unwrap();
        writeln!(keyboard, "{line}").unwrap();
    }

    /// The next line of the screen.
    pub(crate) fn shows(&self) -> String {
        next(&self.screen)
    }

    /// Waits for a line, over all others.
    pub(crate) fn awaits(&self, line: &str) {
        wait_for(&self.screen, line);
    }

    /// ^D; yields its exit code, and what it has still shown.
    pub(crate) fn finishes(mut self) -> (i32, Vec<String>) {
        drop(self.node.stdin.take());
        self.ends()
    }

    /// Waits until it ends by itself; yields its exit code, and what it has still shown.
    pub(crate) fn ends(self) -> (i32, Vec<String>) {
        // Its input stays open while it ends.
        let Self { mut node, screen } = self;
        let keyboard = node.stdin.take();
        let (code, _) = node.wait();
        drop(keyboard);
        (code, screen.iter().collect())
    }
}

/// A raw client that speaks in lines.
pub(crate) struct Liner {
    pub(crate) stream: TcpStream,
    lines: Receiver<String>,
}

impl Liner {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::of(connect(address))
    }

    pub(crate) fn of(stream: TcpStream) -> Self {
        let lines = heard(stream.try_clone().unwrap());
        Self { stream, lines }
    }

    pub(crate) fn says(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }

    pub(crate) fn hears(&self) -> String {
        next(&self.lines)
    }

    /// Waits for a line, over all others.
    pub(crate) fn awaits(&self, line: &str) {
        wait_for(&self.lines, line);
    }

    /// Whether the other end has not closed yet, for a moment.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.lines.recv_timeout(MOMENT), Err(RecvTimeoutError::Disconnected))
    }

    /// What it says, and the first answer.
    pub(crate) fn asks(&mut self, line: &str) -> String {
        self.says(line);
        self.hears()
    }

    /// What it hears until the other end has closed.
    pub(crate) fn rest(&self) -> Vec<String> {
        let rest = self.lines.iter().collect();
        // One that says nothing for as long as patience lasts has not closed.
        self.stream.set_nonblocking(true).unwrap();
        let end = self.stream.peek(&mut [0]);
        assert!(
            !end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "it has not closed: {rest:?}"
        );
        rest
    }
}

impl Drop for Liner {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The lines of a stream, read as they come.
fn heard(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    // Ends with the stream.
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn next(lines: &Receiver<String>) -> String {
    lines.recv_timeout(PATIENCE).expect("nothing more is heard")
}

fn wait_for(lines: &Receiver<String>, line: &str) {
    let mut others = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(heard) if heard == line => return,
            Ok(other) => others.push(other),
            Err(_) => panic!("{line:?} is not heard, but {others:#?}"),
        }
    }
}
