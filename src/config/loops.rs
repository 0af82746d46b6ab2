//! Which targets are listeners of the same node: a chain of relays is one
//! thing, a circle another.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use super::{Config, Fault, Place};
use crate::address::{Address, Host};

/// Clients that lead to listeners of the same node, by their names.
pub(crate) type Leads = BTreeSet<(String, String)>;

impl Config {
    /// Those that can be seen without asking a resolver.
    pub(crate) fn literal_leads(&self) -> Leads {
        let mut leads = Leads::new();
        for (client, target) in &self.client {
            let reached = self.listen.iter().filter(|(_, listener)| reaches(&target.to, &listener.bind));
            leads.extend(reached.map(|(listener, _)| (client.clone(), listener.clone())));
        }
        leads
    }

    /// The circles these make: each is a fault of the client that closes it.
    pub(crate) fn circles(&self, leads: &Leads) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut done = BTreeSet::new();
        if leads.is_empty() {
            return faults;
        }
        for id in self.relay.keys() {
            self.walk(id, leads, &mut Vec::new(), &mut done, &mut faults);
        }
        faults
    }

    /// Goes on from a relay along what its clients lead to; `way` is how it came here.
    fn walk<'a>(
        &'a self,
        id: &'a str,
        leads: &Leads,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
        faults: &mut Vec<Fault>,
    ) {
        if done.contains(id) {
            return;
        }
        way.push(id);
        for (client, target) in self.to(&self.relay[id]) {
            for (next, relay) in &self.relay {
                if !relay.from.iter().any(|from| leads.contains(&(client.to_owned(), from.clone()))) {
                    continue;
                }
                match way.iter().position(|known| known == next) {
                    Some(begin) => {
                        let text = circle(&target.to, &way[begin..]);
                        faults.push(Fault { place: Place::new("client", client, "to"), text });
                    }
                    None => self.walk(next, leads, way, done, faults),
                }
            }
        }
        way.pop();
        done.insert(id);
    }
}

fn circle(target: &Address, way: &[&str]) -> String {
    match (target, way) {
        (Address::Unix(_), [_]) => format!("{target} would connect to itself; name another socket"),
        (_, [_]) => {
            let target = target.as_target();
            format!("{target} would connect to itself, since the node listens there; name another port")
        }
        _ => {
            let way: Vec<_> = way.iter().chain(way.first()).map(|id| format!("relay.{id}")).collect();
            format!("{} leads in a circle, {}; name another target", target.as_target(), way.join(" → "))
        }
    }
}

/// Tells whether connecting to `target` must reach a listener bound to `bind`.
fn reaches(target: &Address, bind: &Address) -> bool {
    match (target, bind) {
        (Address::Tcp { host: target, port }, Address::Tcp { host: bind, port: bound }) => {
            let reaches_bound = target == bind
                || is_wildcard(bind) && is_loopback(target)
                || is_localhost(target) && is_localhost(bind);
            port == bound && reaches_bound
        }
        (Address::Unix(target), Address::Unix(bind)) => target == bind,
        _ => false,
    }
}

fn is_wildcard(host: &Host) -> bool {
    match host {
        Host::Any => true,
        Host::Ip(ip) => ip.is_unspecified(),
        Host::Scoped(..) | Host::Name(_) => false,
    }
}

/// By its name or by its address: the name stands for that everywhere, and not everywhere for `::1`.
fn is_localhost(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => *ip == IpAddr::V4(Ipv4Addr::LOCALHOST),
        Host::Name(name) => name == "localhost",
        Host::Any | Host::Scoped(..) => false,
    }
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Any => true,
        Host::Ip(IpAddr::V4(ip)) => ip.is_loopback(),
        Host::Ip(IpAddr::V6(ip)) => ip.is_loopback(),
        Host::Name(name) => name == "localhost",
        Host::Scoped(..) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RelayConfig;

    /// Relays `a` to `d`, each from a listener to a client of its own.
    fn chain(ends: &[(&str, &str)]) -> Vec<String> {
        let mut config = Config::default();
        for (nth, (from, to)) in ends.iter().enumerate() {
            let part = Config::relay([from.parse().unwrap()], [to.parse().unwrap()]);
            let (listener, client) = (format!("l{nth}"), format!("c{nth}"));
            config.listen.insert(listener.clone(), part.listen["listen1"].clone());
            config.client.insert(client.clone(), part.client["connect1"].clone());
            let relay = RelayConfig { from: vec![listener], to: vec![client], ..RelayConfig::default() };
            config.relay.insert(["a", "b", "c", "d"][nth].into(), relay);
        }
        config.check().into_iter().map(|fault| fault.to_string()).collect()
    }

    #[test]
    fn a_chain_of_relays_is_no_circle_and_a_circle_is_shown() {
        assert_eq!(chain(&[("9001", "9002"), ("9002", "9003"), ("9003", "host:1")]), [""; 0]);
        assert_eq!(
            chain(&[("9001", "9002"), ("9002", "127.0.0.1:9003"), ("0.0.0.0:9003", "localhost:9001")]),
            [
                "client.c2.to: localhost:9001 leads in a circle, relay.a → relay.b → relay.c → relay.a; name another target"
            ]
        );
        assert_eq!(chain(&[("127.0.0.1:1", "127.0.0.2:1")]), [""; 0]);
        assert_eq!(chain(&[("[::1]:1", "localhost:1")]), [""; 0]);
        for (from, to) in [("127.0.0.1:1", "localhost:1"), ("localhost:1", "127.0.0.1:1")] {
            let fault = format!(
                "client.c0.to: {to} would connect to itself, since the node listens there; name another port"
            );
            assert_eq!(chain(&[(from, to)]), [fault]);
        }
        assert_eq!(chain(&[("1", "host:1"), ("unix:/s", "unix:/s")]).len(), 1);
    }
}
