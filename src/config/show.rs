//! A [`Config`] as TOML: what `--show` and `--print-config` print. Reading it
//! again gives the same config.

use std::fmt::Write;

use super::keys::{self, Key};
use super::{ClientConfig, Config, DiscoveryConfig, ListenConfig, RelayConfig, ScriptConfig};
use crate::address::Address;
use crate::net::TlsOptions;
use crate::wiring::{StepOptions, TimerOptions, WireOptions};

impl Config {
    /// Every value, the defaults too.
    pub fn to_toml(&self) -> String {
        self.write(true)
    }

    /// Only what differs from the defaults.
    pub fn to_short_toml(&self) -> String {
        self.write(false)
    }

    fn write(&self, all: bool) -> String {
        let mut out = String::new();
        let empty = (ListenConfig::new(Address::Stdio), ClientConfig::new(Address::Stdio));
        table(&mut out, "node", &keys::node(), self, &Self::default(), all);
        for (id, listener) in &self.listen {
            table(&mut out, &format!("listen.{id}"), &keys::listen(), listener, &empty.0, all);
        }
        for (id, client) in &self.client {
            table(&mut out, &format!("client.{id}"), &keys::client(), client, &empty.1, all);
        }
        for (id, tls) in &self.tls {
            table(&mut out, &format!("tls.{id}"), &keys::tls(), tls, &TlsOptions::default(), all);
        }
        for (id, relay) in &self.relay {
            table(&mut out, &format!("relay.{id}"), &keys::relay(), relay, &RelayConfig::default(), all);
        }
        let nothing = DiscoveryConfig::new(Address::Stdio, "");
        for (id, discovery) in &self.discovery {
            table(&mut out, &format!("discovery.{id}"), &keys::discovery(), discovery, &nothing, all);
        }
        for (id, timer) in &self.timer {
            table(&mut out, &format!("timer.{id}"), &keys::timer(), timer, &TimerOptions::default(), all);
        }
        for (id, script) in &self.script {
            table(&mut out, &format!("script.{id}"), &keys::script(), script, &ScriptConfig::default(), all);
        }
        for wire in &self.connect {
            table(&mut out, "[connect]", &keys::connect(), wire, &WireOptions::default(), all);
        }
        for step in &self.step {
            table(&mut out, "[step]", &keys::step(), step, &StepOptions::default(), all);
        }
        out
    }
}

fn table<T>(out: &mut String, header: &str, keys: &[Key<T>], object: &T, default: &T, all: bool) {
    let lines: Vec<_> = keys
        .iter()
        .map(|key| (key, key.write(object)))
        .filter(|(key, value)| all || key.is_required || *value != key.write(default))
        .filter(|(key, value)| !(key.name == "to" && value == "[]"))
        .collect();
    if lines.is_empty() {
        return;
    }
    let gap = if out.is_empty() { "" } else { "\n" };
    let _ = writeln!(out, "{gap}[{header}]");
    for (key, value) in lines {
        let _ = writeln!(out, "{} = {value}", key.name);
    }
}
