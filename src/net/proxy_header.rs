//! The PROXY protocol, versions 1 and 2: what a proxy says of the connection
//! it passes on, before the first byte of it. Parsing needs no socket; reading
//! takes the header from one, and not a byte more.
//! Source: HAProxy's `doc/proxy-protocol.txt`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::event::Endpoint;

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyVersion {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// How it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    /// The header for a connection from `client` to `local`. Without addresses it says that there is a proxy.
    pub(super) fn header(self, ends: Option<(&Endpoint, &Endpoint)>) -> Vec<u8> {
        let ends = match ends {
            Some((Endpoint::Tcp(source), Endpoint::Tcp(destination))) => {
                Some(same_family(*source, *destination))
            }
            _ => None,
        };
        match (self, ends) {
            (Self::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
            (Self::V1, Some((source, destination))) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (source.ip(), destination.ip());
                format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
                    .into_bytes()
            }
            (Self::V2, ends) => {
                let mut body = Vec::new();
                let (command, family) = match ends {
                    None => (LOCAL, 0),
                    Some((source, _)) if source.is_ipv4() => (PROXY, TCP4),
                    Some(_) => (PROXY, TCP6),
                };
                if let Some((source, destination)) = ends {
                    for ip in [source.ip(), destination.ip()] {
                        match ip {
                            IpAddr::V4(ip) => body.extend(ip.octets()),
                            IpAddr::V6(ip) => body.extend(ip.octets()),
                        }
                    }
                    body.extend(source.port().to_be_bytes());
                    body.extend(destination.port().to_be_bytes());
                }
                let mut header = SIGNATURE.to_vec();
                header.extend([command, family]);
                header.extend((body.len() as u16).to_be_bytes());
                header.extend(body);
                header
            }
        }
    }
}

/// Both as IPv4, or both as IPv6.
fn same_family(a: SocketAddr, b: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    };
    let (a, b) = (plain(a), plain(b));
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (mapped(a), mapped(b)) }
}

/// The two ends of the connection that a proxy passes on; none where it speaks for itself.
pub(crate) type Announced = Option<(SocketAddr, SocketAddr)>;

/// What the beginning of a stream says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parsed {
    /// At least so many bytes more belong to the header.
    Needs(usize),
    Done(Announced),
}

/// Reads the header that every connection on this socket begins with.
///
/// # Errors
/// The socket's, and what is wrong with the header.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Announced> {
    let mut header = Vec::with_capacity(SIGNATURE.len());
    loop {
        let more = match parse(&header) {
            Ok(Parsed::Done(announced)) => return Ok(announced),
            Ok(Parsed::Needs(more)) => more,
            Err(problem) => return Err(io::Error::new(io::ErrorKind::InvalidData, problem)),
        };
        let before = header.len();
        header.resize(before + more, 0);
        if let Err(error) = stream.read_exact(&mut header[before..]).await {
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(error.kind(), "it ended inside its PROXY header")
                }
                _ => error,
            });
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    // Shorter than any header of either version.
    let Some(begin) = bytes.first_chunk::<{ SIGNATURE.len() }>() else {
        return Ok(Parsed::Needs(SIGNATURE.len() - bytes.len()));
    };
    if *begin == SIGNATURE {
        version_2(&bytes[SIGNATURE.len()..])
    } else if begin.starts_with(b"PROXY ") {
        version_1(bytes)
    } else {
        Err("it sent no PROXY header, which this listener waits for".into())
    }
}

fn version_1(bytes: &[u8]) -> Result<Parsed, String> {
    let Some(line) = bytes.strip_suffix(b"\r\n") else {
        return match bytes.len() {
            LONGEST_V1.. => Err("its PROXY header has no end".into()),
            _ if bytes.ends_with(b"\n") => Err("its PROXY header ends without a carriage return".into()),
            // Byte by byte, since the next may be the last.
            _ => Ok(Parsed::Needs(1)),
        };
    };
    let wrong = || format!("its PROXY header is wrong: `{}`", line.escape_ascii());
    let text = std::str::from_utf8(line).map_err(|_| wrong())?;
    let words: Vec<_> = text.split(' ').collect();
    if words.get(1) == Some(&"UNKNOWN") {
        return Ok(Parsed::Done(None));
    }
    let [_, family, source, destination, source_port, destination_port] = words[..] else {
        return Err(wrong());
    };
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| -> Option<u16> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        plain.then(|| text.parse().ok()).flatten()
    };
    let ends = || {
        let source = SocketAddr::new(ip(source)?, port(source_port)?);
        Some((source, SocketAddr::new(ip(destination)?, port(destination_port)?)))
    };
    ends().map(|ends| Parsed::Done(Some(ends))).ok_or_else(wrong)
}

/// `bytes` are those after the signature.
fn version_2(bytes: &[u8]) -> Result<Parsed, String> {
    let Some(&[command, family, high, low]) = bytes.first_chunk() else {
        return Ok(Parsed::Needs(4 - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, LOCAL | PROXY) {
        return Err(format!("its PROXY header has the unknown version and command {command:#04x}"));
    }
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(format!("its PROXY header has the unknown family {family:#04x}"));
    }
    if length > LONGEST_V2 {
        return Err(format!("its PROXY header has {length} bytes, and {LONGEST_V2} are allowed"));
    }
    let body = &bytes[4..];
    if body.len() < length {
        return Ok(Parsed::Needs(length - body.len()));
    }
    let ip_length = match family {
        TCP4 => 4,
        TCP6 => 16,
        // Of a Unix socket, or of what we do not know: the real address holds.
        _ => 0,
    };
    if command == LOCAL {
        return Ok(Parsed::Done(None));
    }
    let short = || format!("its PROXY header has {length} bytes, too few for its addresses");
    let (addresses, more) =
        body.split_at_checked(2 * ip_length + if ip_length == 0 { 0 } else { 4 }).ok_or_else(short)?;
    if ip_length == 0 {
        return Ok(Parsed::Done(None));
    }
    check_extensions(more, bytes)?;
    let (ips, ports) = addresses.split_at(2 * ip_length);
    let end = |ip: &[u8], port: &[u8]| {
        let ip = match <[u8; 4]>::try_from(ip) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(ip).expect("it has 4 bytes or 16")),
        };
        SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]]))
    };
    let ends = (end(&ips[..ip_length], &ports[..2]), end(&ips[ip_length..], &ports[2..]));
    Ok(Parsed::Done(Some(ends)))
}

/// Each is a type, a length and so many bytes; of them only a checksum is judged.
fn check_extensions(mut rest: &[u8], after_signature: &[u8]) -> Result<(), String> {
    while !rest.is_empty() {
        let torn = || "its PROXY header has an extension that is cut short".to_owned();
        let (&[kind, high, low], after) = rest.split_first_chunk::<3>().ok_or_else(torn)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, next) = after.split_at_checked(length).ok_or_else(torn)?;
        if kind == CHECKSUM {
            let at = after_signature.len() - after.len();
            let mut whole = [&SIGNATURE, after_signature].concat();
            // It is that of the header with zeros in its place.
            whole[SIGNATURE.len() + at..][..length].fill(0);
            if value != crc32c(&whole).to_be_bytes() {
                return Err("its PROXY header has a wrong checksum".into());
            }
        }
        rest = next;
    }
    Ok(())
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ CASTAGNOLI } else { crc >> 1 },
        )
    };
    !bytes.iter().fold(!0, step)
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and that the proxy speaks for itself.
const LOCAL: u8 = 0x20;
/// Version 2, and that it passes a connection on.
const PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const CHECKSUM: u8 = 0x03;
/// Of a line, its end included.
const LONGEST_V1: usize = 107;
/// Of what follows the first 16 bytes.
const LONGEST_V2: usize = 2_048;
const CASTAGNOLI: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Gives the parser what it asks for, and says how much it took.
    fn run(bytes: &[u8]) -> Result<(usize, Announced), String> {
        let mut taken = 0;
        loop {
            match parse(&bytes[..taken])? {
                Parsed::Done(announced) => return Ok((taken, announced)),
                Parsed::Needs(more) if taken + more > bytes.len() => return Err("more".into()),
                Parsed::Needs(more) => taken += more,
            }
        }
    }

    fn ends(source: &str, destination: &str) -> Announced {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&SIGNATURE[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn lines_are_read_to_their_end_and_no_further() {
        for (line, announced) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.1 1 65535\r\n", ends("192.0.2.1:1", "198.51.100.1:65535")),
            ("PROXY TCP6 2001:DB8::1 ::1 10 20\r\n", ends("[2001:db8::1]:10", "[::1]:20")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff:: what ever\r\n", None),
        ] {
            let stream = format!("{line}PROXY UNKNOWN\r\n");
            assert_eq!(run(stream.as_bytes()), Ok((line.len(), announced)), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 1\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 2\r\n",
        ] {
            assert!(run(line.as_bytes()).is_err_and(|text| text != "more"), "{line:?}");
        }
        let endless = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        assert!(run(endless.as_bytes()).unwrap_err().contains("no end"));
    }

    #[test]
    fn binary_headers_are_read_and_their_faults_named() {
        let body = [192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 255, 255];
        let announced = ends("192.0.2.1:1", "198.51.100.1:65535");
        assert_eq!(run(&v2(PROXY, TCP4, &body)), Ok((28, announced)));
        let extended = [&body[..], &[0x04, 0, 1, 9]].concat();
        assert_eq!(run(&v2(PROXY, TCP4, &extended)), Ok((32, announced)));
        // For itself, whatever else it says; and of a kind that has no address for us.
        assert_eq!(run(&v2(LOCAL, TCP4, &[1, 2, 3])), Ok((19, None)));
        assert_eq!(run(&v2(PROXY, 0x31, &[0; 216])), Ok((232, None)));
        for (bytes, problem) in [
            (v2(0x11, TCP4, &body), "version"),
            (v2(0x22, TCP4, &body), "version"),
            (v2(PROXY, 0x41, &body), "family"),
            (v2(PROXY, 0x13, &body), "family"),
            (v2(PROXY, TCP4, &[]), "too few"),
            (v2(PROXY, TCP6, &body), "too few"),
            (v2(PROXY, TCP4, &[0; 2_049]), "2048 are allowed"),
            (v2(PROXY, TCP4, &[&body[..], &[4, 0, 9, 1]].concat()), "cut short"),
            (v2(PROXY, TCP4, &[&body[..], &[3, 0, 4, 1, 2, 3, 4]].concat()), "checksum"),
        ] {
            let text = run(&bytes).unwrap_err();
            assert!(text.contains(problem), "{text} for {problem}");
        }
    }

    #[test]
    fn a_right_checksum_is_accepted() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let body = [192, 0, 2, 1, 198, 51, 100, 1, 0, 1, 255, 255];
        let zeros = v2(PROXY, TCP4, &[&body[..], &[3, 0, 4, 0, 0, 0, 0]].concat());
        let right = [&body[..], &[3, 0, 4], &crc32c(&zeros).to_be_bytes()].concat();
        assert!(run(&v2(PROXY, TCP4, &right)).is_ok());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let endpoint = |text: &str| Endpoint::Tcp(text.parse().unwrap());
        for (source, destination, read) in [
            ("192.0.2.1:1", "198.51.100.1:2", ends("192.0.2.1:1", "198.51.100.1:2")),
            ("[2001:db8::1]:1", "[::1]:2", ends("[2001:db8::1]:1", "[::1]:2")),
            ("[::ffff:192.0.2.1]:1", "198.51.100.1:2", ends("192.0.2.1:1", "198.51.100.1:2")),
            ("192.0.2.1:1", "[::1]:2", ends("[::ffff:192.0.2.1]:1", "[::1]:2")),
        ] {
            for version in ProxyVersion::ALL {
                let header = version.header(Some((&endpoint(source), &endpoint(destination))));
                assert_eq!(run(&header), Ok((header.len(), read)), "{version:?} {source}");
            }
        }
        for version in ProxyVersion::ALL {
            let header = version.header(Some((&Endpoint::Stdio, &Endpoint::Stdio)));
            assert_eq!(run(&header), Ok((header.len(), None)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        /// Nothing panics, and nothing beyond the limits is asked for.
        #[test]
        fn any_bytes_are_parsed_or_refused(begin in 0..3usize, rest: Vec<u8>, command in 0x1f..0x23u8, family: u8) {
            let begin = match begin {
                0 => Vec::new(),
                1 => b"PROXY TCP4 ".to_vec(),
                _ => [&SIGNATURE[..], &[command, family]].concat(),
            };
            let bytes = [begin, rest].concat();
            if let Ok((taken, _)) = run(&bytes) {
                prop_assert!(taken <= SIGNATURE.len() + 4 + LONGEST_V2);
            }
        }
    }
}
