//! [`Via`]: a proxy that makes an outbound connection for us, by SOCKS5 (RFC
//! 1928, 1929) or HTTP CONNECT (RFC 9110 §9.3.6). It is asked by name, so that
//! names that only it can resolve work. Callers have a limit for all of it.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::address::{Address, Host};

/// A proxy for outbound connections: `socks5://user:password@host:1080`, `http://host:3128`.
///
/// User and password may have `%40` for `@` and the like. Shown, the password is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Via {
    kind: Kind,
    address: Address,
    login: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Socks5,
    Http,
}

/// A text that names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ViaError(String);

impl FromStr for Via {
    type Err = ViaError;

    fn from_str(text: &str) -> Result<Self, ViaError> {
        // The text is not shown: it may have a password in it.
        let fault = |text: &str| {
            Err(ViaError(format!(
                "{text}; write socks5://host:1080 or http://host:3128, with user:password@ before the host if it wants them"
            )))
        };
        let (kind, rest) = match text.split_once("://") {
            Some(("socks5" | "socks5h", rest)) => (Kind::Socks5, rest),
            Some(("http", rest)) => (Kind::Http, rest),
            _ => return fault("it is neither a SOCKS5 nor an HTTP proxy"),
        };
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login), place),
            None => (None, rest),
        };
        let address = match place.strip_suffix('/').unwrap_or(place).parse::<Address>() {
            Ok(address @ Address::Tcp { .. }) => address,
            Ok(_) => return fault("it is no host with a port"),
            Err(error) => return fault(&format!("its address is wrong: {error}")),
        };
        if let Err(error) = address.check_connect() {
            return fault(&format!("its address is wrong: {error}"));
        }
        let login = match login.map(|login| login.split_once(':')) {
            None => None,
            Some(Some((user, password))) => match (unescape(user), unescape(password)) {
                (Some(user), Some(password)) if !user.is_empty() && user.len().max(password.len()) <= 255 => {
                    Some((user, password))
                }
                _ => return fault("its user or password is wrong"),
            },
            Some(None) => return fault("it has a user and no password"),
        };
        if login.as_ref().is_some_and(|(_, password)| password == HIDDEN) {
            return Err(ViaError(
                "*** stands for a password that is not shown; write the password, or ${VARIABLE}".into(),
            ));
        }
        Ok(Self { kind, address, login })
    }
}

/// `%40` as what it stands for.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (code, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Socks5 => "socks5",
            Kind::Http => "http",
        };
        write!(f, "{kind}://")?;
        if let Some((user, _)) = &self.login {
            write!(f, "{}:{HIDDEN}@", escape(user))?;
        }
        f.write_str(&self.address.as_target())
    }
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Via {
    /// Where the proxy is.
    pub(super) fn place(&self) -> (&Host, u16) {
        match &self.address {
            Address::Tcp { host, port } => (host, *port),
            _ => unreachable!("made from nothing else"),
        }
    }

    /// Has the proxy at the other end of `stream` connect it to a target.
    ///
    /// # Errors
    /// In words: what the proxy did or said.
    pub(super) async fn ask(&self, stream: &mut TcpStream, host: &Host, port: u16) -> Result<(), String> {
        let asked = match self.kind {
            Kind::Socks5 => self.socks5(stream, host, port).await,
            Kind::Http => self.http(stream, host, port).await,
        };
        asked.map_err(|error| {
            let text = match error.kind() {
                io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
                _ => error.to_string(),
            };
            format!("the proxy {self}: {text}")
        })
    }

    async fn socks5(&self, stream: &mut TcpStream, host: &Host, port: u16) -> io::Result<()> {
        let greeting: &[u8] = if self.login.is_some() { &[5, 2, NO_LOGIN, LOGIN] } else { &[5, 1, NO_LOGIN] };
        stream.write_all(greeting).await?;
        let mut choice = [0; 2];
        stream.read_exact(&mut choice).await?;
        match (choice, &self.login) {
            ([5, NO_LOGIN], _) => {}
            ([5, LOGIN], Some((user, password))) => {
                let mut login = vec![1];
                for text in [user, password] {
                    login.push(u8::try_from(text.len()).expect("checked when it was read"));
                    login.extend(text.as_bytes());
                }
                stream.write_all(&login).await?;
                let mut answer = [0; 2];
                stream.read_exact(&mut answer).await?;
                if answer[1] != 0 {
                    return failed("it does not accept this user and password");
                }
            }
            ([5, _], None) => return failed("it wants a user and a password; write them before the host"),
            ([5, _], Some(_)) => return failed("it knows no login by user and password"),
            _ => return failed("it does not speak SOCKS5"),
        }
        let mut request = vec![5, 1, 0];
        match host_of(host) {
            Ok(IpAddr::V4(ip)) => {
                request.push(1);
                request.extend(ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                request.push(4);
                request.extend(ip.octets());
            }
            Err(name) => {
                request.push(3);
                request.push(u8::try_from(name.len()).expect("a host name has at most 253 bytes"));
                request.extend(name.as_bytes());
            }
        }
        request.extend(port.to_be_bytes());
        stream.write_all(&request).await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        let [5, reply, _, kind] = answer else { return failed("it does not speak SOCKS5") };
        if reply != 0 {
            let why = SOCKS_REPLIES
                .get(usize::from(reply) - 1)
                .copied()
                .unwrap_or("it refused, with an unknown code");
            return failed(why);
        }
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => return failed("it does not speak SOCKS5"),
        };
        let mut bound = vec![0; length + 2];
        stream.read_exact(&mut bound).await?;
        Ok(())
    }

    async fn http(&self, stream: &mut TcpStream, host: &Host, port: u16) -> io::Result<()> {
        let target = match host_of(host) {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            Ok(ip) => format!("{ip}:{port}"),
            Err(name) => format!("{name}:{port}"),
        };
        let login = self.login.as_ref().map_or_else(String::new, |(user, password)| {
            format!("Proxy-Authorization: Basic {}\r\n", base64(format!("{user}:{password}").as_bytes()))
        });
        stream
            .write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n").as_bytes())
            .await?;
        let mut head = Vec::new();
        // Looked at before it is taken: what follows the head is the target's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= LONGEST_HEAD {
                return failed("its answer has no end");
            }
            let mut seen = [0; 512];
            let count = stream.peek(&mut seen).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let ends = (1..=count).find(|end| {
                let tail = head.iter().rev().take(3).rev().chain(&seen[..*end]).copied().collect::<Vec<_>>();
                seen[*end - 1] == b'\n' && tail.ends_with(b"\r\n\r\n")
            });
            let take = ends.unwrap_or(count);
            let mut taken = vec![0; take];
            stream.read_exact(&mut taken).await?;
            head.extend(taken);
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.splitn(3, ' ');
        let is_http = words.next().is_some_and(|word| word.starts_with("HTTP/1."));
        match words.next().and_then(|code| code.parse::<u16>().ok()).filter(|_| is_http) {
            Some(200..=299) => Ok(()),
            // Some answer a wrong password as a web server would.
            Some(401 | 407) if self.login.is_some() => failed("it does not accept this user and password"),
            Some(401 | 407) => failed("it wants a user and a password; write them before the host"),
            Some(code) => {
                let why: String = words.next().unwrap_or_default().chars().take(64).collect();
                failed(&format!("it answered {code} {}", why.escape_debug()))
            }
            None => failed("it does not speak HTTP"),
        }
    }
}

fn failed(text: &str) -> io::Result<()> {
    Err(io::Error::other(text.to_owned()))
}

/// An address, or a name that the proxy is to resolve.
fn host_of(host: &Host) -> Result<IpAddr, &str> {
    match host {
        Host::Any => Err("localhost"),
        Host::Ip(ip) => Ok(*ip),
        Host::Scoped(ip, _) => Ok((*ip).into()),
        Host::Name(name) => Err(name),
    }
}

fn base64(bytes: &[u8]) -> String {
    let letter = |value: u32| char::from(ALPHABET[(value & 63) as usize]);
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let value =
            three.iter().chain([0, 0].iter()).take(3).fold(0, |value, byte| value << 8 | u32::from(*byte));
        for nth in 0..4 {
            out.push(if nth <= three.len() { letter(value >> (18 - 6 * nth)) } else { '=' });
        }
    }
    out
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HIDDEN: &str = "***";
const NO_LOGIN: u8 = 0;
const LOGIN: u8 = 2;
/// Of an HTTP answer, in bytes.
const LONGEST_HEAD: usize = 16 << 10;
/// By their numbers, from 1.
const SOCKS_REPLIES: [&str; 8] = [
    "it failed, and does not say why",
    "its rules forbid this target",
    "the target's network is unreachable from it",
    "the target is unreachable from it, or has no address",
    "the target refused the connection",
    "the target did not answer in time",
    "it does not know the command",
    "it does not know this kind of address",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_shown_without_its_password() {
        for (written, shown) in [
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("socks5h://proxy:1080/", "socks5://proxy:1080"),
            ("http://a%40b:c:d%2F@[::1]:3128", "http://a%40b:***@[::1]:3128"),
        ] {
            let via: Via = written.parse().unwrap();
            assert_eq!((via.to_string(), format!("{via:?}")), (shown.into(), shown.into()));
        }
        let via: Via = "http://a%40b:c:d%2F@host:1".parse().unwrap();
        assert_eq!(via.login, Some(("a@b".into(), "c:d/".into())));
    }

    #[test]
    fn what_is_no_proxy_is_refused_and_never_shown() {
        for text in [
            "host:1080",
            "socks4://host:1080",
            "https://user:secret@host:1",
            "socks5://host",
            "socks5://secret@host:1",
            "socks5://user:secret%zz@host:1",
            "socks5://user:secret@host:0",
            "socks5://:secret@host:1",
            "http://user:***@host:1",
            "http://user:secret@unix:/path",
        ] {
            let error = text.parse::<Via>().unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn base64_is_that_of_everybody() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }
}
