//! [`Scripts`]: the scripts that run. A reload starts those that are different,
//! and ends the old ones once the new ones are called.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::NodeError;
use crate::config::{Config, Fault, Place, ScriptConfig};
use crate::registry::{Functions, Object, Registry};
use crate::script::Script;
use crate::wiring::{Destination, Tap};

/// The scripts of a node, by name.
#[derive(Debug, Default)]
pub(super) struct Scripts {
    running: BTreeMap<String, Running>,
    ending: JoinSet<()>,
}

#[derive(Clone, Debug)]
struct Running {
    config: ScriptConfig,
    script: Arc<Script>,
}

/// Scripts that were loaded and are not called yet.
pub(super) type Started = BTreeMap<String, Arc<Script>>;

impl Scripts {
    /// Loads those of `config` that do not run as it says.
    pub(super) async fn start_new(&self, config: &Config, registry: &Registry) -> Result<Started, NodeError> {
        let mut started = Started::new();
        for (id, script) in &config.script {
            if self.running.get(id).is_some_and(|running| running.config == *script) {
                continue;
            }
            let loaded = Script::start(id, &script.source, &script.options, registry).await;
            let loaded = loaded.map_err(|error| {
                NodeError::Config(vec![Fault { place: Place::new("script", id, ""), text: error.text }])
            })?;
            started.insert(id.clone(), loaded);
        }
        Ok(started)
    }

    /// Has those that were started take the place of those that are not in `config` as they were.
    pub(super) fn follow(&mut self, config: &Config, mut started: Started) {
        for (id, old) in std::mem::take(&mut self.running) {
            match config.script.get(&id) {
                Some(script) if *script == old.config => {
                    self.running.insert(id, old);
                }
                _ => {
                    self.ending.spawn(async move { old.script.stop().await });
                }
            }
        }
        for (id, script) in &config.script {
            if let Some(started) = started.remove(id) {
                self.running.insert(id.clone(), Running { config: script.clone(), script: started });
            }
        }
    }

    /// Those that run, by the names others call them by.
    pub(super) fn objects(&self) -> impl Iterator<Item = (Arc<str>, Object)> {
        self.running.iter().map(|(id, running)| {
            let script: Arc<dyn Functions> = running.script.clone();
            (format!("script.{id}").into(), Object::Script(script))
        })
    }

    /// What of a script handles the signals of an object.
    pub(super) fn taps(&self, id: &str, object: &str) -> impl Iterator<Item = Tap> {
        let of = self.running.get_key_value(id).filter(move |(_, running)| running.config.target == object);
        of.into_iter().flat_map(|(id, running)| {
            let script: Arc<str> = format!("script.{id}").into();
            running.script.names().into_iter().filter_map(move |function| {
                let signal = function.strip_prefix("on_")?.into();
                let to = Destination::Handler { script: Arc::clone(&script), function };
                Some(Tap { signal, to })
            })
        })
    }

    /// Ends all of them, when nobody calls any more.
    pub(super) async fn finish(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            self.ending.spawn(async move { running.script.stop().await });
        }
        while self.ending.join_next().await.is_some() {}
    }
}

impl Drop for Scripts {
    fn drop(&mut self) {
        // Each has the registry, in which it is itself.
        self.running.values().for_each(|running| running.script.close());
    }
}
