//! `node example`: the configs in `config/`, to begin with, and the scripts and
//! clients that some come with.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::nearest::{did_you_mean, quoted};

/// What there is, a line each.
pub(super) fn list() -> String {
    let mut list = String::from("Configs to begin with:\n\n");
    for Example { name, files } in EXAMPLES {
        // The first line of each says what it is.
        let about = files[0].1.lines().next().unwrap_or_default().trim_start_matches("# ");
        let _ = writeln!(list, "  node example {name:<15}{about}");
    }
    list.push_str("\nwith --into DIR, written there with the scripts and clients it comes with\n");
    list
}

/// The config of one of them, or what is wrong with its name. Any file is found by its own name, too.
pub(super) fn named(name: &str) -> Result<&'static str, String> {
    let mut files = EXAMPLES.iter().flat_map(|example| example.files);
    match files.find(|(file, _)| *file == name) {
        Some((_, text)) => Ok(text),
        None => find(name).map(|example| example.files[0].1),
    }
}

/// Writes the files of one into a folder, which is made if there is none, and says what to run.
pub(super) fn write(name: &str, folder: &Path) -> Result<String, String> {
    let example = find(name)?;
    let failed = |path: &Path, error| {
        let path = path.display().to_string();
        format!("example: cannot write {}: {error}; name another folder", path.escape_debug())
    };
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    // Nothing is written if anything is there: it may have been changed by hand.
    let there = example.files.iter().map(|(file, _)| folder.join(file)).find(|path| path.exists());
    if let Some(path) = there {
        let path = path.display().to_string();
        return Err(format!("example: {} is there already; name another folder", path.escape_debug()));
    }
    let mut said = String::new();
    for (file, text) in example.files {
        let path = folder.join(file);
        let written = File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| failed(&path, error))?;
        let _ = writeln!(said, "{}", path.display());
    }
    let main = folder.join(example.files[0].0);
    let _ = writeln!(said, "\nnode run {}", main.display());
    Ok(said)
}

fn find(name: &str) -> Result<&'static Example, String> {
    EXAMPLES.iter().find(|example| example.name == name).ok_or_else(|| {
        let names = EXAMPLES.iter().map(|example| example.name);
        let hint =
            did_you_mean(name, names.clone()).unwrap_or_else(|| format!("; there are {}", quoted(names)));
        format!("example: there is none called `{}`{hint}", name.escape_debug())
    })
}

/// Files of `config/`: the config, and what it comes with.
struct Example {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
}

/// An example of these files.
macro_rules! example {
    ($name:literal, $($file:literal),+) => {
        Example { name: $name, files: &[$(($file, include_str!(concat!("../../config/", $file)))),+] }
    };
}

const EXAMPLES: &[Example] = &[
    example!("relay", "relay.toml"),
    example!("echo", "echo.toml"),
    example!("wires", "wires.toml"),
    example!("commissioning", "commissioning.toml"),
    example!("hello", "hello.toml", "hello-client.toml"),
    example!("aggregator", "aggregator.toml", "aggregator.luau"),
    example!("summary", "summary.toml", "aggregator.luau"),
    example!(
        "chat-login",
        "chat-login.toml",
        "chat-login.luau",
        "chat-login-client.toml",
        "chat-login-client.luau"
    ),
    example!("chat", "chat.toml", "chat.luau", "chat-client.toml", "chat-client.luau"),
    example!("both-roles", "both-roles.toml"),
    example!("hub", "hub.toml"),
    example!("publish", "publish.toml"),
    example!("bridge", "bridge.toml"),
    example!("collect", "collect.toml"),
    example!("failover", "failover.toml"),
    example!(
        "modbus",
        "modbus.toml",
        "modbus.luau",
        "plc-sim.toml",
        "plc-sim.luau",
        "plc-poll.toml",
        "plc-poll.luau"
    ),
    example!("plc-sim", "plc-sim.toml", "plc-sim.luau"),
    example!("plc-poll", "plc-poll.toml", "plc-poll.luau"),
    example!("scale", "scale.toml", "scale.luau"),
    example!("half-close", "half-close.toml", "half-close-client.toml"),
    example!("device-bridge", "device-bridge.toml"),
    example!("device-meet", "device-meet.toml"),
    example!("tls", "tls.toml"),
    example!("stx-chat", "stx-chat.toml", "stx-chat.luau", "stx-chat-client.toml", "stx-chat-client.luau"),
    example!("reference", "reference.toml"),
];
