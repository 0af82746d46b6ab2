//! The far end of a connection in another network: a Python program that does
//! as it is told.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};

use super::net::Namespace;
use super::process::Running;

/// One end of a connection inside a namespace.
pub(crate) struct Agent {
    _running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Agent {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let mut running = namespace.python(include_str!("agent.py"));
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        Self { _running: running, stdin, stdout }
    }

    pub(crate) fn begin(&mut self, order: &str) {
        writeln!(self.stdin, "{order}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the agent has died");
        line.trim().to_owned()
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.begin(order);
        self.answer()
    }
}
