//! The name in a certificate that has been verified. Of its structure (RFC
//! 5280, DER) only what leads there is read, and nothing is ever assumed.

use std::net::IpAddr;
use std::sync::Arc;

/// Its common name, or else the first of its alternative names that can be read.
pub(super) fn of(certificate: &[u8]) -> Option<Arc<str>> {
    let name = find(certificate)?;
    let shown: String = name.chars().take(LONGEST).collect::<String>().escape_debug().collect();
    Some(shown.into())
}

fn find(certificate: &[u8]) -> Option<String> {
    let mut parts = inside(&mut { certificate }, SEQUENCE)?;
    let mut parts = inside(&mut parts, SEQUENCE)?;
    let mut rest = parts;
    // A version, if there is one; then serial number, algorithm, issuer, validity.
    if let Some((tag, _)) = next(&mut rest)
        && tag == VERSION
    {
        parts = rest;
    }
    for _ in 0..4 {
        next(&mut parts)?;
    }
    let mut subject = inside(&mut parts, SEQUENCE)?;
    if let Some(name) = common_name(&mut subject) {
        return Some(name);
    }
    while let Some((tag, mut body)) = next(&mut parts) {
        if tag == EXTENSIONS {
            return alternative_name(&mut inside(&mut body, SEQUENCE)?);
        }
    }
    None
}

fn common_name(subject: &mut &[u8]) -> Option<String> {
    while let Some(mut set) = inside(subject, SET) {
        while let Some(mut pair) = inside(&mut set, SEQUENCE) {
            let (_, kind) = next(&mut pair)?;
            let (_, value) = next(&mut pair)?;
            if kind == COMMON_NAME && !value.is_empty() {
                return Some(String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    None
}

fn alternative_name(extensions: &mut &[u8]) -> Option<String> {
    while let Some(mut extension) = inside(extensions, SEQUENCE) {
        let (_, kind) = next(&mut extension)?;
        if kind != ALTERNATIVE_NAMES {
            continue;
        }
        // It may begin with whether it is critical.
        let mut body = loop {
            match next(&mut extension)? {
                (OCTETS, body) => break body,
                _ => continue,
            }
        };
        let mut names = inside(&mut body, SEQUENCE)?;
        while let Some((tag, value)) = next(&mut names) {
            match (tag, value.len()) {
                (DNS | EMAIL | URI, _) => return Some(String::from_utf8_lossy(value).into_owned()),
                (IP, 4) => return <[u8; 4]>::try_from(value).ok().map(|ip| IpAddr::from(ip).to_string()),
                (IP, 16) => return <[u8; 16]>::try_from(value).ok().map(|ip| IpAddr::from(ip).to_string()),
                _ => {}
            }
        }
    }
    None
}

/// The body of the next value, if it has this tag.
fn inside<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, body) = next(input)?;
    (found == tag).then_some(body)
}

/// The next value: its tag and its body.
fn next<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[tag, first], mut rest) = input.split_first_chunk::<2>()?;
    let mut length = usize::from(first);
    if first >= 0x80 {
        let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    let (body, after) = rest.split_at_checked(length)?;
    *input = after;
    Some((tag, body))
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const EMAIL: u8 = 0x81;
const DNS: u8 = 0x82;
const URI: u8 = 0x86;
const IP: u8 = 0x87;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
/// Characters of a name that are shown.
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn certificate(common: Option<&str>, names: &[&str]) -> Vec<u8> {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "plant");
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_comes_first_then_the_first_alternative() {
        let of = |common, names: &[&str]| of(&certificate(common, names)).map(|name| name.to_string());
        assert_eq!(of(Some("device 7"), &["a.example"]).unwrap(), "device 7");
        assert_eq!(of(None, &["a.example", "b.example"]).unwrap(), "a.example");
        assert_eq!(of(None, &["192.0.2.7"]).unwrap(), "192.0.2.7");
        assert_eq!(of(None, &[]), None);
        assert_eq!(of(Some("line\nfeed"), &[]).unwrap(), "line\\nfeed");
    }

    proptest! {
        /// Whatever is cut from, or put into, a certificate, it is read without a panic.
        #[test]
        fn any_bytes_can_be_asked(length in 0usize..600, at in 0usize..600, byte: u8) {
            thread_local! { static WHOLE: Vec<u8> = certificate(None, &["a.example"]); }
            WHOLE.with(|whole| {
                let mut bytes = whole[..length.min(whole.len())].to_vec();
                if let Some(changed) = bytes.get_mut(at) {
                    *changed = byte;
                }
                let _ = of(&bytes);
            });
        }
    }
}
