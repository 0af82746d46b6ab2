//! How much of what was sent the peer's kernel has not acknowledged: asked for
//! the few connections whose messages are accounted for, by netlink, and where
//! that is not allowed in /proc, which is read from its beginning.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::diagnosis::{Diagnosis, diagnose};

/// What the kernel knows of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unacknowledged {
    /// So many bytes; our own end counts as one.
    Bytes(u64),
    /// There is no such connection any more.
    Gone,
    /// It cannot be told.
    Unknown,
}

/// Asks for the connection between these two addresses.
pub(super) fn unacknowledged(local: SocketAddr, peer: SocketAddr) -> Unacknowledged {
    match diagnose(local, peer) {
        Ok(Diagnosis::Unacknowledged(bytes)) => Unacknowledged::Bytes(bytes),
        // A kernel without it says the same as of a connection that is gone.
        Ok(Diagnosis::None) | Err(_) => in_tables(local, peer),
    }
}

fn in_tables(local: SocketAddr, peer: SocketAddr) -> Unacknowledged {
    let mut found = Unacknowledged::Unknown;
    for (path, v6) in [("/proc/net/tcp", false), ("/proc/net/tcp6", true)] {
        let Ok(table) = fs::read_to_string(path) else { continue };
        let ends = (written(local, v6), written(peer, v6));
        let (Some(local), Some(peer)) = ends else { continue };
        found = Unacknowledged::Gone;
        for row in table.lines().skip(1) {
            let mut fields = row.split_ascii_whitespace().skip(1);
            if fields.next() == Some(&local) && fields.next() == Some(&peer) {
                let queues = fields.nth(1).unwrap_or_default();
                let bytes = queues.split(':').next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
                return bytes.map_or(Unacknowledged::Unknown, Unacknowledged::Bytes);
            }
        }
    }
    found
}

/// An address as the kernel's tables show it: words of the machine's own byte order.
fn written(address: SocketAddr, v6: bool) -> Option<String> {
    let words = |bytes: &[u8]| {
        let word = |word: &[u8]| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        bytes.chunks_exact(4).map(|four| format!("{:08X}", word(four))).collect::<String>()
    };
    let ip = match (address.ip(), v6) {
        (IpAddr::V4(ip), false) => words(&ip.octets()),
        (IpAddr::V4(ip), true) => words(&ip.to_ipv6_mapped().octets()),
        (IpAddr::V6(ip), true) => words(&ip.octets()),
        (IpAddr::V6(_), false) => return None,
    };
    Some(format!("{ip}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_a_peer_that_does_not_read_has_not_acknowledged_is_seen() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let ends = (near.local_addr().unwrap(), near.peer_addr().unwrap());
            let far = listener.accept().unwrap().0;
            let ask = [unacknowledged, in_tables];
            assert_eq!(ask.map(|ask| ask(ends.0, ends.1)), [Unacknowledged::Bytes(0); 2]);
            assert_eq!(diagnose(ends.0, ends.1).unwrap(), Diagnosis::Unacknowledged(0));
            near.set_nonblocking(true).unwrap();
            while near.write(&[0; 1 << 16]).is_ok() {}
            assert!(matches!(unacknowledged(ends.0, ends.1), Unacknowledged::Bytes(1..)));
            // Its kernel may still acknowledge what fits, between two questions.
            let is_same = |()| ask[0](ends.0, ends.1) == ask[1](ends.0, ends.1);
            assert!(std::iter::repeat_n((), 10_000).any(is_same), "both ways tell the same");
            drop((near, far, listener));
        }
        assert_eq!(
            unacknowledged("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap()),
            Unacknowledged::Gone
        );
    }
}
