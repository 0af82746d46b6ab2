//! The systems of `config/`, run as they are shipped, their addresses set
//! through the environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use super::process::{NodeProcess, binary};
use super::tools::root;

/// A free port of loopback, for the node to choose.
pub(crate) const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl NodeProcess {
    /// A node with the file of this name.
    pub(crate) fn shipped<T: ToString>(name: &str, variables: &[(&str, T)]) -> Self {
        let mut command = Command::new(binary());
        command.args(["run", "--log-format", "json"]).arg(root().join(format!("config/{name}.toml")));
        command.envs(variables.iter().map(|(name, value)| (*name, value.to_string())));
        Self::spawn(&mut command)
    }
}
