//! Allow and deny lists of networks in CIDR notation.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// Who may connect. Deny wins; an empty allow list allows everyone else.
///
/// IPv4 clients that reach an IPv6 socket are judged as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

/// A text that is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network; write for example 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")]
pub struct CidrError(String);

impl AccessList {
    /// Adds a network, or a single address, to those allowed.
    ///
    /// # Errors
    /// [`CidrError`] if `text` is neither.
    pub fn allow(&mut self, text: &str) -> Result<(), CidrError> {
        self.allow.push(network(text)?);
        Ok(())
    }

    /// Adds a network, or a single address, to those denied.
    ///
    /// # Errors
    /// [`CidrError`] if `text` is neither.
    pub fn deny(&mut self, text: &str) -> Result<(), CidrError> {
        self.deny.push(network(text)?);
        Ok(())
    }

    /// Tells whether `ip` may connect.
    pub fn permits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&ip));
        !within(&self.deny) && (self.allow.is_empty() || within(&self.allow))
    }

    /// The networks that are allowed; none means all.
    pub(crate) fn allows(&self) -> &[IpNet] {
        &self.allow
    }

    /// The networks that are allowed, to be changed; each as [`network`] yields it.
    pub(crate) fn allow_mut(&mut self) -> &mut Vec<IpNet> {
        &mut self.allow
    }

    /// The networks that are denied.
    #[cfg(feature = "cli")]
    pub(crate) fn denies(&self) -> &[IpNet] {
        &self.deny
    }

    /// The networks that are denied, to be changed.
    pub(crate) fn deny_mut(&mut self) -> &mut Vec<IpNet> {
        &mut self.deny
    }

    /// Tells whether everyone may connect.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// What counts as one address: an IPv4 address, or a /64 of IPv6, all of which one host can use.
pub(crate) fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// The network that `text` means, or the single address.
pub(crate) fn network(text: &str) -> Result<IpNet, CidrError> {
    let network = match IpAddr::from_str(text) {
        Ok(ip) => IpNet::from(ip),
        Err(_) => IpNet::from_str(text).map_err(|_| CidrError(text.escape_debug().to_string()))?,
    };
    Ok(canonical(network))
}

/// `::ffff:10.0.0.0/104` means `10.0.0.0/8`, as clients are judged by their IPv4 address.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let mapped = |ip: Ipv6Addr| ip.to_ipv4_mapped();
    match (mapped(v6.network()), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        let mut list = AccessList::default();
        allow.iter().for_each(|text| list.allow(text).unwrap());
        deny.iter().for_each(|text| list.deny(text).unwrap());
        list
    }

    #[test]
    fn deny_wins_and_mapped_addresses_are_judged_as_ipv4() {
        let list = list(&["10.0.0.0/8", "::ffff:192.0.2.0/120", "2001:db8::/32"], &["10.9.0.0/16"]);
        let permits = |text: &str| list.permits(text.parse().unwrap());
        assert!(permits("10.1.2.3"));
        assert!(permits("::ffff:10.1.2.3"));
        assert!(!permits("10.9.2.3"));
        assert!(!permits("::ffff:10.9.2.3"));
        assert!(permits("192.0.2.200"));
        assert!(!permits("192.0.3.1"));
        assert!(permits("2001:db8::1"));
        assert!(!permits("::1"));
    }

    #[test]
    fn without_an_allow_list_everyone_not_denied_may_connect() {
        let list = list(&[], &["127.0.0.1"]);
        assert!(!list.permits("127.0.0.1".parse().unwrap()));
        assert!(list.permits("127.0.0.2".parse().unwrap()));
        assert!(AccessList::default().permits("::".parse().unwrap()));
    }

    #[test]
    fn what_is_not_a_network_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "host", "::/129", "10.0.0.0/", "1.2.3.4/-1"] {
            assert!(AccessList::default().allow(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// Against the definition, written out in bits.
        #[test]
        fn membership_is_that_of_the_prefix(ip: u32, net: u32, prefix in 0u32..=32, denied: bool) {
            let text = format!("{}/{prefix}", std::net::Ipv4Addr::from(net));
            let list = if denied { list(&[], &[&text]) } else { list(&[&text], &[]) };
            let shift = 32 - prefix;
            let inside = u64::from(ip) >> shift == u64::from(net) >> shift;
            prop_assert_eq!(list.permits(std::net::Ipv4Addr::from(ip).into()), inside != denied);
        }
    }
}
