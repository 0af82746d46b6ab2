//! How a person sees what a running node has told: columns that fit a
//! terminal, sizes and times in the units one thinks in.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::Value;

/// The answer to `status`, as a page.
pub(super) fn status(answer: &Value) -> String {
    let mut page = String::new();
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let uptime = time(answer["uptime"].as_f64().unwrap_or_default());
    let _ = writeln!(page, "node {}, pid {}, {} for {uptime}", text("version"), answer["pid"], text("state"));
    let objects = list(&answer["objects"]);
    let connections = list(&answer["connections"]);
    let total = |kind: &str, key: &str| -> u64 {
        objects.iter().filter(|o| o["kind"] == kind).filter_map(|o| o["totals"][key].as_u64()).sum()
    };
    let _ = writeln!(
        page,
        "clients: {} now, {} since the start, {} refused; dials failed: {}",
        answer["clients"],
        total("listener", "connections"),
        total("listener", "failed"),
        total("client", "failed"),
    );

    let mut table =
        Table::new(&["OBJECT", "KIND", "STATE", ">NOW", ">TOTAL", ">FAILED", ">RECEIVED", ">SENT", "WHERE"]);
    for object in objects.iter().filter(|object| object["kind"] != "relay") {
        let totals = &object["totals"];
        let count = |key: &str| totals[key].as_u64().map_or_else(String::new, |count| count.to_string());
        let bytes = |key: &str| totals[key].as_u64().map_or_else(String::new, size);
        table.row([
            plain(&object["object"]),
            plain(&object["kind"]),
            if object["up"] == false { "down".into() } else { plain(&object["state"]) },
            object["connections"].as_u64().map_or_else(String::new, |count| count.to_string()),
            count("connections"),
            count("failed"),
            bytes("received"),
            bytes("sent"),
            match object["kind"].as_str() {
                Some("listener") => names(&object["addresses"]),
                Some("discovery") => plain(&object["address"]),
                _ => plain(&object["to"]),
            },
        ]);
    }
    for (name, totals) in answer["removed"].as_object().into_iter().flatten() {
        let count = |key: &str| totals[key].to_string();
        let bytes = |key: &str| size(totals[key].as_u64().unwrap_or_default());
        let name = plain(&Value::from(name.as_str()));
        table.row([
            name,
            String::new(),
            "removed".into(),
            String::new(),
            count("connections"),
            count("failed"),
            bytes("received"),
            bytes("sent"),
            String::new(),
        ]);
    }
    let _ = write!(page, "\n{table}");

    let mut table =
        Table::new(&["COLLECTS FOR", ">RECEIVED", ">SENT", ">QUEUED", ">DROPPED", ">UNCONFIRMED"]);
    let is_collected = |object: &&Value| object["accounts"].is_object();
    let mut row = |object: &Value, indent: &str| {
        let count = |key: &str| object["accounts"][key].to_string();
        let name = format!("{indent}{}", plain(&object["object"]));
        let [received, sent, queued] = ["received", "sent", "queued"].map(count);
        table.row([name, received, sent, queued, count("dropped"), count("unconfirmed")]);
    };
    // Targets that take turns stand below their relay.
    let mut shown = Vec::new();
    for relay in objects.iter().filter(is_collected).filter(|object| object["kind"] == "relay") {
        row(relay, "");
        for target in list(&relay["to"]) {
            objects.iter().filter(|object| object["object"] == *target).for_each(|object| row(object, "  "));
            shown.push(target);
        }
    }
    let alone = |object: &&Value| object["kind"] == "client" && !shown.contains(&&object["object"]);
    objects.iter().filter(is_collected).filter(alone).for_each(|object| row(object, ""));
    let collects = objects.iter().any(|object| is_collected(&object));
    if collects {
        let _ = write!(page, "\n{table}");
    }

    let mut table = Table::new(&["DROPPED OF", "CAUSE", ">MESSAGES", ">BYTES"]);
    let mut has_dropped = false;
    let removed = answer["removed"].as_object().into_iter().flatten();
    let removed = removed.map(|(name, totals)| (Value::from(name.as_str()), totals));
    let present = objects.iter().map(|object| (object["object"].clone(), &object["totals"]));
    for (name, totals) in present.chain(removed) {
        for (cause, dropped) in totals["dropped"].as_object().into_iter().flatten() {
            let bytes = size(dropped["bytes"].as_u64().unwrap_or_default());
            table.row([plain(&name), cause.clone(), dropped["frames"].to_string(), bytes]);
            has_dropped = true;
        }
    }
    if has_dropped {
        let _ = write!(page, "\n{table}");
    }

    let mut table = Table::new(&[
        "DISCOVERY",
        "FOR",
        ">ANSWERED",
        ">FOREIGN",
        ">MALFORMED",
        ">LIMITED",
        ">CLOSED",
        ">FAILED",
    ]);
    let mut tells = false;
    for discovery in objects.iter().filter(|object| object["kind"] == "discovery") {
        let count = |key: &str| discovery["requests"][key].to_string();
        tells = true;
        table.row([
            plain(&discovery["object"]),
            plain(&discovery["for"]),
            count("answered"),
            count("foreign"),
            count("malformed"),
            count("limited"),
            count("closed"),
            count("failed"),
        ]);
    }
    if tells {
        let _ = write!(page, "\n{table}");
    }

    let mut table = Table::new(&["RELAY", "FROM", "TO"]);
    for relay in objects.iter().filter(|object| object["kind"] == "relay") {
        table.row([plain(&relay["object"]), names(&relay["from"]), names(&relay["to"])]);
    }
    let _ = write!(page, "\n{table}");

    let omitted = answer["connections_omitted"].as_u64().unwrap_or_default();
    let mut table = Table::new(&[">CLIENT", "OBJECT", "PEER", "TARGET", ">RECEIVED", ">SENT", ">AGE"]);
    let targets: HashMap<_, _> =
        connections.iter().filter_map(|target| Some((target["partner"].as_u64()?, target))).collect();
    for client in connections.iter().filter(|one| one["dialled"] == false && one["partner"].is_null()) {
        let target = client["connection"].as_u64().and_then(|id| targets.get(&id));
        let target = match target {
            Some(target) if !target["peer"].is_null() => plain(&target["peer"]),
            // A client is followed by its target, unless that was left out.
            None if omitted > 0 && connections.last() == Some(client) => "not shown".into(),
            _ => shared_target(client, objects, connections),
        };
        table.row([
            client["connection"].to_string(),
            plain(&client["endpoint"]),
            plain(&client["peer"]),
            target,
            size(client["received"].as_u64().unwrap_or_default()),
            size(client["sent"].as_u64().unwrap_or_default()),
            time(client["seconds"].as_f64().unwrap_or_default()),
        ]);
    }
    if !connections.is_empty() {
        let _ = write!(page, "\n{table}");
    }
    if omitted > 0 {
        let _ = writeln!(page, "… and {omitted} connections more; --connections N shows so many");
    }
    page
}

/// The target of a client that has no connection of its own there: who is dialled for all, or that there is none.
fn shared_target(client: &Value, objects: &[Value], connections: &[Value]) -> String {
    let endpoint = &client["endpoint"];
    let mut relays = objects.iter().filter(|object| object["kind"] == "relay");
    let of_it =
        |relay: &&Value| list(&relay["from"]).contains(endpoint) || list(&relay["to"]).contains(endpoint);
    match relays.find(of_it) {
        Some(relay) if !list(&relay["to"]).is_empty() => {
            let ends = [list(&relay["from"]), list(&relay["to"])].concat();
            let is_shared = |one: &&Value| {
                one["dialled"] == true && one["partner"].is_null() && ends.contains(&one["endpoint"])
            };
            connections.iter().find(is_shared).map_or_else(|| "none yet".into(), |one| plain(&one["peer"]))
        }
        _ => "-".into(),
    }
}

/// One signal, as a line: when, of what, what, and its values.
pub(super) fn signal(event: &Value) -> String {
    let mut line = String::new();
    // 2026-11-20T16:28:01.123456Z: the day is known to whoever watches.
    let at = event["timestamp"].as_str().unwrap_or_default();
    let clock = at.get(11..23).unwrap_or(at);
    let object = event["endpoint"].as_str().unwrap_or("node");
    let kind = event["event"].as_str().unwrap_or_default();
    let _ = write!(line, "{clock}  {object:<10}  {kind:<15}");
    if let Some(connection) = event["connection"].as_u64() {
        let _ = write!(line, "  {connection}");
    }
    for (key, value) in event.as_object().into_iter().flatten() {
        if !["timestamp", "endpoint", "event", "connection", "seq"].contains(&key.as_str())
            && !value.is_null()
        {
            let _ = write!(line, "  {key}={}", plain(value));
        }
    }
    line
}

fn names(value: &Value) -> String {
    list(value).iter().map(plain).collect::<Vec<_>>().join(", ")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value without quotes, and without anything that could move a cursor.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains(char::is_control) => text.escape_debug().to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Bytes as `512 B`, `3.4 GiB`.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut shown = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded up to 1024 belongs to the next unit.
    while shown >= 1023.95 && unit + 1 < units.len() {
        shown /= 1024.0;
        unit += 1;
    }
    format!("{shown:.1} {}", units[unit])
}

/// Seconds in at most two units.
fn time(seconds: f64) -> String {
    let whole = Duration::from_secs(seconds.max(0.0) as u64).as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m {}s", whole % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Columns as wide as their widest cell; a head that begins with `>` is set to the right.
struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    right: [bool; COLUMNS],
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    fn new(heads: &[&str; COLUMNS]) -> Self {
        let right = heads.map(|head| head.starts_with('>'));
        Self { rows: vec![heads.map(|head| head.trim_start_matches('>').to_owned())], right }
    }

    fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; COLUMNS];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(widths).zip(self.right) {
                let cell = if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
                line.push_str(&cell);
                line.push_str("  ");
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_and_times_are_short_and_never_round_into_nonsense() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, (1 << 20) - 1, 3_650_722_202, u64::MAX].map(size);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "3.4 GiB", "16.0 EiB"]
        );
        let shown = [0.4, 59.9, 61.0, 3_600.0, 90_000.0].map(time);
        assert_eq!(shown, ["0s", "59s", "1m 1s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn a_page_has_objects_and_each_client_with_its_target_in_columns() {
        let dropped = json!({ "frame_too_long": { "frames": 2, "bytes": 4096 } });
        let totals = json!({ "connections": 3, "failed": 1, "received": 2048, "sent": 5, "unsent": 0, "dropped": dropped });
        let page = status(&json!({
            "version": "1.0", "pid": 7, "state": "running", "uptime": 61.0, "clients": 2,
            "objects": [
                { "object": "front", "kind": "listener", "state": "paused", "addresses": ["*:9000"], "connections": 2, "totals": totals },
                { "object": "back", "kind": "client", "to": "host:9001" },
                { "object": "relay", "kind": "relay", "from": ["front"], "to": ["back"] },
            ],
            "connections": [
                { "connection": 1, "endpoint": "front", "dialled": false, "partner": null, "peer": "192.0.2.1:5", "received": 9, "sent": 0, "seconds": 1.0 },
                { "connection": 2, "endpoint": "back", "dialled": true, "partner": 1, "peer": "192.0.2.2:6", "received": 0, "sent": 9, "seconds": 1.0 },
                { "connection": 3, "endpoint": "front", "dialled": false, "partner": null, "peer": "unix:\u{1b}[2J", "received": 0, "sent": 0, "seconds": 0.0 },
            ],
            "connections_omitted": 4,
        }));
        let expected = [
            "node 1.0, pid 7, running for 1m 1s",
            "clients: 2 now, 3 since the start, 1 refused; dials failed: 0",
            "",
            "OBJECT  KIND      STATE   NOW  TOTAL  FAILED  RECEIVED  SENT  WHERE",
            "front   listener  paused    2      3       1   2.0 KiB   5 B  *:9000",
            "back    client                                                host:9001",
            "",
            "DROPPED OF  CAUSE           MESSAGES    BYTES",
            "front       frame_too_long         2  4.0 KiB",
            "",
            "RELAY  FROM   TO",
            "relay  front  back",
            "",
            "CLIENT  OBJECT  PEER            TARGET       RECEIVED  SENT  AGE",
            "     1  front   192.0.2.1:5     192.0.2.2:6       9 B   0 B   1s",
            "     3  front   unix:\\u{1b}[2J  not shown         0 B   0 B   0s",
            "… and 4 connections more; --connections N shows so many",
        ];
        assert_eq!(page.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_signal_is_a_line_with_its_values() {
        let line = signal(&json!({
            "seq": 4, "timestamp": "2026-11-20T16:28:01.123456Z", "event": "disconnected", "connection": 7,
            "endpoint": "front", "partner": null, "reason": "closed", "received": 5,
        }));
        assert_eq!(line, "16:28:01.123  front       disconnected     7  reason=closed  received=5");
    }
}
