//! Keys that the server makes: `nag_`, 36 random letters and digits, and a checksum of six, by which a scanner of source code or logs
//! recognises a key without asking the server.

use std::fmt::Write as _;

use rand::distr::{Alphanumeric, SampleString};
use sha2::{Digest, Sha256};

/// How every key begins.
pub(super) const BEGINNING: &str = "nag_";
/// Random characters of a key: 214 bits, of which the shown prefix reveals 36.
const RANDOM: usize = 36;
/// Characters of a key that are shown for recognising it, the beginning included.
const SHOWN: usize = BEGINNING.len() + 6;

/// SHA-256 of a key.
pub(super) type Hash = [u8; 32];

/// A key that was just made.
pub(in crate::api) struct Secret(String);

impl Secret {
    /// Makes a key.
    pub(in crate::api) fn new() -> Self {
        let random = Alphanumeric.sample_string(&mut rand::rng(), RANDOM);
        let checksum = checksum(&random);
        Self(format!("{BEGINNING}{random}{checksum}"))
    }

    /// The key itself, to be shown once.
    pub(in crate::api) fn text(&self) -> &str {
        &self.0
    }

    /// How the key begins.
    pub(in crate::api) fn prefix(&self) -> String {
        self.0.chars().take(SHOWN).collect()
    }

    /// SHA-256 of the key, in hexadecimal digits.
    pub(in crate::api) fn hash(&self) -> String {
        to_hex(&hash(&self.0))
    }
}

/// CRC-32 (IEEE 802.3) of a text in six digits of base 62, the most significant first.
fn checksum(text: &str) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS.get(rest % DIGITS.len()).copied().unwrap_or(b'0');
        rest /= DIGITS.len();
    }
    digits.map(char::from).iter().collect()
}

/// Whether a text has the form of a key that the server has made.
pub(super) fn is_well_formed(text: &str) -> bool {
    let parts = text.strip_prefix(BEGINNING).and_then(|rest| rest.split_at_checked(RANDOM));
    parts.is_some_and(|(random, sum)| sum == checksum(random))
}

pub(super) fn hash(key: &str) -> Hash {
    Sha256::digest(key.as_bytes()).into()
}

pub(in crate::api) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hash that [`to_hex`] has written.
pub(super) fn from_hex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() {
        return None;
    }
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_carry_their_checksum() {
        let (one, other) = (Secret::new(), Secret::new());
        assert_ne!(one.text(), other.text());
        let text = one.text().strip_prefix(BEGINNING).expect("begins as all keys");
        let (random, sum) = text.split_at(RANDOM);
        assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(sum, checksum(random));
        assert!(is_well_formed(one.text()) && !is_well_formed(&one.text()[..20]) && !is_well_formed(text));
        assert!(!is_well_formed(&one.text().replace(sum, "000000")));
        assert!(one.text().starts_with(&one.prefix()) && one.prefix().len() == SHOWN);
        assert_eq!(checksum("123456789"), "3jZRME", "CRC-32 of the usual text is 0xcbf43926");
    }

    #[test]
    fn a_hash_is_read_as_it_was_written() {
        let hash = hash("a key");
        assert_eq!(from_hex(&to_hex(&hash)), Some(hash));
        for junk in ["", "00", &"zz".repeat(32), &"é".repeat(32)] {
            assert_eq!(from_hex(junk), None, "{junk}");
        }
    }
}
