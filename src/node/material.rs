//! The certificates of a config: what its `[tls.ID]` name is read before
//! anything changes, and then given to those who speak TLS.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::NodeError;
use crate::config::{ClientConfig, Config, Fault, ListenConfig, Place};
use crate::net::{Greeting, Layers, Loaded, Roles, Tls, TlsOptions, load_tls};

/// What was read, by the names in the config.
pub(crate) type Material = BTreeMap<String, Loaded>;

/// Reads every file that is named.
///
/// # Errors
/// All that is wrong with them, with their places in the config.
pub(crate) async fn read(config: &Config) -> Result<Material, NodeError> {
    if config.tls.is_empty() {
        return Ok(Material::new());
    }
    // A slow disk must not hold up the bytes.
    let wanted = wanted(config);
    let read = spawn_blocking(move || read_each(wanted));
    read.await.expect("reading files neither panics nor is aborted").map_err(NodeError::Config)
}

/// The same, for whoever may wait for a disk.
///
/// # Errors
/// All that is wrong with them.
#[cfg(feature = "cli")]
pub(crate) fn read_at_once(config: &Config) -> Result<Material, Vec<Fault>> {
    read_each(wanted(config))
}

type Wanted = Vec<(String, TlsOptions, Roles)>;

fn wanted(config: &Config) -> Wanted {
    config.tls.iter().map(|(id, options)| (id.clone(), options.clone(), config.roles(id))).collect()
}

fn read_each(wanted: Wanted) -> Result<Material, Vec<Fault>> {
    let (mut material, mut faults) = (Material::new(), Vec::new());
    for (id, options, roles) in wanted {
        match load_tls(&options, roles) {
            Ok(loaded) => _ = material.insert(id, loaded),
            Err(problems) => faults.extend(
                problems.into_iter().map(|(key, text)| Fault { place: Place::new("tls", &id, key), text }),
            ),
        }
    }
    if faults.is_empty() { Ok(material) } else { Err(faults) }
}

/// Who speaks TLS, by the names in the config. What is named anew at a reload keeps its place.
#[derive(Debug, Default)]
pub(crate) struct Speakers(BTreeMap<String, Arc<Tls>>);

impl Speakers {
    /// Has later handshakes use this. Yields the names of those that were there and have other certificates now.
    pub(crate) fn follow(&mut self, material: Material) -> Vec<String> {
        let mut changed = Vec::new();
        self.0.retain(|id, _| material.contains_key(id));
        for (id, loaded) in material {
            match self.0.get(&id) {
                Some(tls) => {
                    if tls.replace(loaded) {
                        changed.push(id);
                    }
                }
                None => _ = self.0.insert(id, Arc::new(Tls::new(loaded))),
            }
        }
        changed
    }

    /// What lies between a client of ours and its target.
    pub(crate) fn layers(&self, client: &ClientConfig) -> Layers {
        Layers { via: client.proxy.clone().map(Arc::new), tls: self.of(client.tls.as_ref()) }
    }

    /// What those who come to a listener have to say first.
    pub(crate) fn greeting(&self, listener: &ListenConfig) -> Greeting {
        let options = &listener.options;
        let proxy = options.accept_proxy.then(|| options.trusted.as_slice().into());
        Greeting { proxy, tls: self.of(listener.tls.as_ref()) }
    }

    fn of(&self, id: Option<&String>) -> Option<Arc<Tls>> {
        id.and_then(|id| self.0.get(id)).cloned()
    }
}
