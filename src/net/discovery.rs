//! Finding a TCP port by UDP: what is asked and what is answered, and asking
//! until somebody answers. Who answers is a [`Responder`](super::Responder).

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use if_addrs::{IfAddr, get_if_addrs};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dial::DialError;
use super::kernel::KernelOptions;
use super::options::DialOptions;
use super::resolve::{addresses, is_own};
use crate::address::{Address, Host, connectable};

/// Whether a datagram asks for the TCP port: the request, and behind it up to three of NUL, CR and LF.
pub(super) fn is_request(datagram: &[u8]) -> bool {
    datagram.strip_prefix(REQUEST).is_some_and(|rest| {
        rest.len() <= MOST_BEHIND && rest.iter().all(|byte| matches!(byte, b'\0' | b'\r' | b'\n'))
    })
}

/// The port that a datagram answers, if that is all it has: decimal digits, and no zero before them.
fn answered(datagram: &[u8]) -> Option<u16> {
    let is_number = (1..=5).contains(&datagram.len()) && datagram.iter().all(u8::is_ascii_digit);
    if !is_number || datagram[0] == b'0' {
        return None;
    }
    std::str::from_utf8(datagram).ok()?.parse().ok()
}

/// Asks on UDP `port` where to connect to, again and again until somebody answers, and yields the
/// first answer. `own` are the addresses of the node's listeners, which are passed over. Cancel safe.
///
/// # Errors
/// [`DialError`], a little before the time of the dial is over, with who was asked and what came instead.
pub(super) async fn discover(
    host: &Host,
    port: u16,
    options: &DialOptions,
    own: &[SocketAddr],
) -> Result<SocketAddr, DialError> {
    let limit = options.connect_timeout;
    let end = Instant::now() + limit.saturating_sub(A_MOMENT);
    let mut heard = Heard::default();
    let failed = |error: io::Error| DialError::NoAddress(format!("cannot ask on UDP port {port}: {error}"));
    let named = match host {
        Host::Any => None,
        _ => Some(addresses(host, port).await.map_err(|source| {
            let name = Address::Tcp { host: host.clone(), port }.to_string();
            DialError::Resolve { name, source }
        })?),
    };
    let is_ipv4 = named.as_ref().is_none_or(|found| found.iter().any(SocketAddr::is_ipv4));
    let socket = open(is_ipv4, options).map_err(failed)?;
    loop {
        let asked = named.clone().unwrap_or_else(|| everyone(port, options));
        for address in asked.into_iter().filter(|address| address.is_ipv4() == is_ipv4) {
            heard.asked(address, socket.send_to(REQUEST, address).await);
        }
        let again = end.min(Instant::now() + REPEAT);
        let mut datagram = [0; ROOM];
        while let Ok(received) = timeout_at(again, socket.recv_from(&mut datagram)).await {
            match received.map(|(count, from)| (answered(&datagram[..count]), count, from)) {
                Ok((Some(port), _, from)) => {
                    let found = SocketAddr::new(from.ip(), port);
                    let found = with_scope(found, from);
                    if connectable(found.ip()).is_ok() && !is_own(found, own) {
                        return Ok(found);
                    }
                    heard.own += 1;
                }
                Ok((None, count, from)) => heard.stray(from, &datagram[..count]),
                Err(error) => {
                    heard.trouble = Some(error);
                    sleep_until(again).await;
                }
            }
        }
        if Instant::now() >= end {
            return Err(DialError::NoAddress(heard.nothing(port, limit)));
        }
    }
}

/// A link-local address is one only with its interface.
fn with_scope(mut found: SocketAddr, from: SocketAddr) -> SocketAddr {
    if let (SocketAddr::V6(found), SocketAddr::V6(from)) = (&mut found, from) {
        found.set_scope_id(from.scope_id());
    }
    found
}

/// Everyone whom a broadcast reaches, as the networks are now, and whoever is on this machine.
fn everyone(port: u16, options: &DialOptions) -> Vec<SocketAddr> {
    let interface = options.kernel.interface.as_deref();
    let mut asked = Vec::new();
    if interface.is_none_or(|name| name == "lo") {
        // A broadcast on loopback would not reach those who are bound to this address.
        asked.push(Ipv4Addr::LOCALHOST);
    }
    let mut seen = BTreeSet::new();
    for one in get_if_addrs().unwrap_or_default() {
        let fits = interface.is_none_or(|name| one.name == name)
            && options.source.is_none_or(|source| one.ip() == source);
        if let (true, false, IfAddr::V4(ipv4)) = (fits, one.is_loopback(), one.addr)
            && let Some(broadcast) = broadcast(ipv4.ip, ipv4.netmask)
            && seen.insert(broadcast)
        {
            asked.push(broadcast);
        }
    }
    asked.truncate(MOST_ASKED);
    // Alone it would reach one network: that of the default route, and none where there is no such route.
    asked.push(Ipv4Addr::BROADCAST);
    asked.into_iter().map(|ip| (ip, port).into()).collect()
}

/// All hosts of a network, if it has room for any beside its two ends.
fn broadcast(ip: Ipv4Addr, mask: Ipv4Addr) -> Option<Ipv4Addr> {
    let host = !mask.to_bits();
    (host > 1).then(|| Ipv4Addr::from_bits(ip.to_bits() | host))
}

fn open(is_ipv4: bool, options: &DialOptions) -> io::Result<UdpSocket> {
    let (domain, any): (_, IpAddr) = match is_ipv4 {
        true => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        false => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_broadcast(true)?;
    // The buffers are for the connection.
    let kernel =
        KernelOptions { kernel_receive_buffer: None, kernel_send_buffer: None, ..options.kernel.clone() };
    kernel.apply(&SockRef::from(&socket), is_ipv4)?;
    let from = SocketAddr::new(options.source.unwrap_or(any), 0);
    socket.bind(&from.into())?;
    UdpSocket::from_std(socket.into())
}

/// Who was asked, and what came that is no answer.
#[derive(Debug, Default)]
struct Heard {
    reached: BTreeSet<IpAddr>,
    unreached: BTreeSet<(IpAddr, String)>,
    strays: u64,
    last_stray: Option<(SocketAddr, String)>,
    own: u64,
    trouble: Option<io::Error>,
}

impl Heard {
    fn asked(&mut self, address: SocketAddr, sent: io::Result<usize>) {
        match sent {
            Ok(_) => _ = self.reached.insert(address.ip()),
            Err(error) => _ = self.unreached.insert((address.ip(), error.kind().to_string())),
        }
    }

    fn stray(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.strays += 1;
        let shown = &datagram[..datagram.len().min(SHOWN)];
        let cut = if datagram.len() > SHOWN { "…" } else { "" };
        self.last_stray = Some((from, format!("`{}{cut}`", shown.escape_ascii())));
    }

    /// That nobody has answered, and all there is to know about it.
    fn nothing(&self, port: u16, limit: Duration) -> String {
        let list = |ips: &mut dyn Iterator<Item = String>| ips.collect::<Vec<_>>().join(", ");
        let mut text =
            format!("nobody answered on UDP port {port} within {}", humantime::format_duration(limit));
        let reached = list(&mut self.reached.iter().map(ToString::to_string));
        let asked = if reached.is_empty() { "nobody".to_owned() } else { reached };
        let _ = write!(text, ": asked {asked}");
        let unreached: Vec<_> = self.unreached.iter().filter(|(ip, _)| !self.reached.contains(ip)).collect();
        if !unreached.is_empty() {
            let failures = list(&mut unreached.iter().map(|(ip, why)| format!("{ip} ({why})")));
            let _ = write!(text, "; could not ask {failures}");
        }
        if let Some((from, shown)) = &self.last_stray {
            let _ = write!(text, "; {} came that are no port, the last from {from}: {shown}", self.strays);
        }
        if self.own > 0 {
            let _ = write!(text, "; {} named a listener of this node", self.own);
        }
        if let Some(error) = &self.trouble {
            let _ = write!(text, "; {error}");
        }
        text
    }
}

/// What is asked.
pub(super) const REQUEST: &[u8] = b"REQUEST FOR IP ADDRESS AND SERVERPORT";
/// The end of a text, as one language or the other writes it.
const MOST_BEHIND: usize = 3;
/// For a datagram, so that one that is too long is not taken for one that is not.
pub(super) const ROOM: usize = 64;
/// A datagram can be lost, and who answers may not be there yet.
const REPEAT: Duration = Duration::from_millis(500);
/// So that it is said why nobody was found before the dial is over without a word.
const A_MOMENT: Duration = Duration::from_millis(10);
/// Broadcast addresses of a machine with many bridges.
const MOST_ASKED: usize = 64;
/// Bytes of a stranger's datagram in an error.
const SHOWN: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_may_end_as_a_text_ends_and_has_nothing_else() {
        let with = |end: &[u8]| is_request(&[REQUEST, end].concat());
        for end in [&b""[..], b"\0", b"\n", b"\r\n", b"\r\n\0"] {
            assert!(with(end), "{end:?}");
        }
        for end in [&b" "[..], b"X", b"\0X", b"\n\n\n\n", b"\t"] {
            assert!(!with(end), "{end:?}");
        }
        assert!(!is_request(b"") && !is_request(&REQUEST[1..]) && !is_request(&REQUEST.to_ascii_lowercase()));
    }

    #[test]
    fn an_answer_is_a_port_and_nothing_else() {
        assert_eq!(
            (answered(b"1"), answered(b"9000"), answered(b"65535")),
            (Some(1), Some(9_000), Some(65_535))
        );
        for text in
            [&b""[..], b"0", b"09", b"65536", b"99999", b"100000", b"-1", b"+1", b"9000\n", b" 1", b"1.0"]
        {
            assert_eq!(answered(text), None, "{text:?}");
        }
        assert_eq!(answered("９".as_bytes()), None);
    }

    #[test]
    fn a_network_has_a_broadcast_address_and_a_line_between_two_has_none() {
        let of = |ip: &str, mask: &str| broadcast(ip.parse().unwrap(), mask.parse().unwrap());
        assert_eq!(of("10.1.2.3", "255.255.0.0"), Some(Ipv4Addr::new(10, 1, 255, 255)));
        assert_eq!(of("192.0.2.5", "255.255.255.252"), Some(Ipv4Addr::new(192, 0, 2, 7)));
        assert_eq!(of("192.0.2.5", "255.255.255.254"), None);
        assert_eq!(of("192.0.2.5", "255.255.255.255"), None);
    }

    proptest! {
        /// Against the definition, written another way.
        #[test]
        fn any_datagram_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..ROOM), at in 0..48usize, byte: u8) {
            let trimmed: Vec<u8> = {
                let end = bytes.iter().rposition(|b| ![0, 10, 13].contains(b)).map_or(0, |last| last + 1);
                bytes[..end].to_vec()
            };
            prop_assert_eq!(is_request(&bytes), trimmed == REQUEST && bytes.len() <= REQUEST.len() + 3);
            let mut spoilt = REQUEST.to_vec();
            if let Some(place) = spoilt.get_mut(at) {
                *place = byte;
            } else {
                spoilt.push(byte);
            }
            let ends_as_text = at >= REQUEST.len() && [0, 10, 13].contains(&byte);
            prop_assert_eq!(is_request(&spoilt), spoilt == REQUEST || ends_as_text);
            let _ = answered(&bytes);
        }

        #[test]
        fn every_port_is_understood_as_it_is_written(port: u16, text in "[0-9]{1,7}", junk in prop::collection::vec(any::<u8>(), 0..8)) {
            prop_assert_eq!(answered(port.to_string().as_bytes()), Some(port).filter(|port| *port > 0));
            let number = text.parse::<u32>().ok().and_then(|number| u16::try_from(number).ok());
            let expected = number.filter(|number| *number > 0 && number.to_string() == text);
            prop_assert_eq!(answered(text.as_bytes()), expected);
            let is_canonical = std::str::from_utf8(&junk).ok().and_then(|text| text.parse::<u16>().ok())
                .filter(|port| *port > 0 && port.to_string().as_bytes() == junk);
            prop_assert_eq!(answered(&junk), is_canonical);
        }
    }
}
