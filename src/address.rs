//! Addresses as people write them: `9000`, `host:9001`, `[::1]:9000`,
//! `unix:/path`, `systemd:NAME`, `discover:PORT`, `stdio:`, `echo:`. Parsing touches no network; a name stays a
//! name until it is bound or dialled, so that every dial resolves it again.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where to listen, or where to connect to.
///
/// | written | to listen | to connect |
/// | --- | --- | --- |
/// | `9000`, `:9000`, `*:9000` | all interfaces, IPv6 and IPv4 | `localhost:9000` |
/// | `0.0.0.0:9000` | all interfaces, IPv4 | refused |
/// | `192.0.2.1:9000`, `[::1]:9000`, `[fe80::1%eth0]:9000` | that address | that address |
/// | `host:9000` | every address of the name | its addresses, raced |
/// | `unix:/path` | a Unix stream socket | the same |
/// | `systemd:NAME`, `systemd:` | the socket of that name, or the first, that the service manager passed | refused |
/// | `discover:PORT` | refused | who answers a broadcast to that UDP port, at the TCP port it says |
/// | `discover:HOST:PORT` | refused | the same, asking that host, or that broadcast address |
/// | `stdio:` or `-` | standard input and output | the same |
/// | `echo:` | refused | a built-in service that sends everything back |
///
/// `tcp://` may stand before the TCP forms. For `systemd:` see also
/// [`inherit_sockets`](crate::inherit_sockets).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port on a host.
    Tcp {
        /// The host, literal or by name.
        host: Host,
        /// The port; 0 lets the kernel choose one when listening.
        port: u16,
    },
    /// A Unix stream socket at a path of at most 107 bytes.
    Unix(PathBuf),
    /// The sockets of this name that a service manager has passed to this
    /// process (`LISTEN_FDS`); with an empty name the first.
    Systemd(String),
    /// Whoever answers when asked for its TCP port, anew for each dial.
    Discover {
        /// Who is asked; [`Host::Any`] stands for everyone on the networks of this machine.
        host: Host,
        /// The UDP port on which they are asked.
        port: u16,
    },
    /// The standard input and output of this process.
    Stdio,
    /// The echo service inside this process.
    Echo,
}

/// The host part of a TCP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// No host was written: all interfaces to listen, `localhost` to connect.
    Any,
    /// A literal IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A link-local IPv6 address with the index of its interface.
    Scoped(Ipv6Addr, u32),
    /// A name for the resolver.
    Name(String),
}

/// Why a text is not an address, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {hint}")]
pub struct AddressError {
    problem: String,
    hint: String,
}

impl Address {
    /// The socket address if it is known without a resolver.
    pub fn literal(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { host: Host::Ip(ip), port } => Some(SocketAddr::new(*ip, *port)),
            Self::Tcp { host: Host::Scoped(ip, scope), port } => {
                Some(SocketAddrV6::new(*ip, *port, 0, *scope).into())
            }
            _ => None,
        }
    }

    /// How it reads as the target of a connection: without a host it is `localhost`.
    pub fn as_target(&self) -> String {
        match self {
            Self::Tcp { host: Host::Any, port } => format!("localhost:{port}"),
            other => other.to_string(),
        }
    }

    /// Tells whether this stands for all interfaces of the machine.
    pub fn is_wildcard(&self) -> bool {
        match self {
            Self::Tcp { host: Host::Any, .. } => true,
            Self::Tcp { host: Host::Ip(ip), .. } => ip.is_unspecified(),
            _ => false,
        }
    }

    /// Checks that one can listen here.
    ///
    /// # Errors
    /// `echo:` answers only those who connect to it, and `discover:` finds those who listen.
    pub fn check_listen(&self) -> Result<(), AddressError> {
        match self {
            Self::Discover { .. } => fault(
                "`discover:` finds somebody to connect to",
                "listen on a port, and announce it with a [discovery.ID]",
            ),
            Self::Echo => fault("`echo:` can only be connected to", "try `--listen 9000 --connect echo:`"),
            _ => Ok(()),
        }
    }

    /// Checks that one can connect to it.
    ///
    /// # Errors
    /// Port 0, the unspecified addresses, multicast and broadcast name no peer, and passed sockets have none.
    pub fn check_connect(&self) -> Result<(), AddressError> {
        let (host, port) = match self {
            Self::Tcp { host, port } | Self::Discover { host, port } => (host, port),
            Self::Systemd(_) => {
                return fault(
                    "`systemd:` is a socket to listen on",
                    "write for example --listen systemd: --connect host:9001",
                );
            }
            _ => return Ok(()),
        };
        if *port == 0 {
            return fault("port 0 cannot be connected to", "write the port the peer listens on");
        }
        match host {
            // Everyone on a network can be asked, and not connected to.
            Host::Ip(ip) if *ip == Ipv4Addr::BROADCAST && matches!(self, Self::Discover { .. }) => Ok(()),
            Host::Ip(ip) => connectable(*ip),
            _ => Ok(()),
        }
    }
}

/// Checks that an address, literal or resolved, can name a peer.
pub(crate) fn connectable(ip: IpAddr) -> Result<(), AddressError> {
    let ip = ip.to_canonical();
    if ip.is_unspecified() {
        return fault(format!("{ip} is every address of this machine and no peer"), "try 127.0.0.1 or [::1]");
    }
    if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return fault(format!("{ip} is not the address of one peer"), "write the peer's own address");
    }
    Ok(())
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return fault("empty address", "write for example 9000 or 127.0.0.1:9000");
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return fault(
                format!("`{}` contains {bad:?}", text.escape_debug()),
                "write the address without spaces and control characters",
            );
        }
        match text {
            "-" | "stdio:" => return Ok(Self::Stdio),
            "echo:" => return Ok(Self::Echo),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path);
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return systemd(name);
        }
        if let Some(asked) = text.strip_prefix("discover:") {
            return discover(asked);
        }
        let rest = text.strip_prefix("tcp://").unwrap_or(text);
        if let Some((scheme, target)) = rest.split_once("://") {
            let target = target.split('/').next().unwrap_or_default();
            let hint = if scheme == "tls" {
                "write HOST:PORT here, and beside it tls = \"ID\" for a [tls.ID]".into()
            } else if matches!(scheme, "http" | "https" | "ws" | "wss" | "ftp" | "ssh") && !target.is_empty()
            {
                let port = if target.contains(':') { "" } else { ":PORT" };
                format!("write `{target}{port}` without `{scheme}://`")
            } else {
                "write HOST:PORT, unix:/path, systemd:NAME, discover:PORT, stdio: or echo:".into()
            };
            return fault(format!("`{scheme}://` is not an address form of this program"), hint);
        }
        tcp(rest)
    }
}

fn unix(path: &str) -> Result<Address, AddressError> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return fault("`unix:` needs a path", "write for example unix:/run/node.sock");
    }
    if path.starts_with('@') {
        return fault(
            format!("`{path}` is an abstract socket, which is not supported"),
            "write a path in the file system",
        );
    }
    if path.len() > MAX_UNIX_PATH {
        return fault(
            format!(
                "the path of {} bytes is longer than the {MAX_UNIX_PATH} a Unix socket can have",
                path.len()
            ),
            "choose a shorter one",
        );
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn systemd(name: &str) -> Result<Address, AddressError> {
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_graphic() || *c == ':') {
        return fault(
            format!("`{}` is not the name of a passed socket: {bad:?} cannot stand in one", shorten(name)),
            "write systemd:NAME with its FileDescriptorName=, or systemd: for the first",
        );
    }
    if name.len() > MAX_SYSTEMD_NAME {
        return fault(
            format!("`{}` is longer than the {MAX_SYSTEMD_NAME} bytes of such a name", shorten(name)),
            "write systemd:NAME with its FileDescriptorName=, or systemd: for the first",
        );
    }
    Ok(Address::Systemd(name.to_owned()))
}

fn discover(text: &str) -> Result<Address, AddressError> {
    match tcp(text) {
        Ok(Address::Tcp { host, port }) => Ok(Address::Discover { host, port }),
        Ok(_) => unreachable!("`tcp` makes nothing else"),
        Err(AddressError { problem, .. }) => fault(
            format!("`discover:{}` names no UDP port to ask: {problem}", shorten(text)),
            "write discover:4000, or discover:192.0.2.255:4000",
        ),
    }
}

fn tcp(text: &str) -> Result<Address, AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return fault(format!("`{text}` has no closing bracket"), "write [::1]:9000");
        };
        let Some(port_text) = after.strip_prefix(':') else {
            return fault(format!("`{text}` has no port"), format!("write [{inside}]:9000"));
        };
        let host = bracketed(inside)?;
        return Ok(Address::Tcp { host, port: port(port_text)? });
    }
    if text.starts_with(['/', '.']) {
        return fault(format!("`{text}` looks like a path"), format!("write unix:{text}"));
    }
    let like_ipv6 = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'));
    if text.matches(':').count() > 1 && !like_ipv6(text.split('%').next().unwrap_or_default()) {
        return fault(
            format!("`{}` is not one address", shorten(text)),
            "write HOST:PORT or unix:/path, each after its option",
        );
    }
    if text.matches(':').count() > 1 {
        let hint = match text.rsplit_once(':') {
            Some((host, port))
                if host.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok())
                    && port.parse::<u16>().is_ok() =>
            {
                format!("write [{host}]:{port}")
            }
            _ => format!("write [{text}]:9000"),
        };
        return fault(format!("`{text}` is an ambiguous IPv6 address"), hint);
    }
    match text.split_once(':') {
        Some(("" | "*", port_text)) => Ok(Address::Tcp { host: Host::Any, port: port(port_text)? }),
        Some((host, port_text)) => Ok(Address::Tcp { host: name_or_ip(host)?, port: port(port_text)? }),
        // A word that starts like a number is taken for a port, so that `99999` is told what is wrong with it.
        None if text.starts_with(|c: char| c.is_numeric() || c == '+' || c == '-') && !text.contains('.') => {
            Ok(Address::Tcp { host: Host::Any, port: port(text)? })
        }
        None => fault(format!("`{text}` has no port"), format!("write for example {text}:9001")),
    }
}

fn bracketed(text: &str) -> Result<Host, AddressError> {
    let (ip_text, scope) = match text.split_once('%') {
        Some((ip, scope)) => (ip, Some(scope)),
        None => (text, None),
    };
    let Ok(ip) = ip_text.parse::<Ipv6Addr>() else {
        return fault(
            format!("`{ip_text}` is not an IPv6 address"),
            "only IPv6 addresses stand in brackets: [::1]:9000",
        );
    };
    let link_local = ip.is_unicast_link_local();
    match scope {
        None if link_local => fault(
            format!("{ip} is link-local and does not say on which interface"),
            format!("write [{ip}%eth0]:9000 with the interface's name"),
        ),
        None => Ok(Host::Ip(ip.into())),
        Some(_) if !link_local => {
            fault(format!("{ip} is not link-local, so `%` has no meaning"), format!("write [{ip}]:9000"))
        }
        Some(name) => Ok(Host::Scoped(ip, interface_index(name)?)),
    }
}

fn interface_index(name: &str) -> Result<u32, AddressError> {
    if let Ok(index) = name.parse::<u32>() {
        return Ok(index);
    }
    let known = !name.is_empty() && !name.contains('/') && name != "." && name != "..";
    let index = known
        .then(|| std::fs::read_to_string(Path::new("/sys/class/net").join(name).join("ifindex")).ok())
        .flatten()
        .and_then(|text| text.trim().parse().ok());
    match index {
        Some(index) => Ok(index),
        None => fault(format!("no interface is called `{name}`"), "`ip link` lists their names"),
    }
}

fn name_or_ip(text: &str) -> Result<Host, AddressError> {
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(ip.into()));
    }
    if text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return fault(
            format!("`{text}` is not an IPv4 address"),
            "write four numbers from 0 to 255, as in 192.0.2.1",
        );
    }
    if !text.is_ascii() {
        return fault(format!("`{text}` is not an ASCII name"), "write it in its `xn--` form");
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if text.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return fault(
            format!("`{}` is not a host name", shorten(text)),
            "labels have 1 to 63 characters, the whole name at most 253",
        );
    }
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        return fault(format!("`{text}` is not a host name: {bad:?} cannot stand in one"), "write HOST:PORT");
    }
    Ok(Host::Name(text.to_owned()))
}

fn port(text: &str) -> Result<u16, AddressError> {
    let shown = shorten(text);
    if text.is_empty() {
        return fault("the port is missing", "write for example host:9001");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return fault(format!("`{shown}` is not a port"), "write a number from 0 to 65535 in ASCII digits");
    }
    if text.len() > 1 && text.starts_with('0') {
        return fault(format!("port `{shown}` has a leading zero"), "write it without");
    }
    match text.parse::<u16>() {
        Ok(port) => Ok(port),
        Err(_) => fault(format!("port {shown} is above 65535"), "write a number from 0 to 65535"),
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn fault<T>(problem: impl Into<String>, hint: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError { problem: problem.into(), hint: hint.into() })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host: Host::Any, port } => write!(f, "*:{port}"),
            Self::Tcp { host: Host::Ip(ip), port } => write!(f, "{}", SocketAddr::new(*ip, *port)),
            Self::Tcp { host: Host::Scoped(ip, scope), port } => write!(f, "[{ip}%{scope}]:{port}"),
            Self::Tcp { host: Host::Name(name), port } => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
            Self::Discover { host: Host::Any, port } => write!(f, "discover:{port}"),
            Self::Discover { host, port } => {
                write!(f, "discover:{}", Self::Tcp { host: host.clone(), port: *port })
            }
            Self::Stdio => f.write_str("stdio:"),
            Self::Echo => f.write_str("echo:"),
        }
    }
}

/// The longest path `sockaddr_un` holds with its closing zero.
const MAX_UNIX_PATH: usize = 107;
/// The longest `FileDescriptorName=`.
const MAX_SYSTEMD_NAME: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(error) => format!("error: {error}"),
        }
    }

    #[test]
    fn every_form_is_understood_and_prints_in_one_way() {
        for (written, meant) in [
            ("9000", "*:9000"),
            (":9000", "*:9000"),
            ("*:9000", "*:9000"),
            ("0", "*:0"),
            ("0.0.0.0:9000", "0.0.0.0:9000"),
            ("[::]:9000", "[::]:9000"),
            ("[::1]:9000", "[::1]:9000"),
            ("tcp://127.0.0.1:9000", "127.0.0.1:9000"),
            ("host:9001", "host:9001"),
            ("my_plc.example.:502", "my_plc.example.:502"),
            ("[fe80::1%lo]:9000", "[fe80::1%1]:9000"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("systemd:", "systemd:"),
            ("systemd:web.socket", "systemd:web.socket"),
            ("discover:4000", "discover:4000"),
            ("discover:*:4000", "discover:4000"),
            ("discover:192.0.2.255:4000", "discover:192.0.2.255:4000"),
            ("discover:[fe80::1%lo]:4000", "discover:[fe80::1%1]:4000"),
            ("discover:host:4000", "discover:host:4000"),
            ("-", "stdio:"),
            ("stdio:", "stdio:"),
            ("echo:", "echo:"),
        ] {
            assert_eq!(shown(written), meant, "{written}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for written in [
            "",
            "99999",
            "-1",
            "9000x",
            "0x50",
            "９０００",
            "+9000",
            "08080",
            "::1:9000",
            "fe80::1%eth0",
            "[::1]",
            "[::1",
            "[fe80::1]:9000",
            "[fe80::1%nosuchif0]:1",
            "[fe80::1%../lo]:1",
            "[::1%lo]:1",
            "[1.2.3.4]:1",
            "host",
            "host:",
            "host:http",
            "http://host:9001",
            "256.1.1.1:80",
            "1.2.3:80",
            "a..b:1",
            "bücher.example:80",
            "a b:1",
            "a\n:1",
            "unix:",
            "unix:@name",
            "systemd:a:b",
            "systemd:ü",
            "discover:",
            "discover:host",
            "discover:4000x",
            "discover:unix:/a",
            "discover:tcp://host:1",
            "ftp://",
            "a/b:1",
            "99999999999999999999:1",
            ".:1",
        ] {
            assert!(written.parse::<Address>().is_err(), "{written:?} was taken for {}", shown(written));
        }
        assert!(format!("{}:1", "a".repeat(300)).parse::<Address>().is_err());
        assert!(format!("unix:/{}", "a".repeat(107)).parse::<Address>().is_err());
    }

    #[test]
    fn some_addresses_have_only_one_role() {
        let parse = |text: &str| text.parse::<Address>().unwrap();
        assert!(parse("echo:").check_listen().is_err());
        assert!(parse("discover:4000").check_listen().is_err());
        for text in [
            "systemd:",
            "host:0",
            "0.0.0.0:9",
            "[::]:9",
            "224.0.0.1:9",
            "255.255.255.255:9",
            "[ff02::1]:9",
            "discover:0",
            "discover:0.0.0.0:9",
            "discover:224.0.0.1:9",
        ] {
            assert!(parse(text).check_connect().is_err(), "{text}");
        }
        for text in
            ["9000", "echo:", "stdio:", "unix:/a", "127.0.0.1:1", "discover:9", "discover:255.255.255.255:9"]
        {
            assert!(parse(text).check_connect().is_ok(), "{text}");
        }
    }
}
