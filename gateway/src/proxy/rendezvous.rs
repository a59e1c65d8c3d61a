//! Rendezvous hashing (highest random weight): which engine replica a tenant belongs to.
//!
//! Every gateway ranks the same way without talking to another, and a replica that goes moves only its own tenants.
//! The hash is written out here, so that it is the same in every build.

use std::net::{IpAddr, SocketAddr};

use tenancy::TenantId;

/// The addresses, best first.
pub fn ranked(tenant: TenantId, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut ranked: Vec<_> = addresses.iter().map(|address| (weight(tenant, *address), *address)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, address)| address).collect()
}

fn weight(tenant: TenantId, address: SocketAddr) -> u64 {
    let (tenant_high, tenant_low) = tenant.uuid().as_u64_pair();
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let ip = ip.to_bits();
    let words = [tenant_high, tenant_low, (ip >> 64) as u64, ip as u64, u64::from(address.port())];
    words.into_iter().fold(0, |hash, word| mix(hash ^ word))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), behind its increment.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn addresses(n: u8) -> Vec<SocketAddr> {
        (1..=n).map(|i| SocketAddr::from(([10, 0, 0, i], 8080))).collect()
    }

    fn tenants(n: u128) -> impl Iterator<Item = TenantId> {
        (1..=n).filter_map(|i| TenantId::new(Uuid::from_u128(i << 64 | i)).ok())
    }

    #[test]
    fn the_order_of_the_addresses_does_not_matter() {
        let mut reversed = addresses(5);
        reversed.reverse();
        for tenant in tenants(50) {
            assert_eq!(ranked(tenant, &addresses(5)), ranked(tenant, &reversed));
        }
    }

    #[test]
    fn a_lost_replica_moves_only_its_own_tenants() {
        let (all, gone) = (addresses(5), addresses(5)[2]);
        let fewer: Vec<_> = all.iter().copied().filter(|a| *a != gone).collect();
        for tenant in tenants(500) {
            let before = ranked(tenant, &all);
            let after = ranked(tenant, &fewer);
            if before[0] == gone {
                assert_eq!(before[1], after[0], "it goes to its second choice");
            } else {
                assert_eq!(before[0], after[0]);
            }
        }
    }

    #[test]
    fn tenants_spread_evenly() {
        let all = addresses(4);
        let mut counts = [0_u32; 4];
        for tenant in tenants(4000) {
            let first = ranked(tenant, &all)[0];
            counts[all.iter().position(|a| *a == first).expect("one of them")] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
