//! `node schema`: the JSON Schema of config files, made from the keys.

use serde_json::{Map, Value, json};

use crate::address::Address;
use crate::config::keys::{self, Key};
use crate::config::{ClientConfig, Config, DiscoveryConfig, ListenConfig, RelayConfig, ScriptConfig};
use crate::net::TlsOptions;
use crate::wiring::{StepOptions, TimerOptions, WireOptions};

/// The schema, indented.
pub(super) fn text() -> String {
    let (listen, client) = (ListenConfig::new(Address::Stdio), ClientConfig::new(Address::Stdio));
    let discovery = DiscoveryConfig::new(Address::Stdio, "");
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A config of signal-node",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "node": table("What holds for the node as a whole", &keys::node(), &Config::default()),
            "vars": {
                "description": "Texts to be used as ${NAME} elsewhere; the environment wins",
                "type": "object",
                "additionalProperties": { "type": "string" },
            },
            "listen": objects(table("A listener", &keys::listen(), &listen)),
            "client": objects(table("A target", &keys::client(), &client)),
            "tls": objects(table("How TLS is spoken", &keys::tls(), &TlsOptions::default())),
            "discovery": objects(table("What tells where a listener is", &keys::discovery(), &discovery)),
            "timer": objects(table("What fires after a time", &keys::timer(), &TimerOptions::default())),
            "script": objects(table("Functions in Luau", &keys::script(), &ScriptConfig::default())),
            "connect": list(table("A wire from a signal to a slot", &keys::connect(), &WireOptions::default())),
            "step": list(table("A step of a scripted run", &keys::step(), &StepOptions::default())),
            "relay": objects(table("What joins listeners to clients", &keys::relay(), &RelayConfig::default())),
        },
    });
    format!("{schema:#}\n")
}

/// A table whose keys are the names of objects.
fn objects(object: Value) -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "patternProperties": { "^[a-z][a-z0-9_]*$": object },
    })
}

/// Tables one after the other.
fn list(object: Value) -> Value {
    json!({ "type": "array", "items": object })
}

fn table<T>(about: &str, keys: &[Key<T>], default: &T) -> Value {
    let property = |key: &Key<T>| (key.name.to_owned(), property(key, default));
    let properties: Map<_, _> = keys.iter().map(property).collect();
    let required: Vec<_> = keys.iter().filter(|key| key.is_required).map(|key| key.name).collect();
    json!({
        "description": about,
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "required": required,
    })
}

fn property<T>(key: &Key<T>, default: &T) -> Value {
    let fragment = key.schema();
    let mut schema: Value = serde_json::from_str(&fragment).expect("every kind writes JSON");
    if schema["type"] != "string" {
        schema = json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{" }] });
    }
    schema["description"] = format!("{} (at a reload: {})", key.about, key.reload.words()).into();
    if !key.is_required {
        // TOML and JSON write these values alike.
        schema["default"] = serde_json::from_str(&key.write(default)).expect("a default is plain");
    }
    schema
}
