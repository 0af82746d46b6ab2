//! `node example`: the configs in `config/`, to begin with.

use std::fmt::Write;

use crate::nearest::{did_you_mean, quoted};

/// What there is, a line each.
pub(super) fn list() -> String {
    EXAMPLES.iter().fold(String::from("Configs to begin with:\n\n"), |mut list, (name, text)| {
        // The first line of each says what it is.
        let about = text.lines().next().unwrap_or_default().trim_start_matches("# ");
        let _ = writeln!(list, "  node example {name:<15}{about}");
        list
    })
}

/// One of them, or what is wrong with its name.
pub(super) fn named(name: &str) -> Result<&'static str, String> {
    let known = EXAMPLES.iter().find(|(known, _)| *known == name);
    known.map(|(_, text)| *text).ok_or_else(|| {
        let names = EXAMPLES.iter().map(|(name, _)| *name);
        let hint =
            did_you_mean(name, names.clone()).unwrap_or_else(|| format!("; there are {}", quoted(names)));
        format!("example: there is none called `{}`{hint}", name.escape_debug())
    })
}

const EXAMPLES: &[(&str, &str)] = &[
    ("relay", include_str!("../../config/relay.toml")),
    ("echo", include_str!("../../config/echo.toml")),
    ("heartbeat", include_str!("../../config/heartbeat.toml")),
    ("wires", include_str!("../../config/wires.toml")),
    ("commissioning", include_str!("../../config/commissioning.toml")),
    ("chat", include_str!("../../config/chat.toml")),
    ("both-roles", include_str!("../../config/both-roles.toml")),
    ("hub", include_str!("../../config/hub.toml")),
    ("publish", include_str!("../../config/publish.toml")),
    ("bridge", include_str!("../../config/bridge.toml")),
    ("collect", include_str!("../../config/collect.toml")),
    ("modbus", include_str!("../../config/modbus.toml")),
    ("tls", include_str!("../../config/tls.toml")),
    ("reference", include_str!("../../config/reference.toml")),
];
