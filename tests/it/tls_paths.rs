//! Where the files of `[tls.ID]` are looked for: in a config, from its own
//! folder; on the command line, from the working directory.

use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::support::{NodeProcess, Plant, binary, needs, run};

/// A folder `conf` beside what `node cert` has made, with the config and what `localhost` shows.
fn conf(plant: &Plant, tls: &str) {
    fs::create_dir_all(plant.file("conf")).unwrap();
    take(plant);
    let config = format!(
        "[node]\nlog_format = \"json\"\n[listen.front]\nbind = \"127.0.0.1:0\"\ntls = \"own\"\n\
         [relay.r]\nfrom = \"front\"\nmode = \"echo\"\n[tls.own]\n{tls}"
    );
    fs::write(plant.file("conf/node.toml"), config).unwrap();
}

/// Moves it there.
fn take(plant: &Plant) {
    for name in ["localhost.pem", "localhost.key"] {
        fs::rename(plant.file(name), plant.file("conf").join(name)).unwrap();
    }
}

/// `run` or `check` beside the folder `conf`.
fn beside(plant: &Plant, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(plant.file("")).args(arguments).arg("conf/node.toml");
    command
}

#[test]
fn certificates_are_seen_from_the_folder_of_the_config_also_at_a_reload() {
    if !needs(&["python3"]) {
        return;
    }
    let plant = Plant::new();
    conf(&plant, "cert = \"localhost.pem\"\nkey = \"localhost.key\"\nclient_ca = \"../ca.pem\"\n");
    let node = NodeProcess::spawn(&mut beside(&plant, &["run"]));
    let asks = || {
        let out = plant.client(node.address(), "localhost", "device7", "talk");
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(asks(), "hello TLSv1.3\nclosed\n");
    plant.make(&["localhost,127.0.0.1"]);
    take(&plant);
    node.signal(Signal::HUP);
    node.line("reloaded: changed tls.own");
    assert_eq!(asks(), "hello TLSv1.3\nclosed\n");
    // One of that name where the node was started is another file.
    plant.make(&["localhost,127.0.0.1"]);
    let there = plant.path("conf/localhost.key");
    fs::remove_file(&there).unwrap();
    node.signal(Signal::HUP);
    node.line(&format!("tls.own.key: {there} is not there"));
    assert_eq!(asks(), "hello TLSv1.3\nclosed\n");
}

#[test]
fn what_is_said_and_shown_of_a_certificate_has_its_whole_path() {
    let plant = Plant::new();
    conf(&plant, "cert = \"localhost.pem\"\nkey = \"none.key\"\nclient_ca = \"../none.pem\"\n");
    let (code, lines) = NodeProcess::spawn(&mut beside(&plant, &["run"])).wait();
    let said = lines.join("\n");
    assert_eq!(code, 2, "{said}");
    for (key, file) in [("key", "conf/none.key"), ("client_ca", "conf/../none.pem")] {
        let expected = format!("tls.own.{key}: {} is not there", plant.path(file));
        assert!(said.contains("conf/node.toml:") && said.contains(&expected), "{said}");
    }
    let shown = run(&mut beside(&plant, &["check", "--show"]), &[]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    let whole = format!("cert = {:?}", plant.path("conf/localhost.pem"));
    assert!(shown.contains(&whole), "{shown}");

    let mut command = Command::new(binary());
    command.current_dir(plant.file("conf")).args(["--listen", "tls://127.0.0.1:0", "--connect", "echo:"]);
    let out = run(command.args(["--tls-cert", "localhost.pem", "--tls-key", "none.key"]), &[]);
    let said = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(2));
    let expected = format!("error: --tls-key: {} is not there", plant.path("conf/none.key"));
    assert!(said.starts_with(&expected), "{said}");
}
