//! Which address a request counts for, and a bound on failed authentications of each.
//!
//! X-Forwarded-For is believed only from the proxies that the platform team named.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use http::HeaderMap;

use crate::limit::{Limiter, Verdict};

/// An address or a CIDR block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    base: u128,
    prefix: u8,
}

/// The text is neither an address nor a CIDR block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected an IP address or a CIDR block such as 10.0.0.0/8")]
pub struct NetworkError;

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (bits(address) ^ self.base) & mask == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| NetworkError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(NetworkError);
        }
        Ok(Self { base: bits(address), prefix: prefix + (128 - width) })
    }
}

/// IPv4 as IPv4-mapped IPv6, so that a dual-stack listener's peers match IPv4 blocks.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The client's address: the peer, or behind trusted proxies the last untrusted hop of X-Forwarded-For.
/// An IPv6 client counts with its /64, which is one customer's link.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    let hops = headers.get_all("x-forwarded-for").iter().rev().filter_map(|value| value.to_str().ok());
    for hop in hops.flat_map(|value| value.rsplit(',')) {
        if !is_trusted(client) {
            break;
        }
        match hop.trim().parse() {
            Ok(address) => client = address,
            Err(_) => break,
        }
    }
    grouped(client)
}

/// Whether a peer is a proxy that the platform team named.
pub fn is_trusted(peer: IpAddr, trusted: &[Network]) -> bool {
    trusted.iter().any(|network| network.contains(peer))
}

/// The address under which a client is counted.
pub fn grouped(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

const SLOTS: usize = 8192;

/// Bounds failed authentications of each client address.
///
/// Memory is fixed: addresses share 8,192 slots by a keyed hash. Two that meet in a slot share its bound; what they can
/// lose is only a 401 that becomes a 429, since requests with a valid key are never counted here.
pub struct FailureLimits {
    slots: Box<[Limiter]>,
    hasher: RandomState,
    per_minute: u32,
}

impl FailureLimits {
    /// At most `per_minute` failures of one address, at once or over a minute.
    pub fn new(per_minute: u32) -> Self {
        let slots = std::iter::repeat_with(Limiter::default).take(SLOTS).collect();
        Self { slots, hasher: RandomState::new(), per_minute }
    }

    /// Counts a failure at `now` (since the gateway's start).
    pub fn failed(&self, address: IpAddr, now: Duration) -> Verdict {
        let slot = self.hasher.hash_one(address) as usize % SLOTS;
        self.slots[slot].decide(now, self.per_minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|v| (http::HeaderName::from_static("x-forwarded-for"), http::HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn blocks_contain_what_they_should() {
        let block: Network = "10.1.0.0/16".parse().expect("a block");
        assert!(block.contains("10.1.255.1".parse().expect("an address")));
        assert!(block.contains("::ffff:10.1.0.9".parse().expect("an address")));
        assert!(!block.contains("10.2.0.1".parse().expect("an address")));
        let all: Network = "::/0".parse().expect("a block");
        assert!(all.contains("192.0.2.1".parse().expect("an address")));
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::1/129", "a/1"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let peer: IpAddr = "10.0.0.1".parse().expect("an address");
        let trusted = ["10.0.0.0/8".parse().expect("a block")];
        let headers = forwarded(&["203.0.113.9, 198.51.100.7", "10.0.0.2"]);
        assert_eq!(client_address(peer, &headers, &trusted).to_string(), "198.51.100.7");
        assert_eq!(client_address(peer, &headers, &[]).to_string(), "10.0.0.1");
        assert_eq!(client_address(peer, &forwarded(&["nonsense"]), &trusted).to_string(), "10.0.0.1");
    }

    #[test]
    fn an_ipv6_client_counts_with_its_link() {
        assert_eq!(grouped("2001:db8:1:2:3:4:5:6".parse().expect("an address")).to_string(), "2001:db8:1:2::");
    }

    #[test]
    fn one_address_that_fails_does_not_stop_another() {
        let limits = FailureLimits::new(3);
        let (a, b) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        let allowed = (0..10).filter(|_| limits.failed(a, Duration::ZERO).allowed).count();
        assert_eq!(allowed, 3);
        assert!(limits.failed(b, Duration::ZERO).allowed);
    }
}
