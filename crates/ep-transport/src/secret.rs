//! A secret that the ranks of a group share, and the codes made with it.
//!
//! The codes are HMAC-SHA-256 (RFC 2104, FIPS 180-4). They show that a message comes
//! from somebody who knows the secret and was not changed; they hide nothing.

use crate::error::Error;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::fmt;

/// Fewest and most bytes of a secret.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;
/// Bytes of a code.
pub(crate) const TAG: usize = 32;
/// Block size of SHA-256, which is the longest key that HMAC takes as it is.
const BLOCK: usize = 64;

/// An authentication code.
pub(crate) type Tag = [u8; TAG];

/// What all ranks of a group know and nobody else does.
///
/// With it, the TCP store and its clients prove to each other who they are, and what
/// is published at the rendezvous cannot be changed or moved unnoticed. It should be
/// random: whoever records one handshake can try out guesses. Nothing is encrypted.
#[derive(Clone)]
pub struct Secret([u8; BLOCK]);

impl Secret {
    /// A secret of 16 to 4,096 bytes.
    ///
    /// # Errors
    /// [`Error::Config`] if there are fewer or more.
    pub fn new(bytes: &[u8]) -> Result<Self, Error> {
        if !LENGTHS.contains(&bytes.len()) {
            return Err(Error::Config {
                what: "secret",
                value: format!("{} bytes", bytes.len()),
                limit: format!("{} to {} bytes", LENGTHS.start(), LENGTHS.end()),
            });
        }
        let mut block = [0; BLOCK];
        if let Some(short) = block.get_mut(..bytes.len()) {
            short.copy_from_slice(bytes);
        } else {
            block[..TAG].copy_from_slice(&Sha256::digest(bytes));
        }
        Ok(Self(block))
    }

    fn mac(&self, purpose: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&self.0).into());
        for part in [purpose.as_bytes()].iter().chain(parts) {
            // With its length before it, no part can pass for the end of another.
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac
    }

    /// The code of `parts`. Codes of one purpose are of no use for another.
    pub(crate) fn tag(&self, purpose: &str, parts: &[&[u8]]) -> Tag {
        self.mac(purpose, parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the code of `parts`, in a time that does not depend on where
    /// it differs.
    pub(crate) fn verify(&self, purpose: &str, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac(purpose, parts).verify_slice(tag).is_ok()
    }

    /// A secret that only this purpose and these parts lead to.
    pub(crate) fn derive(&self, purpose: &str, parts: &[&[u8]]) -> Self {
        let mut block = [0; BLOCK];
        block[..TAG].copy_from_slice(&self.tag(purpose, parts));
        Self(block)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_code_depends_on_secret_purpose_and_where_parts_end() {
        let secret = Secret::new(&[7; 16]).unwrap();
        let tag = secret.tag("a", &[b"bc", b"d"]);
        assert!(secret.verify("a", &[b"bc", b"d"], &tag));
        for (purpose, parts) in [
            ("b", [&b"bc"[..], b"d"]),
            ("a", [b"b", b"cd"]),
            ("a", [b"bc", b"e"]),
        ] {
            assert!(!secret.verify(purpose, &parts, &tag));
        }
        assert!(!secret.verify("a", &[b"bc", b"d"], &tag[..TAG - 1]));
        let other = Secret::new(&[8; 16]).unwrap();
        assert!(!other.verify("a", &[b"bc", b"d"], &tag));
        let derived = secret.derive("a", &[b"bc", b"d"]);
        assert!(!derived.verify("a", &[b"bc", b"d"], &tag));
    }

    #[test]
    fn codes_are_those_of_rfc_4231() {
        // Test cases 2 and 6; the latter's key is longer than a block.
        let short = Hmac::<Sha256>::new_from_slice(b"Jefe").unwrap();
        let mut padded = [0; BLOCK];
        padded[..4].copy_from_slice(b"Jefe");
        let ours = Hmac::<Sha256>::new((&padded).into());
        for mut mac in [short, ours] {
            mac.update(b"what do ya want for nothing?");
            let code = hex(&mac.finalize().into_bytes());
            assert!(
                code.starts_with("5bdcc146bf60754e6a042426089575c7"),
                "{code}"
            );
        }
        let mut long = Hmac::<Sha256>::new((&Secret::new(&[0xaa; 131]).unwrap().0).into());
        long.update(b"Test Using Larger Than Block-Size Key - Hash Key First");
        let code = hex(&long.finalize().into_bytes());
        assert!(
            code.starts_with("60e431591ee0b67f0d8a26aacbf5b77f"),
            "{code}"
        );
    }

    #[test]
    fn a_secret_is_long_enough_and_never_printed() {
        for length in [0, 15, 4097] {
            let error = Secret::new(&vec![0x5a; length]).unwrap_err();
            assert!(error.to_string().contains(&format!("{length} bytes")));
        }
        let secret = Secret::new(&[0x5a; 4096]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
