//! Following another config: what is checked and bound before anything
//! changes, and what then has changed.

use std::collections::BTreeMap;
use std::fmt;

use super::{Node, NodeError, material, wiring};
use crate::address::Address;
use crate::config::keys::{self, Key};
use crate::config::{ClientConfig, Config, Fault, Place, Reload};
use crate::relay::Stop;

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects that are new, as `listen.a`.
    pub added: Vec<String>,
    /// Objects that are gone.
    pub removed: Vec<String>,
    /// Keys of objects, or of `node`, that are not as they were, as `listen.a.backlog`.
    pub changed: Vec<String>,
    /// Keys that are different and do not take effect before the next start.
    pub restart: Vec<&'static str>,
}

impl Node {
    /// Follows another config from now on: checks it, binds what is new, and
    /// only then changes anything. Listeners whose address stays keep their
    /// sockets; connections that are not concerned notice nothing.
    ///
    /// Cancel safe: dropped before its end, nothing has changed.
    ///
    /// # Errors
    /// [`NodeError`], and nothing has changed.
    pub async fn reload(&mut self, mut config: Config) -> Result<Changes, NodeError> {
        if *self.stop.borrow() != Stop::No {
            return Err(NodeError::Stopping);
        }
        let leads = wiring::check(&config).await?;
        let material = material::read(&config).await?;
        let (talks, talked) = (conversation(&config), conversation(&self.config));
        let (shows, showed) = (terminal(&config), terminal(&self.config));
        let is_other = (talks != talked, shows != showed);
        let relay = talks.or(talked).filter(|_| is_other.0).map(|(id, _)| ("relay", id));
        let client = shows.or(showed).filter(|_| is_other.1).map(|(id, _)| ("client", id));
        if let Some((table, id)) = relay.or(client) {
            let text = "standard input and output come and go with the process; start the node anew";
            return Err(NodeError::Config(vec![Fault {
                place: Place::new(table, id, ""),
                text: text.into(),
            }]));
        }
        let matches = self.wiring.match_listeners(&config).await;
        self.wiring.check_access(&config, &matches)?;
        let bound = self.wiring.bind_new(&config, &matches).await?;
        let told = self.discoveries.bind_new(&config)?;
        let started = self.scripts.start_new(&config, &self.registry).await?;

        // From here on nothing waits and nothing fails.
        let restart = keep_fixed(&self.config, &mut config);
        config.tap = self.config.tap.take();
        let mut changes = changes(&self.config, &config);
        changes.restart.extend(restart);
        for id in self.wiring.speakers.follow(material) {
            // Their names may have stayed, and what is in them not.
            let name = format!("tls.{id}");
            if !changes
                .changed
                .iter()
                .any(|key| key.strip_prefix(&name).is_some_and(|key| key.starts_with('.')))
            {
                changes.changed.push(name);
            }
        }
        self.config = config;
        let closed = self.wiring.close_unmatched(&matches, &self.config);
        self.open(bound, told, closed, started, &leads);
        Ok(changes)
    }
}

/// The relay with standard input and output, and all its ends by their names: its one session goes on
/// with them whatever a config says.
fn conversation(config: &Config) -> Option<(&String, Vec<(&str, &Address)>)> {
    let (id, relay) = config.relay.iter().find(|(_, relay)| config.is_conversation(relay))?;
    let from = config.from(relay).map(|(name, listener)| (name, &listener.bind));
    let to = config.to(relay).map(|(name, client)| (name, &client.to));
    Some((id, from.chain(to).collect()))
}

/// The client that is standard input and output for wires and scripts.
fn terminal(config: &Config) -> Option<(&String, &ClientConfig)> {
    config.client.iter().find(|(id, client)| client.to == Address::Stdio && config.is_wired(id))
}

/// Has the keys of `[node]` that cannot follow stay as they were, and names those that should have.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut different = Vec::new();
    for key in keys::node().iter().filter(|key| key.reload == Reload::Restart) {
        if key.write(old) != key.write(new) {
            different.push(key.name);
            key.keep(old, new);
        }
    }
    different
}

fn changes(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    changes.note("node", keys::node(), old, new);
    changes.compare("listen", keys::listen, &old.listen, &new.listen);
    changes.compare("client", keys::client, &old.client, &new.client);
    changes.compare("tls", keys::tls, &old.tls, &new.tls);
    changes.compare("relay", keys::relay, &old.relay, &new.relay);
    changes.compare("discovery", keys::discovery, &old.discovery, &new.discovery);
    changes.compare("timer", keys::timer, &old.timer, &new.timer);
    changes.compare("script", keys::script, &old.script, &new.script);
    // The file may have changed, and not its name.
    for (id, script) in &new.script {
        if old.script.get(id).is_some_and(|old| {
            old.file == script.file && old.code == script.code && old.source != script.source
        }) {
            changes.changed.push(format!("script.{id}.file"));
        }
    }
    if old.connect != new.connect {
        changes.changed.push("connect".into());
    }
    if old.step != new.step {
        changes.restart.push("step");
    }
    changes
}

impl Changes {
    fn compare<T>(
        &mut self,
        table: &str,
        keys: fn() -> Vec<Key<T>>,
        old: &BTreeMap<String, T>,
        new: &BTreeMap<String, T>,
    ) {
        let name = |id: &String| format!("{table}.{id}");
        self.added.extend(new.keys().filter(|id| !old.contains_key(*id)).map(name));
        self.removed.extend(old.keys().filter(|id| !new.contains_key(*id)).map(name));
        for (id, new) in new {
            if let Some(old) = old.get(id) {
                self.note(&name(id), keys(), old, new);
            }
        }
    }

    /// Notes the keys of an object that differ.
    fn note<T>(&mut self, object: &str, keys: Vec<Key<T>>, old: &T, new: &T) {
        let differ = keys.into_iter().filter(|key| key.write(old) != key.write(new));
        self.changed.extend(differ.map(|key| format!("{object}.{}", key.name)));
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)];
        let lists: Vec<_> = lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what} {}", names.join(", ")))
            .collect();
        if lists.is_empty() { f.write_str("nothing has changed") } else { f.write_str(&lists.join("; ")) }
    }
}
