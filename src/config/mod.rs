//! What a node is to do, as plain data, and the check that it can. The
//! command line builds this; nothing is opened here.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::address::{Address, Host};
use crate::relay::{RelayOptions, most_connections};

/// A whole node: one relay from listeners to targets.
///
/// ```
/// use signal_node::Config;
///
/// let config = Config {
///     from: vec!["127.0.0.1:0".parse()?],
///     to: vec!["echo:".parse()?],
///     ..Config::default()
/// };
/// assert!(config.check().is_empty());
/// # Ok::<(), signal_node::AddressError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients come from: addresses to listen on, or `stdio:` alone.
    pub from: Vec<Address>,
    /// The targets: the first is dialled for each client, the next when it
    /// fails. Or `stdio:` alone.
    pub to: Vec<Address>,
    /// Limits and options of the relay.
    pub relay: RelayOptions,
    /// Time for connections to end once the node is told to stop.
    pub shutdown_grace: Duration,
    /// Memory for bytes that wait for a destination, in bytes.
    pub budget: usize,
}

/// Something in a [`Config`] that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What, and what to try.
    pub text: String,
}

/// The part of a [`Config`] that a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each names a field")]
pub enum Place {
    From,
    To,
    Access,
    MaxConnections,
    IdleTimeout,
    ConnectTimeout,
    HalfClosedTimeout,
    ShutdownGrace,
    Source,
    Backlog,
}

impl Config {
    /// Finds everything that is wrong, without opening anything.
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut fault = |place, text: String| faults.push(Fault { place, text });
        self.check_addresses(&mut fault);
        self.check_limits(&mut fault);
        faults
    }

    fn check_addresses(&self, fault: &mut impl FnMut(Place, String)) {
        for (list, place, what) in
            [(&self.from, Place::From, "listen on"), (&self.to, Place::To, "connect to")]
        {
            if list.is_empty() {
                fault(place, format!("there is nothing to {what}; name an address, or stdio:"));
            }
            if list.len() > 1 && list.contains(&Address::Stdio) {
                fault(place, "stdio: stands alone; remove the other addresses".into());
            }
        }
        for error in self.from.iter().filter_map(|address| address.check_listen().err()) {
            fault(Place::From, error.to_string());
        }
        for error in self.to.iter().filter_map(|address| address.check_connect().err()) {
            fault(Place::To, error.to_string());
        }
        for (i, address) in self.from.iter().enumerate() {
            let ephemeral = matches!(address, Address::Tcp { port: 0, .. });
            if !ephemeral && self.from[..i].contains(address) {
                fault(Place::From, format!("{address} is listed twice; remove one"));
            }
        }
        for address in self.from.iter().filter(|address| self.to.contains(address)) {
            match address {
                Address::Unix(_) => {
                    fault(Place::To, format!("{address} would connect to itself; name another socket"))
                }
                Address::Stdio => {
                    fault(Place::To, "stdio: cannot be both ends; name an address for one".into())
                }
                // TCP targets are compared when their names are resolved.
                Address::Tcp { .. } | Address::Echo => {}
            }
        }
        if self.from == [Address::Stdio] {
            let relay = &self.relay;
            let idle_options = [
                (!relay.access.is_empty(), Place::Access),
                (relay.max_connections.is_some(), Place::MaxConnections),
                (relay.listen.backlog.is_some(), Place::Backlog),
            ];
            for (_, place) in idle_options.into_iter().filter(|(is_set, _)| *is_set) {
                fault(place, "there is no listener that it could hold for; add --listen or remove it".into());
            }
        }
        let has_unix = self.from.iter().any(|address| matches!(address, Address::Unix(_)));
        if has_unix && !self.relay.access.is_empty() {
            fault(
                Place::Access,
                "allow and deny know networks, and clients of unix: have none; use the socket's folder permissions"
                    .into(),
            );
        }
        if let Some(source) = self.relay.dial.source {
            self.check_source(source, fault);
        }
    }

    fn check_source(&self, source: IpAddr, fault: &mut impl FnMut(Place, String)) {
        if source.is_unspecified() || source.is_multicast() {
            fault(
                Place::Source,
                format!("{source} is not the address of one interface; write one of this machine"),
            );
        }
        for address in &self.to {
            if let Address::Tcp { host: Host::Ip(ip), .. } = address
                && ip.is_ipv4() != source.is_ipv4()
            {
                fault(
                    Place::Source,
                    format!("{address} cannot be reached from {source}; use addresses of one family"),
                );
            }
        }
    }

    fn check_limits(&self, fault: &mut impl FnMut(Place, String)) {
        let relay = &self.relay;
        let most = most_connections();
        match relay.max_connections {
            Some(0) => fault(Place::MaxConnections, "0 would accept nobody; write at least 1".into()),
            Some(wanted) if wanted > most => fault(
                Place::MaxConnections,
                format!(
                    "{wanted} pairs need more descriptors than this process may open; \
                     try {most}, or raise the limit (ulimit -Hn)"
                ),
            ),
            _ => {}
        }
        let limits = [
            (relay.idle_timeout, Place::IdleTimeout),
            (Some(relay.dial.connect_timeout), Place::ConnectTimeout),
            (Some(relay.half_closed_timeout), Place::HalfClosedTimeout),
        ];
        for (limit, place) in limits {
            if limit.is_some_and(|limit| limit < Duration::from_millis(1)) {
                let off = if place == Place::IdleTimeout {
                    "write `off` for no limit"
                } else {
                    "leave it out for the default"
                };
                fault(place, format!("must be at least 1ms; {off}"));
            }
        }
        for (limit, place) in limits.into_iter().chain([(Some(self.shutdown_grace), Place::ShutdownGrace)]) {
            if limit.is_some_and(|limit| limit > LONGEST) {
                fault(place, "is longer than a year; leave it out for the default".into());
            }
        }
        if relay.listen.backlog == Some(0) {
            fault(Place::Backlog, "0 would queue nobody; write at least 1".into());
        }
    }
}

impl Default for Config {
    /// No addresses yet, the relay's defaults, 10 s, 256 MiB.
    fn default() -> Self {
        Self {
            from: Vec::new(),
            to: Vec::new(),
            relay: RelayOptions::default(),
            shutdown_grace: Duration::from_secs(10),
            budget: 256 << 20,
        }
    }
}

impl Place {
    /// The option of the command line that sets it.
    pub const fn option(self) -> &'static str {
        match self {
            Self::From => "--listen",
            Self::To => "--connect",
            Self::Access => "--allow, --deny",
            Self::MaxConnections => "--max-connections",
            Self::IdleTimeout => "--idle-timeout",
            Self::ConnectTimeout => "--connect-timeout",
            Self::HalfClosedTimeout => "--half-closed-timeout",
            Self::ShutdownGrace => "--shutdown-grace",
            Self::Source => "--source",
            Self::Backlog => "--backlog",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place.option(), self.text)
    }
}

/// Timers beyond this are mistakes.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    fn places(from: &[&str], to: &[&str], change: impl FnOnce(&mut Config)) -> Vec<Place> {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let mut config = Config { from: parse(from), to: parse(to), ..Config::default() };
        change(&mut config);
        config.check().into_iter().map(|fault| fault.place).collect()
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
            assert_eq!(places(from, to, |_| ()), []);
        }
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let found = places(&["9000", "9000", "echo:"], &["host:0"], |config| {
            config.relay.max_connections = Some(0);
            config.relay.dial.connect_timeout = Duration::ZERO;
            config.relay.listen.backlog = Some(0);
        });
        use Place::*;
        assert_eq!(found, [From, To, From, MaxConnections, ConnectTimeout, Backlog]);
    }

    #[test]
    fn ends_that_cannot_meet_are_refused() {
        assert_eq!(places(&["stdio:"], &["stdio:"], |_| ()), [Place::To]);
        assert_eq!(places(&["stdio:", "9000"], &["a:1"], |_| ()), [Place::From]);
        assert_eq!(places(&["unix:/a"], &["unix:/a"], |_| ()), [Place::To]);
        let source = |config: &mut Config| config.relay.dial.source = Some("::1".parse().unwrap());
        assert_eq!(places(&["9000"], &["127.0.0.1:1"], source), [Place::Source]);
        let allow = |config: &mut Config| config.relay.access.allow("10.0.0.0/8").unwrap();
        assert_eq!(places(&["unix:/a"], &["a:1"], allow), [Place::Access]);
        let many = |config: &mut Config| config.relay.max_connections = Some(usize::MAX);
        assert_eq!(places(&["9000"], &["a:1"], many), [Place::MaxConnections]);
    }
}
