//! Finds what cannot be in a [`Config`], all of it at once, without opening
//! anything or asking the network.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::keys::keepalive_faults;
use super::{Config, Fault, ListenConfig, Place, RelayConfig};
use crate::address::{Address, Host};
use crate::flow::MOST_READ;
use crate::nearest::{did_you_mean, quoted};
use crate::net::KernelOptions;
use crate::relay::{RelayMode, TargetOptions};

impl Config {
    /// Finds everything that is wrong, without opening anything.
    pub fn check(&self) -> Vec<Fault> {
        let faults = self.check_parts();
        // A part is often unused because of another fault.
        if faults.is_empty() { self.unused() } else { faults }
    }

    /// Finds what is wrong with each part, and between them.
    pub(super) fn check_parts(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        self.check_names(&mut faults);
        self.check_node(&mut faults);
        self.check_listeners(&mut faults);
        self.check_clients(&mut faults);
        let mut taken = HashMap::new();
        for (id, relay) in &self.relay {
            self.check_relay(id, relay, &mut taken, &mut faults);
        }
        self.check_ends(&mut faults);
        faults.0.extend(self.check_most());
        faults.0.extend(self.check_discovery());
        faults.0.extend(self.check_messages());
        faults.0.extend(self.check_peers());
        faults.0.extend(self.check_layers());
        faults.0.extend(self.check_waiting());
        faults.0.extend(self.check_wires());
        faults.0.extend(self.check_via());
        faults.0.extend(self.check_scripts());
        faults.0.extend(self.circles(&self.literal_leads()));
        faults.0
    }

    /// Objects that do nothing, since no relay names them.
    pub(super) fn unused(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        let named = self.named();
        let used: HashSet<_> = self.relay.values().flat_map(RelayConfig::ends).chain(named).collect();
        for id in self.listen.keys().filter(|id| !used.contains(id.as_str())) {
            let text = "no relay begins here, and no wire; name it in the `from` of a relay, or remove it";
            faults.add(Place::new("listen", id, ""), text);
        }
        for id in self.client.keys().filter(|id| !used.contains(id.as_str())) {
            let text = "no relay leads here, and no wire; name it in the `to` of a relay, or remove it";
            faults.add(Place::new("client", id, ""), text);
        }
        faults.0.extend(self.unused_tls());
        for id in self.timer.keys().filter(|id| !used.contains(id.as_str())) {
            let text = "nothing hears it; wire its signal `timeout`, or remove it";
            faults.add(Place::new("timer", id, ""), text);
        }
        for id in self.unused_scripts() {
            let text = "nothing calls it; name the object whose signals it handles in `target`, or a function of it in a wire";
            faults.add(Place::new("script", id, ""), text);
        }
        faults.0
    }

    fn check_names(&self, faults: &mut Faults) {
        let tables = [
            ("listen", self.listen.keys().collect::<Vec<_>>()),
            ("client", self.client.keys().collect()),
            ("relay", self.relay.keys().collect()),
            ("discovery", self.discovery.keys().collect()),
            ("timer", self.timer.keys().collect()),
            ("script", self.script.keys().collect()),
            ("tls", self.tls.keys().collect()),
        ];
        for (nth, (table, ids)) in tables.iter().enumerate() {
            for id in ids {
                let place = Place::new(table, id, "");
                // A [tls.ID] is no object, and may be called like one.
                let mut others = tables[..nth].iter().filter(|_| *table != "tls");
                if let Some((other, _)) = others.find(|(_, others)| others.contains(id)) {
                    faults.add(place, format!("there is {other}.{id} already; give one another name"));
                } else if TAKEN.contains(&id.as_str()) {
                    faults.add(place, format!("`{id}` is taken by the node itself; choose another name"));
                } else if !is_name(id) {
                    let id = id.escape_debug();
                    faults.add(
                        place,
                        format!("`{id}` is not a name; write small letters, digits and _, a letter first"),
                    );
                }
            }
        }
        if self.relay.is_empty()
            && self.connect.is_empty()
            && self.step.is_empty()
            && self.scripts().next().is_none()
        {
            let text = "there is nothing to do; add a relay, as in `node example relay`, or wires, as in `node example wires`";
            faults.add(Place::new("relay", "", ""), text);
        }
    }

    fn check_node(&self, faults: &mut Faults) {
        let node = |key| Place::new("node", "", key);
        let mut binds = self.relay.values().flat_map(|relay| self.from(relay)).peekable();
        let is_stdio = |(_, listener): (&str, &ListenConfig)| listener.bind == Address::Stdio;
        if self.node.max_connections.is_some() && binds.peek().is_some() && binds.all(is_stdio) {
            faults.add(node("max_connections"), NO_LISTENER);
        }
        if self.node.shutdown_grace > LONGEST {
            faults.add(node("shutdown_grace"), TOO_LONG);
        }
        if self.node.budget < LEAST_BUDGET {
            faults.add(node("budget"), "is too little to work with; write at least \"1MiB\"");
        }
        if !(LEAST_READ..=MOST_READ).contains(&self.node.max_read) {
            let read = self.node.max_read;
            faults.add(node("max_read"), format!("{read} bytes are not possible; write 4KiB to 16MiB"));
        }
        if !(1..=MOST_THREADS).contains(&self.program.threads) {
            let threads = self.program.threads;
            faults.add(
                node("threads"),
                format!("{threads} is not possible; write a number from 1 to {MOST_THREADS}"),
            );
        }
    }

    fn check_listeners(&self, faults: &mut Faults) {
        let mut same_port: HashMap<_, Vec<(&String, &Address)>> = HashMap::new();
        for (id, listener) in &self.listen {
            let at = |key| Place::new("listen", id, key);
            let options = &listener.options;
            if let Err(error) = listener.bind.check_listen() {
                faults.add(at("bind"), error.to_string());
            }
            let earlier = same_port.entry(port(&listener.bind)).or_insert_with(Vec::new);
            if let Some((other, _)) = earlier.iter().find(|(_, other)| clash(other, &listener.bind)) {
                let bind = &listener.bind;
                faults.add(at("bind"), format!("{bind} is taken by `{other}` already; listen on it once"));
            }
            earlier.push((id, &listener.bind));
            if let (Address::Unix(path), Some(control)) = (&listener.bind, &self.program.control)
                && plain(path) == plain(control)
            {
                let bind = &listener.bind;
                faults.add(at("bind"), format!("{bind} is the control socket already; choose another path"));
            }
            for (key, text) in keepalive_faults(&options.keepalive) {
                faults.add(at(key), text);
            }
            for (key, zero, what) in [
                ("backlog", options.backlog == Some(0), "queue"),
                ("max_connections_per_address", options.max_connections_per_address == Some(0), "let in"),
                ("accept_rate", options.accept_rate == Some(0), "let in"),
            ] {
                if zero {
                    faults.add(at(key), format!("0 would {what} nobody; write at least 1"));
                }
            }
            kernel_faults(&options.kernel, &listener.bind, &at, faults);
            let access = if options.access.allows().is_empty() { "deny" } else { "allow" };
            if listener.bind == Address::Stdio {
                let given = [
                    (!options.access.is_empty(), access),
                    (options.max_connections.is_some(), "max_connections"),
                    (options.max_connections_per_address.is_some(), "max_connections_per_address"),
                    (options.accept_rate.is_some(), "accept_rate"),
                    (options.backlog.is_some(), "backlog"),
                ];
                for (_, key) in given.into_iter().filter(|(is_given, _)| *is_given) {
                    faults.add(at(key), NO_LISTENER);
                }
            } else if matches!(listener.bind, Address::Unix(_)) {
                if !options.access.is_empty() {
                    let text = "clients of unix: have no network; use the socket's folder permissions";
                    faults.add(at(access), text);
                }
                if options.max_connections_per_address.is_some() {
                    let text = "clients of unix: have no address; write max_connections";
                    faults.add(at("max_connections_per_address"), text);
                }
            }
        }
    }

    fn check_clients(&self, faults: &mut Faults) {
        for (id, client) in &self.client {
            let at = |key| Place::new("client", id, key);
            if let Err(error) = client.to.check_connect() {
                faults.add(at("to"), error.to_string());
            }
            check_limit(Some(client.options.connect_timeout), at("connect_timeout"), false, &mut faults.0);
            for (key, text) in keepalive_faults(&client.options.keepalive) {
                faults.add(at(key), text);
            }
            kernel_faults(&client.options.kernel, &client.to, &at, faults);
            if let Some(source) = client.options.source {
                check_source(source, &client.to, at("source"), faults);
            }
        }
    }

    /// `taken` are the listeners of the relays before it.
    fn check_relay<'a>(
        &'a self,
        id: &'a str,
        relay: &'a RelayConfig,
        taken: &mut HashMap<&'a String, &'a str>,
        faults: &mut Faults,
    ) {
        let at = |key| Place::new("relay", id, key);
        for (key, names) in [("from", &relay.from), ("to", &relay.to)] {
            for (nth, name) in names.iter().enumerate() {
                let place = at(key).element(nth);
                let (listens, connects) = (self.listen.contains_key(name), self.client.contains_key(name));
                // Whoever is published, and whoever hears it, may have come to us or be dialled.
                let fits = match key {
                    _ if matches!(relay.mode, RelayMode::Publish | RelayMode::Bridge) => listens || connects,
                    "from" => listens,
                    _ => connects,
                };
                if names[..nth].contains(name) {
                    faults.add(place, format!("`{name}` is listed twice; remove one"));
                } else if !fits {
                    faults.add(place, self.unknown(key, name));
                } else if listens && let Some(other) = taken.insert(name, id).filter(|other| *other != id) {
                    let text =
                        format!("`{name}` leads to relay.{other} already; its clients can go only one way");
                    faults.add(place, text);
                }
            }
        }
        let listens = "there is nothing to listen on; name a listener";
        let connects = "there is nothing to connect to; name a client, or write mode = \"echo\"";
        match relay.mode {
            RelayMode::Bridge => faults.0.extend(self.check_bridge(id, relay)),
            RelayMode::Publish if relay.from.is_empty() => {
                faults.add(at("from"), "there is nobody to be heard; name a client or a listener");
            }
            _ if relay.from.is_empty() => faults.add(at("from"), listens),
            _ => {}
        }
        match relay.mode {
            RelayMode::Pair if relay.to.is_empty() => faults.add(at("to"), connects),
            RelayMode::Echo if !relay.to.is_empty() => {
                faults.add(at("to"), "mode echo has no target; remove it, or write mode = \"pair\"");
            }
            RelayMode::Hub if !relay.to.is_empty() => {
                faults.add(at("to"), "mode hub joins the clients of its listeners; remove the target");
            }
            RelayMode::Publish if relay.to.is_empty() => {
                faults.add(at("to"), "there is nobody to hear it; name a listener or a client");
            }
            RelayMode::Collect if relay.to.is_empty() => {
                faults.add(at("to"), "mode collect leads to a target; name one, or several that take turns");
            }
            _ => {}
        }
        if relay.to.len() > MOST_TARGETS {
            faults.add(
                at("to"),
                format!("more than {MOST_TARGETS} targets would never all be tried; name fewer"),
            );
        }
        let (targets, usual) = (&relay.options.targets, TargetOptions::default());
        for (key, is_given) in [
            ("strategy", targets.strategy != usual.strategy),
            ("hold", targets.hold != usual.hold),
            ("check", targets.check.is_some()),
        ] {
            let chooses = matches!(relay.mode, RelayMode::Pair | RelayMode::Collect);
            if is_given && (!chooses || relay.to.len() < 2) {
                faults.add(
                    at(key),
                    "there is nothing to choose from; name several targets of mode pair or collect, or remove it",
                );
            }
        }
        check_limit(Some(targets.hold), at("hold"), false, &mut faults.0);
        check_limit(targets.check, at("check"), true, &mut faults.0);
        check_limit(relay.options.idle_timeout, at("idle_timeout"), true, &mut faults.0);
        check_limit(Some(relay.options.half_closed_timeout), at("half_closed_timeout"), false, &mut faults.0);
    }

    /// What is wrong with a name in a relay that leads nowhere.
    pub(super) fn unknown(&self, key: &str, name: &str) -> String {
        let listeners: Vec<_> = self.listen.keys().map(String::as_str).collect();
        let clients: Vec<_> = self.client.keys().map(String::as_str).collect();
        let (is, table, right, other, wrong) = match key {
            "from" => ("listener", "listen", listeners, "client", clients),
            _ => ("client", "client", clients, "listener", listeners),
        };
        let shown = name.escape_debug();
        if wrong.contains(&name) {
            return format!("`{shown}` is a {other}, and `{key}` needs a {is}; name one");
        }
        let hint = did_you_mean(name, right.iter().copied()).unwrap_or_else(|| match right[..] {
            [] => format!("; add [{table}.{shown}]"),
            _ => format!("; there are {}", quoted(right.into_iter())),
        });
        format!("no {is} is called `{shown}`{hint}")
    }

    /// Standard input and output are one conversation, and a socket file one end.
    fn check_ends(&self, faults: &mut Faults) {
        let mut conversations = Vec::new();
        for (id, relay) in &self.relay {
            let from: Vec<_> = self.from(relay).map(|(_, listener)| &listener.bind).collect();
            let to: Vec<_> = self.to(relay).map(|(_, client)| &client.to).collect();
            for (key, list) in [("from", &from), ("to", &to)] {
                if list.len() > 1 && list.contains(&&Address::Stdio) {
                    let text = "stdio: stands alone; remove the other addresses";
                    faults.add(Place::new("relay", id, key), text);
                }
            }
            if from.contains(&&Address::Stdio) && to.contains(&&Address::Stdio) {
                let text = "stdio: cannot be both ends; name an address for one";
                faults.add(Place::new("relay", id, "to"), text);
            } else if self.is_conversation(relay) {
                conversations.push(id);
            }
            if relay.mode == RelayMode::Echo && from.contains(&&Address::Stdio) {
                let text = "stdio: would only talk to itself; name an address to listen on";
                faults.add(Place::new("relay", id, "from"), text);
            }
        }
        if let [first, second, ..] = conversations[..] {
            let text =
                format!("stdio: is one end of relay.{first} already, and there is only one; remove one");
            faults.add(Place::new("relay", second, ""), text);
        }
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: Place, text: impl Into<String>) {
        self.0.push(Fault { place, text: text.into() });
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.len() <= LONGEST_NAME
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Tells whether two listeners would be bound to the same.
pub(super) fn clash(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp { port: 0, .. }, _) | (_, Address::Tcp { port: 0, .. }) => false,
        (Address::Tcp { host: a, port }, Address::Tcp { host: b, port: other }) => {
            port == other && (a == b || covers(a, b) || covers(b, a))
        }
        (Address::Unix(a), Address::Unix(b)) => plain(a) == plain(b),
        // Without a name it is the first, which may have any.
        (Address::Systemd(a), Address::Systemd(b)) => a == b || a.is_empty() || b.is_empty(),
        _ => a == b,
    }
}

/// The path without `.` and `..`, as far as its text tells.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match (part, plain.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => _ = plain.pop(),
            (part, _) => plain.push(part),
        }
    }
    plain
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp { port, .. } => Some(*port),
        Address::Unix(_)
        | Address::Systemd(_)
        | Address::Discover { .. }
        | Address::Stdio
        | Address::Echo => None,
    }
}

/// Tells whether all addresses of `other` are among those of a wildcard.
fn covers(host: &Host, other: &Host) -> bool {
    match host {
        Host::Any => true,
        Host::Ip(IpAddr::V6(ip)) => ip.is_unspecified(),
        Host::Ip(IpAddr::V4(ip)) => ip.is_unspecified() && matches!(other, Host::Ip(IpAddr::V4(_))),
        Host::Scoped(..) | Host::Name(_) => false,
    }
}

pub(super) fn check_limit(limit: Option<Duration>, place: Place, may_be_off: bool, faults: &mut Vec<Fault>) {
    let Some(limit) = limit else { return };
    if limit < Duration::from_millis(1) {
        let off = if may_be_off { "write `off` for no limit" } else { "leave it out for the default" };
        faults.push(Fault { place, text: format!("must be at least 1ms; {off}") });
    } else if limit > LONGEST {
        faults.push(Fault { place, text: TOO_LONG.into() });
    }
}

fn check_source(source: IpAddr, to: &Address, place: Place, faults: &mut Faults) {
    if source.is_unspecified() || source.is_multicast() {
        let text = format!("{source} is not the address of one interface; write one of this machine");
        faults.add(place.clone(), text);
    }
    // A broadcast is of IPv4.
    let is_ipv4 = match to {
        Address::Tcp { host: Host::Ip(ip), .. } | Address::Discover { host: Host::Ip(ip), .. } => {
            ip.is_ipv4()
        }
        Address::Discover { host: Host::Any, .. } => true,
        _ => return,
    };
    if is_ipv4 != source.is_ipv4() {
        faults.add(place, format!("{to} cannot be reached from {source}; use addresses of one family"));
    }
}

/// What the kernel cannot be asked for here.
fn kernel_faults(
    options: &KernelOptions,
    address: &Address,
    at: &dyn Fn(&'static str) -> Place,
    faults: &mut Faults,
) {
    let buffers = [
        ("kernel_receive_buffer", options.kernel_receive_buffer),
        ("kernel_send_buffer", options.kernel_send_buffer),
    ];
    let mut given = vec![("interface", options.interface.is_some()), ("tos", options.tos.is_some())];
    given.extend(buffers.map(|(key, size)| (key, size.is_some())));
    if !matches!(address, Address::Tcp { .. } | Address::Systemd(_) | Address::Discover { .. }) {
        for (key, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
            faults.add(at(key), format!("{address} is no network address, and has none; remove it"));
        }
    }
    for (key, size) in buffers {
        if size.is_some_and(|size| !(LEAST_BUFFER..=MOST_BUFFER).contains(&size)) {
            faults.add(at(key), "is not from 4KiB to 1GiB; write for example 1MiB");
        }
    }
}

/// Names that wires and calls use for the node's own parts.
const TAKEN: [&str; 3] = ["node", "log", "script"];
const NO_LISTENER: &str = "there is no listener that it could hold for; listen on an address, or remove it";
pub(super) const TOO_LONG: &str = "is longer than a year; leave it out for the default";
/// Timers beyond this are mistakes.
pub(crate) const LONGEST: Duration = Duration::from_secs(366 * 86_400);
/// Below this a relay would do little but system calls.
const LEAST_READ: usize = 4 << 10;
/// A few reads at once.
const LEAST_BUDGET: usize = 1 << 20;
/// More would only be in each other's way.
const MOST_THREADS: usize = 256;
/// Below this the kernel takes its own least.
const LEAST_BUFFER: usize = 4 << 10;
const MOST_BUFFER: usize = 1 << 30;
const LONGEST_NAME: usize = 64;
/// Each has its own time limit, one after the other.
const MOST_TARGETS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(from: &[&str], to: &[&str]) -> Config {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        Config::relay(parse(from), parse(to))
    }

    fn faults(config: &Config) -> Vec<String> {
        config.check().into_iter().map(|fault| fault.place.to_string()).collect()
    }

    #[test]
    fn what_is_right_has_no_faults() {
        for (from, to) in [
            (&["9000"][..], &["host:9001"][..]),
            (&["9000", "127.0.0.1:9002", "0", "0"], &["a:1", "b:1"]),
            (&["9000"], &["echo:"]),
            (&["9000"], &["stdio:"]),
            (&["stdio:"], &["unix:/a"]),
        ] {
            assert_eq!(config(from, to).check(), []);
        }
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let mut config = config(&["9000", "9000", "echo:"], &["host:0"]);
        config.node.max_connections = Some(0);
        config.client.get_mut("connect1").unwrap().options.connect_timeout = Duration::ZERO;
        config.listen.get_mut("listen1").unwrap().options.backlog = Some(0);
        config.listen.insert("Odd name".into(), config.listen["listen1"].clone());
        config.client.insert("listen1".into(), config.client["connect1"].clone());
        config.relay.get_mut("relay").unwrap().to.push("conect1".into());
        let expected = [
            "listen.Odd name",
            "client.listen1",
            "listen.listen1.bind",
            "listen.listen1.backlog",
            "listen.listen2.bind",
            "listen.listen3.bind",
            "client.connect1.to",
            "client.connect1.connect_timeout",
            "client.listen1.to",
            "client.listen1.connect_timeout",
            "relay.relay.to",
            "node.max_connections",
        ];
        let mut found = faults(&config);
        found.retain(|place| place != "listen.Odd name.backlog");
        assert_eq!(found, expected);
    }

    #[test]
    fn a_wildcard_takes_the_port_of_every_address() {
        for (first, second, clashes) in [
            ("9000", "127.0.0.1:9000", true),
            ("[::]:9000", "0.0.0.0:9000", true),
            ("0.0.0.0:9000", "127.0.0.1:9000", true),
            ("0.0.0.0:9000", "[::1]:9000", false),
            ("127.0.0.1:9000", "127.0.0.2:9000", false),
            ("9000", "9001", false),
            ("0", "0", false),
            ("unix:/a/b", "unix:/a/./b", true),
            ("unix:/a/b", "unix:/../a/c/../b", true),
            ("unix:b", "unix:./b", true),
            ("unix:b", "unix:../b", false),
            ("systemd:", "systemd:b", true),
            ("systemd:a", "systemd:b", false),
        ] {
            let found = !config(&[first, second], &["echo:"]).check().is_empty();
            assert_eq!(found, clashes, "{first} and {second}");
        }
    }

    #[test]
    fn the_control_socket_has_a_path_of_its_own() {
        let mut config = config(&["unix:/a/b"], &["echo:"]);
        config.program.control = Some("/a/./b".into());
        assert_eq!(faults(&config), ["listen.listen1.bind"]);
        config.program.control = Some("/a/c".into());
        assert!(config.check().is_empty());
    }

    #[test]
    fn ends_that_cannot_meet_are_refused() {
        assert_eq!(faults(&config(&["stdio:"], &["stdio:"])), ["relay.relay.to"]);
        assert_eq!(faults(&config(&["stdio:", "9000"], &["a:1"])), ["relay.relay.from"]);
        let mut source = config(&["9000"], &["127.0.0.1:1"]);
        source.client.get_mut("connect1").unwrap().options.source = Some("::1".parse().unwrap());
        assert_eq!(faults(&source), ["client.connect1.source"]);
        let mut allow = config(&["unix:/a"], &["a:1"]);
        allow.listen.get_mut("listen1").unwrap().options.access.allow("10.0.0.0/8").unwrap();
        assert_eq!(faults(&allow), ["listen.listen1.allow"]);
        let mut many = config(&["9000"], &["a:1"]);
        many.node.max_connections = Some(usize::MAX);
        assert_eq!(faults(&many), ["node.max_connections"]);
    }
}
