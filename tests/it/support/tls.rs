//! For tests of TLS: certificates good and bad, and peers that are not ours.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::process::{Running, binary, run};

/// A folder of certificates: `ca`, and by it `localhost` (and 127.0.0.1) and `device7`.
pub(crate) struct Plant {
    folder: tempfile::TempDir,
}

impl Plant {
    /// As `node cert` makes them.
    pub(crate) fn new() -> Self {
        let plant = Self { folder: tempfile::tempdir().unwrap() };
        plant.make(&["localhost,127.0.0.1", "device7"]);
        plant
    }

    pub(crate) fn make(&self, names: &[&str]) {
        let out = run(Command::new(binary()).arg("cert").arg(self.folder.path()).args(names), &[]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    /// A certificate and key of `localhost`, signed by our authority, that has expired or is not valid yet.
    pub(crate) fn out_of_time(&self, name: &str, from: (i32, u8, u8), to: (i32, u8, u8)) {
        let key = KeyPair::from_pem(&fs::read_to_string(self.file("ca.key")).unwrap()).unwrap();
        // As the certificate of the authority calls it.
        let tail: String =
            key.public_key_raw().iter().rev().take(4).map(|byte| format!("{byte:02x}")).collect();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.distinguished_name = Default::default();
        authority.distinguished_name.push(DnType::CommonName, format!("private authority {tail}"));
        let issuer = Issuer::from_params(&authority, &key);
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let own = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&own, &issuer).unwrap();
        fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.file(&format!("{name}.key")), own.serialize_pem()).unwrap();
    }

    /// What a Python client does, to its end.
    pub(crate) fn client(&self, address: SocketAddr, name: &str, identity: &str, what: &str) -> Output {
        run(&mut self.command(address, name, identity, what), &[])
    }

    fn command(&self, address: SocketAddr, name: &str, identity: &str, what: &str) -> Command {
        let mut command = python();
        command.args(["client", &address.port().to_string(), &self.path("ca.pem"), name]);
        match identity {
            "-" => command.args(["-", "-"]),
            name => command.args([self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))]),
        };
        command.arg(what);
        command
    }

    /// A Python client that stays, and does what it is told.
    pub(crate) fn stays(&self, address: SocketAddr, what: &str) -> Peer {
        Peer::start(&mut self.command(address, "localhost", "-", what))
    }

    /// A Python server with this identity that echoes, and its port.
    pub(crate) fn server(&self, identity: &str, client_ca: bool) -> (Peer, u16) {
        let mut command = python();
        command
            .arg("server")
            .arg(self.file(&format!("{identity}.pem")))
            .arg(self.file(&format!("{identity}.key")));
        command.arg(if client_ca { self.path("ca.pem") } else { "-".into() });
        let mut peer = Peer::start(&mut command);
        let port = peer.line().parse().unwrap();
        (peer, port)
    }
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(include_str!("tls_peer.py"));
    command
}

/// A program that is told and answers by lines.
pub(crate) struct Peer {
    _running: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut running = Running::start(command);
        let stdin = running.child.stdin.take().unwrap();
        let stdout = BufReader::new(running.child.stdout.take().unwrap());
        Self { _running: running, stdin, stdout }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap();
        self.line()
    }
}
