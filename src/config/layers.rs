//! The keys of what lies between a connection and its bytes (TLS, PROXY
//! headers, a proxy on the way), as kinds of values and as faults.

use std::collections::BTreeSet;
use std::path::PathBuf;

use toml::de::DeValue;

use super::kinds::{Kind, Problem, Text, Word, toml_text};
use super::{Config, Fault, Place};
use crate::address::Address;
use crate::nearest::{did_you_mean, quoted};
use crate::net::{NO_TLS, ProxyVersion, Roles, Via, ViaError};

/// The path of a file.
pub(super) struct FilePath;
/// The same, or `"system"` for what the machine has.
pub(super) struct SystemOrFile;
/// A [`Via`], whose password is never written.
pub(super) struct ViaText;

impl Kind for FilePath {
    type Value = PathBuf;

    fn expected() -> String {
        r#"the path of a PEM file such as "plant/front.pem""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<PathBuf, Vec<Problem>> {
        let path = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'));
        path.map(PathBuf::from).ok_or_else(|| problem(format!("it is no path; write {}", Self::expected())))
    }

    fn write(value: &PathBuf) -> String {
        toml_text(&value.display().to_string())
    }

    fn schema() -> String {
        r#"{"type":"string"}"#.into()
    }
}

impl Kind for SystemOrFile {
    type Value = Option<PathBuf>;

    fn expected() -> String {
        format!("{}, or \"system\" for the authorities of this machine", FilePath::expected())
    }

    fn read(value: &DeValue<'_>) -> Result<Self::Value, Vec<Problem>> {
        match value.as_str() {
            Some("system") => Ok(None),
            _ => FilePath::read(value).map(Some),
        }
    }

    fn write(value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| toml_text("system"), FilePath::write)
    }

    fn schema() -> String {
        r#"{"type":"string","examples":["system","plant/ca.pem"]}"#.into()
    }
}

impl Kind for ViaText {
    type Value = Via;

    fn expected() -> String {
        r#"a proxy such as "socks5://127.0.0.1:1080" or "http://user:${PASSWORD}@proxy:3128""#.into()
    }

    fn read(value: &DeValue<'_>) -> Result<Via, Vec<Problem>> {
        let Some(text) = value.as_str() else {
            return Err(problem(format!("it is no text; expected {}", Self::expected())));
        };
        text.parse().map_err(|error: ViaError| problem(error.to_string()))
    }

    fn write(value: &Via) -> String {
        toml_text(&value.to_string())
    }

    fn schema() -> String {
        Text::schema()
    }
}

impl Word for ProxyVersion {
    const ALL: &'static [Self] = &Self::ALL;

    fn word(self) -> &'static str {
        self.name()
    }
}

fn problem(text: String) -> Vec<Problem> {
    vec![Problem { element: None, text }]
}

impl Config {
    /// Who uses `[tls.ID]`.
    pub(crate) fn roles(&self, id: &str) -> Roles {
        let uses = |tls: &Option<String>| tls.as_deref() == Some(id);
        Roles {
            listens: self.listen.values().any(|listener| uses(&listener.tls)),
            connects: self.client.values().any(|client| uses(&client.tls)),
        }
    }

    /// What is wrong with TLS, PROXY headers and proxies.
    pub(super) fn check_layers(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        for (id, listener) in &self.listen {
            let at = |key| Place::new("listen", id, key);
            let is_tcp = matches!(listener.bind, Address::Tcp { .. } | Address::Systemd(_));
            self.check_name(listener.tls.as_deref(), at("tls"), is_tcp, &mut faults);
            let options = &listener.options;
            match (options.accept_proxy, options.trusted.is_empty()) {
                (true, _) if !is_tcp => {
                    faults.add(at("accept_proxy"), "only TCP has networks to trust; remove it");
                }
                (true, true) => faults.add(
                    at("accept_proxy"),
                    "anybody could announce any address; write the networks of your proxies in `trusted`",
                ),
                (false, false) => faults.add(
                    at("trusted"),
                    "nobody announces anything here; write accept_proxy = true, or remove it",
                ),
                _ => {}
            }
        }
        for (id, client) in &self.client {
            let at = |key| Place::new("client", id, key);
            let is_tcp = matches!(client.to, Address::Tcp { .. } | Address::Discover { .. });
            self.check_name(client.tls.as_deref(), at("tls"), is_tcp, &mut faults);
            let given =
                [(client.options.send_proxy.is_some(), "send_proxy"), (client.proxy.is_some(), "proxy")];
            for (_, key) in given.into_iter().filter(|(is_given, _)| *is_given && !is_tcp) {
                faults.add(at(key), format!("{} is not dialled by TCP; remove it", client.to));
            }
            if client.proxy.is_some() && matches!(client.to, Address::Discover { .. }) {
                faults.add(at("proxy"), "who answers a broadcast is on our own networks; remove it");
            }
        }
        for (id, tls) in &self.tls {
            let at = |key| Place::new("tls", id, key);
            let roles = self.roles(id);
            let listener_needs = "a listener shows a certificate; name both, for example from `node cert`";
            match (&tls.cert, &tls.key) {
                (None, None) if roles.listens => faults.add(at("cert"), listener_needs),
                (Some(_), None) => {
                    faults.add(at("key"), "is missing beside `cert`; name the file of its key")
                }
                (None, Some(_)) => faults.add(at("cert"), "is missing beside `key`; name the certificate"),
                _ => {}
            }
            let none_dials = "no client uses this; only who dials looks at it; remove it";
            if roles.listens && !roles.connects {
                let given = [(tls.ca.is_some(), "ca"), (tls.server_name.is_some(), "server_name")];
                given
                    .iter()
                    .filter(|(is_given, _)| *is_given)
                    .for_each(|(_, key)| faults.add(at(key), none_dials));
            }
            if roles.connects && !roles.listens && tls.client_ca.is_some() {
                faults.add(at("client_ca"), "no listener uses this; only who listens looks at it; remove it");
            }
        }
        faults.0
    }

    /// What `tls = "…"` says of a listener or client.
    fn check_name(&self, name: Option<&str>, place: Place, is_tcp: bool, faults: &mut Faults) {
        let Some(name) = name else { return };
        if !cfg!(feature = "tls") {
            faults.add(place, NO_TLS);
        } else if !self.tls.contains_key(name) {
            let known: Vec<_> = self.tls.keys().map(String::as_str).collect();
            let shown = name.escape_debug();
            let hint = did_you_mean(name, known.iter().copied()).unwrap_or_else(|| match known[..] {
                [] => format!("; add [tls.{shown}]"),
                _ => format!("; there are {}", quoted(known.iter().copied())),
            });
            faults.add(place, format!("no [tls.ID] is called `{shown}`{hint}"));
        } else if !is_tcp {
            faults.add(place, "TLS is spoken over TCP alone; remove it");
        }
    }

    /// `[tls.ID]` that nobody uses.
    pub(super) fn unused_tls(&self) -> Vec<Fault> {
        let used: BTreeSet<_> = self.listen.values().map(|listener| &listener.tls).collect();
        let used: BTreeSet<_> =
            used.into_iter().chain(self.client.values().map(|client| &client.tls)).flatten().collect();
        let unused = self.tls.keys().filter(|id| !used.contains(id));
        let text = "no listener and no client uses it; write tls = \"NAME\" in one, or remove it";
        unused.map(|id| Fault { place: Place::new("tls", id, ""), text: text.into() }).collect()
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, place: Place, text: impl Into<String>) {
        self.0.push(Fault { place, text: text.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_feature_is_not_built_names_it() {
        let parse = |text: &str| vec![text.parse().unwrap()];
        let mut config = Config::relay(parse("9000"), parse("host:9001"));
        config.listen.values_mut().for_each(|listener| listener.tls = Some("own".into()));
        let is_named = config.check().iter().any(|fault| fault.text.contains("with the feature `tls`"));
        assert_eq!(is_named, !cfg!(feature = "tls"));
    }
}
