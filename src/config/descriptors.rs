//! How many clients the descriptors of this process allow: a client of a pair
//! takes another one for its target, a client of anything else takes one.

use super::{Config, Fault, Place};
use crate::address::Address;
use crate::relay::RelayMode;

impl Config {
    /// The most clients there may be at once.
    pub(crate) fn most_clients(&self) -> usize {
        self.node.max_connections.unwrap_or_else(|| self.possible_clients())
    }

    fn possible_clients(&self) -> usize {
        let free = self.free_descriptors();
        // Those that need two are at most as many as their listeners let in.
        free.saturating_sub(self.dialled_for().min(free.div_ceil(2))).max(1)
    }

    /// What is wrong with limits that no descriptors are left for.
    pub(super) fn check_most(&self) -> Vec<Fault> {
        let free = self.free_descriptors();
        let mut faults = Vec::new();
        let mut check = |place, wanted: usize, dialled: usize, most: usize| {
            let text = match wanted {
                0 => "0 would accept nobody; write at least 1".to_owned(),
                _ if wanted <= most => return,
                _ => {
                    let (limit, needed) =
                        (limit(), wanted.saturating_add(dialled).saturating_add(limit() - free));
                    format!(
                        "{wanted} clients take up to {needed} descriptors, and this process may open {limit}; \
                         try {most}, or raise the limit (ulimit -Hn)"
                    )
                }
            };
            faults.push(Fault { place, text });
        };
        if let Some(wanted) = self.node.max_connections {
            let dialled = self.dialled_for().min(wanted);
            check(Place::new("node", "", "max_connections"), wanted, dialled, self.possible_clients());
        }
        for (id, listener) in &self.listen {
            let Some(wanted) = listener.options.max_connections else { continue };
            let (dialled, most) = if self.dials_for(id) { (wanted, free / 2) } else { (0, free) };
            check(Place::new("listen", id, "max_connections"), wanted, dialled, most.max(1));
        }
        faults
    }

    /// The clients for each of whom a target is dialled.
    fn dialled_for(&self) -> usize {
        let listeners = self.listen.iter().filter(|(id, _)| self.dials_for(id));
        let most = listeners.map(|(_, listener)| listener.options.max_connections.unwrap_or(usize::MAX));
        most.fold(0, usize::saturating_add)
    }

    /// Whether a target is dialled for each client of a listener.
    fn dials_for(&self, id: &str) -> bool {
        let mut relays = self.relay.values().filter(|relay| relay.mode == RelayMode::Pair);
        relays.any(|relay| {
            relay.from.iter().any(|from| from == id)
                && self.to(relay).any(|(_, client)| client.to != Address::Echo)
        })
    }

    /// Descriptors for connections of clients, and of their targets.
    fn free_descriptors(&self) -> usize {
        limit().saturating_sub(KEPT + self.listen.len() + self.client.len())
    }
}

/// What this process may open.
fn limit() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// The standard streams, the runtime's own, the control socket's, and some for name lookups. Listeners, and
/// targets that are kept connected, come beside these.
const KEPT: usize = 62;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(from: &[&str], to: &[&str]) -> Config {
        let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        Config::relay(parsed(from), parsed(to))
    }

    #[test]
    fn only_a_target_that_is_dialled_for_a_client_takes_another() {
        let free = |objects: usize| limit() - KEPT - objects;
        assert_eq!(config(&["9000"], &["a:1"]).most_clients(), free(2) / 2);
        assert_eq!(config(&["9000"], &["echo:"]).most_clients(), free(2));
        assert_eq!(config(&["9000"], &["echo:", "a:1"]).most_clients(), free(3) / 2);
        let mut collect = config(&["9000"], &["a:1"]);
        collect.relay.values_mut().for_each(|relay| relay.mode = RelayMode::Collect);
        assert_eq!(collect.most_clients(), free(2));
    }

    #[test]
    fn those_that_take_two_are_no_more_than_their_listeners_let_in() {
        let mut mixed = config(&["9000"], &["a:1"]);
        mixed.listen.get_mut("listen1").unwrap().options.max_connections = Some(10);
        assert_eq!(mixed.most_clients(), limit() - KEPT - 2 - 10);
        mixed.node.max_connections = Some(limit() - KEPT - 11);
        assert_eq!(mixed.check_most().len(), 1);
        mixed.node.max_connections = Some(limit() - KEPT - 12);
        assert!(mixed.check_most().is_empty());
        mixed.listen.get_mut("listen1").unwrap().options.max_connections = Some(usize::MAX);
        assert_eq!(mixed.check_most().len(), 2);
    }
}
