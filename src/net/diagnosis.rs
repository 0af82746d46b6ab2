//! One question to the kernel's socket diagnosis (sock_diag(7)) by netlink: a
//! connection by its two addresses, which costs the same with any number of
//! others. Plain bytes both ways.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// What it has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Diagnosis {
    /// So many bytes were written and are not acknowledged; our own end counts as one.
    Unacknowledged(u64),
    /// It knows no such connection, or knows nothing at all.
    None,
}

/// Asks for the connection between these two addresses, which are of one family.
///
/// # Errors
/// There is no such thing here, or it answers what is not understood.
pub(super) fn diagnose(local: SocketAddr, peer: SocketAddr) -> io::Result<Diagnosis> {
    let mut socket = Socket::new(Domain::from(NETLINK), Type::DGRAM, Some(Protocol::from(SOCK_DIAG)))?;
    // The kernel answers within the send.
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    socket.send(&request(local, peer))?;
    let mut answer = [0; 1_024];
    let count = socket.read(&mut answer)?;
    read(&answer[..count]).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// `struct nlmsghdr`, `struct inet_diag_req_v2`.
fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    // Sequence and port: only one is under way.
    bytes.extend([0; 8]);
    let family = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    bytes.extend([i32::from(family) as u8, TCP, 0, 0]);
    // In any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.port().to_be_bytes());
    bytes.extend(peer.port().to_be_bytes());
    for address in [local, peer] {
        match address.ip() {
            IpAddr::V4(ip) => bytes.extend([&ip.octets()[..], &[0; 12]].concat()),
            IpAddr::V6(ip) => bytes.extend(ip.octets()),
        }
    }
    let scope = if let SocketAddr::V6(local) = local { local.scope_id() } else { 0 };
    bytes.extend(scope.to_ne_bytes());
    // Whatever its cookie is.
    bytes.extend([0xff; 8]);
    bytes
}

/// `struct nlmsghdr`, then `struct inet_diag_msg` or an error.
fn read(answer: &[u8]) -> Option<Diagnosis> {
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    match u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?) {
        BY_FAMILY => Some(Diagnosis::Unacknowledged(word(WRITTEN)?.into())),
        ERROR if word(HEADER)? as i32 == -NO_ENTRY => Some(Diagnosis::None),
        _ => None,
    }
}

/// AF_NETLINK.
const NETLINK: i32 = 16;
/// NETLINK_SOCK_DIAG.
const SOCK_DIAG: i32 = 4;
/// SOCK_DIAG_BY_FAMILY.
const BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST.
const REQUEST: u16 = 1;
/// NLMSG_ERROR.
const ERROR: u16 = 2;
/// ENOENT.
const NO_ENTRY: i32 = 2;
/// IPPROTO_TCP.
const TCP: u8 = 6;
/// Of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Of the whole request.
const LENGTH: u32 = 72;
/// Where `idiag_wqueue` is.
const WRITTEN: usize = 76;
