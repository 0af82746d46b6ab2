//! The options of what lies between a connection and its bytes: TLS, PROXY
//! headers, a proxy on the way. They mean one `[tls.tls]`, and keys of every
//! listener and client.

use std::path::{Path, PathBuf};

use super::args::Meaning;
use crate::config::{Config, Place};
use crate::net::{ProxyVersion, TlsOptions, Via, network};

/// As they are typed.
#[derive(Debug, Default, clap::Args)]
pub(super) struct LayerArgs {
    /// Our certificate, as a PEM file: for --listen tls://ADDR, or else shown to servers that ask
    #[arg(long, value_name = "FILE", help_heading = "TLS and proxies")]
    tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", help_heading = "TLS and proxies")]
    tls_key: Option<PathBuf>,
    /// Believe servers whose certificates are signed by these [default: what this machine believes]
    #[arg(long, value_name = "FILE", help_heading = "TLS and proxies")]
    tls_ca: Option<PathBuf>,
    /// Clients of --listen tls://ADDR must show a certificate signed by one of these
    #[arg(long, value_name = "FILE", help_heading = "TLS and proxies")]
    tls_client_ca: Option<PathBuf>,
    /// The name the server's certificate must be for [default: the host of --connect]
    #[arg(long, value_name = "NAME", help_heading = "TLS and proxies")]
    tls_server_name: Option<String>,
    /// Clients come by proxies in this network, which announce them by PROXY headers (repeatable)
    #[arg(long, value_name = "CIDR", help_heading = "TLS and proxies")]
    accept_proxy: Vec<String>,
    /// Tell the target by a PROXY header which client a connection is for
    #[arg(long, value_name = "VERSION", help_heading = "TLS and proxies")]
    send_proxy: Option<ProxyVersion>,
    /// Connect through a proxy: socks5://host:1080 or http://user:password@host:3128
    #[arg(
        long,
        value_name = "URL",
        env = "SIGNAL_NODE_PROXY",
        hide_env_values = true,
        help_heading = "TLS and proxies"
    )]
    proxy: Option<String>,
}

/// Addresses as typed: without `tls://`, and whether that was there.
pub(super) struct Typed {
    pub(super) addresses: Vec<String>,
    speak_tls: Vec<bool>,
}

impl Typed {
    pub(super) fn new(texts: &[String]) -> Self {
        let plain = |text: &String| text.strip_prefix("tls://").unwrap_or(text).to_owned();
        Self {
            addresses: texts.iter().map(plain).collect(),
            speak_tls: texts.iter().map(|text| text.starts_with("tls://")).collect(),
        }
    }
}

impl LayerArgs {
    /// Adds to a relay of these listeners and targets what lies between.
    pub(super) fn apply(&self, config: &mut Config, listen: &Typed, connect: &Typed, meaning: &mut Meaning) {
        let mut tls = TlsOptions {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            ca: self.tls_ca.clone(),
            client_ca: self.tls_client_ca.clone(),
            server_name: self.tls_server_name.clone(),
        };
        // So that what --print-config says is right in any folder.
        tls.seen_from(Path::new(""));
        let is_spoken = listen.speak_tls.contains(&true) || connect.speak_tls.contains(&true);
        if is_spoken {
            config.tls.insert(NAME.into(), tls);
        } else {
            self.unused(meaning);
        }
        for (nth, speaks) in listen.speak_tls.iter().enumerate() {
            if let Some(listener) = config.listen.get_mut(&format!("listen{}", nth + 1)) {
                listener.tls = speaks.then(|| NAME.into());
            }
        }
        for (nth, speaks) in connect.speak_tls.iter().enumerate() {
            if let Some(client) = config.client.get_mut(&format!("connect{}", nth + 1)) {
                client.tls = speaks.then(|| NAME.into());
            }
        }
        let trusted: Vec<_> = self
            .accept_proxy
            .iter()
            .filter_map(|text| meaning.note("--accept-proxy", network(text)))
            .collect();
        for listener in config.listen.values_mut() {
            listener.options.accept_proxy = !self.accept_proxy.is_empty();
            listener.options.trusted.clone_from(&trusted);
        }
        let proxy: Option<Via> = self.proxy.as_ref().and_then(|text| meaning.note("--proxy", text.parse()));
        for client in config.client.values_mut() {
            client.options.send_proxy = self.send_proxy;
            client.proxy.clone_from(&proxy);
        }
    }

    /// What was typed of TLS where no address speaks it.
    fn unused(&self, meaning: &mut Meaning) {
        let (either, dialled, bound) =
            ("--listen tls://ADDR or --connect tls://ADDR", "--connect tls://ADDR", "--listen tls://ADDR");
        for (is_typed, option, example) in [
            (self.tls_cert.is_some(), "--tls-cert", either),
            (self.tls_key.is_some(), "--tls-key", either),
            (self.tls_ca.is_some(), "--tls-ca", dialled),
            (self.tls_client_ca.is_some(), "--tls-client-ca", bound),
            (self.tls_server_name.is_some(), "--tls-server-name", dialled),
        ] {
            if is_typed {
                let text =
                    format!("no address here speaks TLS; write tls:// before the address, as in {example}");
                meaning.note::<(), _>(option, Err(text));
            }
        }
    }
}

/// The option that sets this part of the config, if it is one of these.
pub(super) fn option(place: &Place) -> Option<&'static str> {
    Some(match (place.table, place.key) {
        ("tls", "cert") => "--tls-cert",
        ("tls", "key") => "--tls-key",
        ("tls", "ca") => "--tls-ca",
        ("tls", "client_ca") => "--tls-client-ca",
        ("tls", "server_name") => "--tls-server-name",
        ("tls", _) => "--tls-cert",
        (_, "accept_proxy" | "trusted") => "--accept-proxy",
        (_, "send_proxy") => "--send-proxy",
        (_, "proxy") => "--proxy",
        _ => return None,
    })
}

/// What the command line calls its one identity.
const NAME: &str = "tls";
