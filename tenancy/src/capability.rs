//! The capability: what a request carries so that Postgres serves a tenant's rows.
//!
//! capability = HMAC-SHA-256(master key, tenant id ‖ generation), RFC 2104. Gateway and operator hold the master
//! key; Postgres holds SHA-256 of the current and the previous capability; an engine holds neither and only
//! passes on what came with the request. SQL that was injected into one tenant's transaction can name another
//! tenant, but not its capability.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::TenantId;

const MASTER_KEY_BYTES: usize = 32;

/// The key that all capabilities derive from: 32 bytes. A secret: no `Debug`, no `Display`.
#[derive(Clone)]
pub struct MasterKey([u8; MASTER_KEY_BYTES]);

/// The Secret does not hold a master key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the master key must be 64 hex digits (32 bytes); the migrate Job makes the Secret that holds it")]
pub struct MasterKeyError;

/// Proof that a request may act for one tenant: 32 bytes, 64 lower-case hex digits in a header. A secret.
#[derive(Clone)]
pub struct Capability([u8; 32]);

/// SHA-256 of a capability's 32 bytes: what Postgres keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CapabilityHash([u8; 32]);

impl MasterKey {
    /// A new key from the operating system's CSPRNG.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// Reads 64 hex digits, white space around them ignored.
    ///
    /// # Errors
    /// [`MasterKeyError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let mut bytes = [0; MASTER_KEY_BYTES];
        hex::decode_to_slice(text.trim(), &mut bytes).map_err(|_| MasterKeyError)?;
        Ok(Self(bytes))
    }

    /// 64 hex digits, for the Secret.
    pub fn expose(&self) -> String {
        hex::encode(self.0)
    }

    /// The capability of a tenant at a generation (which a rotation counts up).
    pub fn capability(&self, tenant: TenantId, generation: i32) -> Capability {
        // An HMAC takes a key of any length, so this cannot fail.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(tenant.uuid().as_bytes());
        mac.update(&generation.to_be_bytes());
        Capability(mac.finalize().into_bytes().into())
    }
}

impl Capability {
    /// Reads the value of the capability header. `None` unless it is 64 hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// 64 hex digits, for the header.
    pub fn expose(&self) -> String {
        hex::encode(self.0)
    }

    /// The 32 bytes, for a bind parameter.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What Postgres keeps.
    pub fn hash(&self) -> CapabilityHash {
        CapabilityHash(Sha256::digest(self.0).into())
    }
}

impl CapabilityHash {
    /// The 32 bytes, for a bind parameter.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for CapabilityHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CapabilityHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differs_by_tenant_generation_and_key() {
        let (a, b) = (MasterKey([1; 32]), MasterKey([2; 32]));
        let tenant = crate::LOCAL_TENANT;
        let other: TenantId = "6f1d4b0e-8a52-4e0c-9d54-0b6a2f6f9f11".parse().expect("a UUID");
        let all = [a.capability(tenant, 1), a.capability(tenant, 2), a.capability(other, 1), b.capability(tenant, 1)];
        for (i, x) in all.iter().enumerate() {
            for y in &all[i + 1..] {
                assert_ne!(x.as_bytes(), y.as_bytes());
            }
        }
        assert_eq!(a.capability(tenant, 1).hash(), all[0].hash());
    }

    #[test]
    fn a_header_reads_back_and_rubbish_does_not() {
        let capability = MasterKey([7; 32]).capability(crate::LOCAL_TENANT, 3);
        assert!(Capability::parse(&capability.expose()).is_some_and(|read| read.as_bytes() == capability.as_bytes()));
        for rubbish in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
            assert!(Capability::parse(rubbish).is_none());
        }
    }
}
