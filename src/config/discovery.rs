//! Discovery in a config, and what cannot be of it: a port that nobody can
//! ask, a listener that nobody could reach, networks that are not named.

use ipnet::IpNet;

use super::check::clash;
use super::{Config, Fault, Place};
use crate::address::{Address, Host};
use crate::net::DiscoveryOptions;

/// A UDP port on which the TCP port of a listener is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryConfig {
    /// The UDP port, on all interfaces or on one address, in the TCP form of an address.
    pub bind: Address,
    /// The name of the listener.
    pub listener: String,
    /// Who is answered, and how often.
    pub options: DiscoveryOptions,
}

impl DiscoveryConfig {
    /// Discovery of `listener` on the UDP port of `bind`, which answers nobody until networks are allowed.
    pub fn new(bind: Address, listener: impl Into<String>) -> Self {
        Self { bind, listener: listener.into(), options: DiscoveryOptions::default() }
    }
}

impl Config {
    /// What is wrong with discovery.
    pub(super) fn check_discovery(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut earlier: Vec<(&String, &Address)> = Vec::new();
        for (id, discovery) in &self.discovery {
            let mut add =
                |key, text: String| faults.push(Fault { place: Place::new("discovery", id, key), text });
            let DiscoveryConfig { bind, listener, options } = discovery;
            match bind {
                Address::Tcp { host: Host::Any | Host::Ip(_) | Host::Scoped(..), .. } => {}
                _ => add("bind", format!("{bind} is no UDP port to bind; write for example \"4000\"")),
            }
            if let Some((other, _)) = earlier.iter().find(|(_, other)| clash(other, bind)) {
                add("bind", format!("UDP {bind} is taken by `{other}` already; choose another port"));
            }
            earlier.push((id, bind));
            let networks = options.networks.allows();
            if networks.is_empty() {
                add("networks", format!("names nobody to answer; {SOME}"));
            }
            match self.listen.get(listener) {
                None => add("for", self.unknown("from", listener)),
                Some(listening) => match &listening.bind {
                    Address::Tcp { .. } | Address::Systemd(_) => {
                        let stranger = networks.iter().find(|network| !is_loopback(network));
                        if let Some(literal) = listening.bind.literal()
                            && literal.ip().is_loopback()
                            && let Some(stranger) = stranger
                        {
                            let text = format!(
                                "`{listener}` listens on {literal}, which nobody in {stranger} can reach; \
                                 have it listen on all interfaces"
                            );
                            add("for", text);
                        }
                    }
                    other => add(
                        "for",
                        format!("`{listener}` listens on {other}, which has no TCP port; name one that has"),
                    ),
                },
            }
            for (key, rate) in [
                ("answer_rate", options.answer_rate),
                ("answer_rate_per_address", options.answer_rate_per_address),
            ] {
                if !(1..=MOST_ANSWERS).contains(&rate) {
                    add(key, format!("{rate} a second is not possible; write 1 to {MOST_ANSWERS}"));
                }
            }
        }
        faults
    }
}

fn is_loopback(network: &IpNet) -> bool {
    network.network().is_loopback()
}

/// How networks are named.
pub(super) const SOME: &str = r#"write networks such as ["192.168.1.0/24"]"#;
/// Those who are answered are remembered for a second.
const MOST_ANSWERS: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(bind: &str, listen: &str, networks: &[&str], rate: u32) -> Vec<String> {
        let mut config = Config::relay([listen.parse().unwrap()], ["echo:".parse().unwrap()]);
        let mut discovery =
            DiscoveryConfig::new(bind.parse().unwrap(), config.relay["relay"].from[0].clone());
        networks.iter().for_each(|network| discovery.options.networks.allow(network).unwrap());
        discovery.options.answer_rate = rate;
        config.discovery.insert("lan".into(), discovery);
        config.check().into_iter().map(|fault| fault.place.to_string()).collect()
    }

    #[test]
    fn a_port_that_can_be_asked_for_a_listener_that_can_be_reached() {
        let none: [&str; 0] = [];
        for (bind, listen) in [("4000", "9000"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:4000", "systemd:")] {
            assert_eq!(faults(bind, listen, &["127.0.0.0/8"], 100), none, "{bind} {listen}");
        }
        assert_eq!(faults("4000", "9000", &["10.0.0.0/8", "fd00::/8"], 1), none);
        for bind in ["unix:/a", "echo:", "host:4000", "systemd:"] {
            assert_eq!(faults(bind, "9000", &["10.0.0.0/8"], 1), ["discovery.lan.bind"], "{bind}");
        }
        for (listen, network) in
            [("unix:/a", "10.0.0.0/8"), ("127.0.0.1:9000", "10.0.0.0/8"), ("[::1]:1", "::/0")]
        {
            assert_eq!(faults("4000", listen, &[network], 1), ["discovery.lan.for"], "{listen}");
        }
        assert_eq!(faults("4000", "9000", &[], 1), ["discovery.lan.networks"]);
        for rate in [0, 10_001] {
            assert_eq!(faults("4000", "9000", &["10.0.0.0/8"], rate), ["discovery.lan.answer_rate"]);
        }
    }

    #[test]
    fn each_has_a_port_and_a_name_of_its_own() {
        let mut config = Config::relay(["9000".parse().unwrap()], ["echo:".parse().unwrap()]);
        let mut discovery = DiscoveryConfig::new("4000".parse().unwrap(), "listen1");
        discovery.options.networks.allow("10.0.0.0/8").unwrap();
        config.discovery.insert("a".into(), discovery.clone());
        config.discovery.insert("b".into(), discovery.clone());
        let places =
            |config: &Config| config.check().iter().map(|fault| fault.place.to_string()).collect::<Vec<_>>();
        assert_eq!(places(&config), ["discovery.b.bind"]);
        config.discovery.remove("b");
        discovery.bind = "4001".parse().unwrap();
        discovery.listener = "listen2".into();
        config.discovery.insert("relay".into(), discovery);
        assert_eq!(places(&config), ["discovery.relay", "discovery.relay.for"]);
    }
}
