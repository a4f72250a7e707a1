//! Secrets at rest: sealed with AES-256-GCM under a key that is not in the database (NIST SP 800-38D).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::TryRng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Keys: new secrets are sealed with the current one, and those sealed with older ones can be opened.
#[derive(Clone)]
pub struct Sealer {
    current: std::sync::Arc<Key>,
    older: std::sync::Arc<[Key]>,
}

struct Key {
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let older: Vec<&str> = self.older.iter().map(|key| key.id.as_str()).collect();
        f.debug_struct("Sealer").field("current", &self.current.id).field("older", &older).finish()
    }
}

/// A sealed secret as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Nonce, ciphertext and tag, Base64.
    pub text: String,
    /// Id of the key that it is sealed with.
    pub key_id: String,
}

/// Why a secret cannot be sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The key that it is sealed with is not known.
    #[error("sealed with the key {0}, which is not known: add that key's file to VAULT_OLD_KEY_FILES")]
    UnknownKey(String),
    /// The text was changed, belongs to another credential, or is not what was sealed.
    #[error("it cannot be opened: the database was changed, or the key with this id is another one")]
    Broken,
    /// The operating system gave no random numbers.
    #[error("no random numbers")]
    NoRandom,
}

/// Reads a key: 32 bytes as 64 hexadecimal digits or as Base64.
///
/// # Errors
/// What is accepted; the text is never repeated.
pub fn parse_key(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, String> {
    let text = text.trim();
    let hex = || -> Option<Vec<u8>> {
        let pairs = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        (text.len() == 2 * KEY_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| pairs.collect())?
    };
    let bytes: Option<Vec<u8>> = hex().or_else(|| STANDARD.decode(text).ok());
    let bytes = Zeroizing::new(bytes.unwrap_or_default());
    let key = <[u8; KEY_BYTES]>::try_from(bytes.as_slice());
    key.map(Zeroizing::new).map_err(|_| {
        "accepted: 32 random bytes as Base64 or as 64 hexadecimal digits, such as `openssl rand -base64 32` prints"
            .to_owned()
    })
}

impl Key {
    fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, SealError> {
        let digest = Sha256::new().chain_update(b"nagaya vault key").chain_update(bytes).finalize();
        let id = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::Broken)?;
        Ok(Self { id, key: LessSafeKey::new(key) })
    }
}

impl Sealer {
    /// Seals with `current`, and opens with `older` ones as well.
    ///
    /// # Errors
    /// A key is not accepted.
    pub fn new(current: &[u8; KEY_BYTES], older: &[Zeroizing<[u8; KEY_BYTES]>]) -> Result<Self, SealError> {
        let older = older.iter().map(|bytes| Key::new(bytes)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { current: Key::new(current)?.into(), older: older.into() })
    }

    /// Id of the current key.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.current.id
    }

    /// Seals a secret for `purpose`, without which it cannot be opened: a row that is copied to another credential is of no use there.
    ///
    /// # Errors
    /// The operating system gave no random numbers.
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Sealed, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::rngs::SysRng.try_fill_bytes(&mut nonce).map_err(|_| SealError::NoRandom)?;
        let mut bytes = secret.to_vec();
        let aad = Aad::from(purpose.as_bytes());
        let key = &self.current.key;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes)
            .map_err(|_| SealError::Broken)?;
        let text = STANDARD.encode([nonce.as_slice(), &bytes].concat());
        Ok(Sealed { text, key_id: self.current.id.clone() })
    }

    /// Opens what [`Sealer::seal`] has sealed for `purpose`.
    ///
    /// # Errors
    /// The key is not known, or the text is not what was sealed.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let key = std::iter::once(&*self.current).chain(self.older.iter()).find(|key| key.id == sealed.key_id);
        let key = key.ok_or_else(|| SealError::UnknownKey(sealed.key_id.clone()))?;
        let mut bytes = Zeroizing::new(STANDARD.decode(&sealed.text).map_err(|_| SealError::Broken)?);
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(SealError::Broken)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let opened = key.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), text);
        Ok(Zeroizing::new(opened.map_err(|_| SealError::Broken)?.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_opened_only_for_its_purpose_and_unchanged() {
        let sealer = Sealer::new(&[7; KEY_BYTES], &[]).expect("a key");
        let sealed = sealer.seal("acme/v/c", b"hunter2").expect("sealed");
        assert_eq!(sealer.open("acme/v/c", &sealed).expect("opened").as_slice(), b"hunter2");
        assert_eq!(sealer.open("evil/v/c", &sealed), Err(SealError::Broken));
        let mut bytes = STANDARD.decode(&sealed.text).expect("Base64");
        for at in [0, NONCE_LEN, bytes.len() - 1] {
            bytes[at] ^= 1;
            let changed = Sealed { text: STANDARD.encode(&bytes), ..sealed.clone() };
            assert_eq!(sealer.open("acme/v/c", &changed), Err(SealError::Broken), "byte {at}");
            bytes[at] ^= 1;
        }
        for text in ["", "?", "AAAA"] {
            let junk = Sealed { text: text.into(), ..sealed.clone() };
            assert_eq!(sealer.open("acme/v/c", &junk), Err(SealError::Broken), "{text:?}");
        }
        assert_ne!(sealer.seal("acme/v/c", b"hunter2").expect("sealed").text, sealed.text, "each has its own nonce");
        assert!(!format!("{sealer:?} {sealed:?}").contains("hunter2"));
    }

    #[test]
    fn older_keys_open_and_an_unknown_one_is_named() {
        let old = Sealer::new(&[1; KEY_BYTES], &[]).expect("a key");
        let sealed = old.seal("p", b"hunter2").expect("sealed");
        let both = Sealer::new(&[2; KEY_BYTES], &[Zeroizing::new([1; KEY_BYTES])]).expect("keys");
        assert_eq!(both.open("p", &sealed).expect("opened").as_slice(), b"hunter2");
        assert_ne!(both.seal("p", b"x").expect("sealed").key_id, sealed.key_id);
        let new = Sealer::new(&[2; KEY_BYTES], &[]).expect("a key");
        assert_eq!(new.open("p", &sealed), Err(SealError::UnknownKey(old.key_id().into())));
    }

    #[test]
    fn keys_are_read_in_both_forms_and_errors_do_not_repeat_them() {
        let hex = "0f".repeat(KEY_BYTES);
        assert_eq!(*parse_key(&format!("{hex}\n")).expect("hex"), [15; KEY_BYTES]);
        assert_eq!(*parse_key(&STANDARD.encode([15; KEY_BYTES])).expect("Base64"), [15; KEY_BYTES]);
        for bad in ["", "hunter2", &hex[2..], &STANDARD.encode([1; 16])] {
            let told = parse_key(bad).expect_err("not a key");
            assert!(bad.is_empty() || !told.contains(bad), "{told}");
        }
    }
}
