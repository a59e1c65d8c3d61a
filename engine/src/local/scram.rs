//! A password verifier for Postgres (SCRAM-SHA-256, RFC 7677, in the form of RFC 5803): no statement holds a password.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

const ITERATIONS: u32 = 4096;

/// A verifier with a fresh salt. The password must be ASCII.
pub(super) fn verifier(password: &str) -> String {
    // A version 4 UUID has 122 random bits of the operating system.
    with_salt(password, Uuid::new_v4().as_bytes(), ITERATIONS)
}

fn with_salt(password: &str, salt: &[u8], iterations: u32) -> String {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, iterations, &mut salted);
    let stored_key = Sha256::digest(mac(&salted, b"Client Key"));
    let server_key = mac(&salted, b"Server Key");
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", text(salt), text(&stored_key), text(&server_key))
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC takes a key of any length") };
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_key_signs_as_in_the_rfc() {
        // RFC 7677, section 3: user, nonce, salt and signature of the example.
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = with_salt("pencil", &salt, 4096);
        let (_, server_key) = verifier.rsplit_once(':').expect("two keys");
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let message =
            format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}");
        let signature = mac(&BASE64_STANDARD.decode(server_key).expect("base64"), message.as_bytes());
        assert_eq!(BASE64_STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }
}
