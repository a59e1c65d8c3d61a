//! Postgres password verifiers: SCRAM-SHA-256 of RFC 5802 and RFC 7677, in the form of RFC 5803. Whoever sets a
//! password hands Postgres a verifier, so that no log of statements ever holds a password.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use rand::distr::{Alphanumeric, SampleString};
use sha2::{Digest, Sha256};

const ITERATIONS: u32 = 4096;
const PASSWORD_LENGTH: usize = 32;

/// A password of 32 letters and digits (190 bits): SASLprep leaves it as it is, and so does a URL. A secret.
pub struct Password(String);

impl Password {
    /// A new password from the operating system's CSPRNG.
    pub fn generate() -> Self {
        Self(Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH))
    }

    /// Takes a password that [`Password::generate`] made earlier. `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let ours = text.len() == PASSWORD_LENGTH && text.bytes().all(|b| b.is_ascii_alphanumeric());
        ours.then(|| Self(text.to_owned()))
    }

    /// The text, for a URL.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A verifier with a fresh salt: `SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`.
    pub fn verifier(&self) -> String {
        verifier(self.0.as_bytes(), &rand::random::<[u8; 16]>(), ITERATIONS)
    }
}

fn verifier(password: &[u8], salt: &[u8], iterations: u32) -> String {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, &mut salted);
    let stored_key = Sha256::digest(mac(&salted, b"Client Key"));
    let server_key = mac(&salted, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The exchange of RFC 7677, section 3.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const AUTH_MESSAGE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_SIGNATURE: &str = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn decode(text: &str) -> Vec<u8> {
        STANDARD.decode(text).expect("base64")
    }

    #[test]
    fn the_exchange_of_the_rfc_passes_with_our_verifier() {
        let verifier = verifier(b"pencil", &decode(SALT), 4096);
        let keys = verifier.strip_prefix(&format!("SCRAM-SHA-256$4096:{SALT}$")).expect("starts with the salt");
        let (stored_key, server_key) = keys.split_once(':').expect("two keys");
        assert_eq!(mac(&decode(server_key), AUTH_MESSAGE.as_bytes()).to_vec(), decode(SERVER_SIGNATURE));
        let client_signature = mac(&decode(stored_key), AUTH_MESSAGE.as_bytes());
        let client_key: Vec<u8> = decode(CLIENT_PROOF).iter().zip(client_signature).map(|(p, s)| p ^ s).collect();
        assert_eq!(Sha256::digest(client_key).to_vec(), decode(stored_key));
    }

    #[test]
    fn only_our_own_passwords_are_taken_back() {
        let password = Password::generate();
        assert!(Password::parse(password.expose()).is_some());
        for other in ["", "short", "contains a space and is 32 long!", &"é".repeat(16)] {
            assert!(Password::parse(other).is_none(), "{other}");
        }
    }
}
