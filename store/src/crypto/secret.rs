//! What people and hosts hold: key files, the recovery key, passphrases; and the slots that wrap the master key under them.

use super::{open_x, seal_x};
use crate::{
    Result, StoreError,
    platform::{Platform, random_bytes},
};
use argon2::{Algorithm, Argon2, Params, Version};
use cairn_store_format::{
    StoreId,
    ids::{parse_hex, to_hex},
    keys::{KeySlot, SlotKind},
};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};
use zeroize::{Zeroize, Zeroizing};

/// First line of a key file.
const KEY_FILE_MAGIC: &str = "cairn key file 1";
/// How a printed recovery key begins.
pub const RECOVERY_PREFIX: &str = "cairn-recovery-";
/// argon2id costs of new passphrase slots: 64 MiB, 3 passes.
const ARGON2_MEMORY_KIB: u32 = 64 << 10;
const ARGON2_PASSES: u32 = 3;
const WRAP_AAD: &[u8] = b"cairn master key";

/// 32 secret bytes; no `Debug`, zeroized on drop.
#[derive(Clone)]
pub struct SecretKey(pub(crate) Zeroizing<[u8; 32]>);

impl SecretKey {
    pub(crate) fn random(platform: &dyn Platform) -> Self {
        Self(Zeroizing::new(random_bytes(platform)))
    }
    /// As a recovery key: prefix, groups of eight hexadecimal digits, the last one a checksum.
    pub fn to_recovery_text(&self) -> Zeroizing<String> {
        let hex = Zeroizing::new(to_hex(&self.0[..]));
        let mut groups: Vec<&str> = (0..8).map(|i| &hex[i * 8..i * 8 + 8]).collect();
        let sum = recovery_sum(&self.0);
        groups.push(&sum);
        Zeroizing::new(format!("{RECOVERY_PREFIX}{}", groups.join("-")))
    }
    /// Reads a recovery key; spaces, dashes and letter case do not matter.
    pub fn from_recovery_text(text: &str) -> Result<Self> {
        let bad = |why: &str| StoreError::Key(format!("this is not a recovery key: {why}"));
        let body = text.trim().to_ascii_lowercase();
        let body = body.strip_prefix(RECOVERY_PREFIX).ok_or_else(|| bad("it begins with cairn-recovery-"))?;
        let digits: Zeroizing<String> = Zeroizing::new(body.chars().filter(|c| !matches!(c, '-' | ' ')).collect());
        if digits.len() != 72 || !digits.is_ascii() {
            return Err(bad("it has nine groups of eight characters"));
        }
        let key: [u8; 32] = parse_hex(&digits[..64]).map_err(|_| bad("only 0-9 and a-f occur"))?;
        if recovery_sum(&key) != digits[64..] {
            return Err(bad("its checksum differs, look for a typing mistake"));
        }
        Ok(Self(Zeroizing::new(key)))
    }
}

fn recovery_sum(key: &[u8; 32]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"cairn recovery key");
    hash.update(key);
    to_hex(&hash.finalize()[..4])
}

/// How a caller proves that it may open a store.
pub enum Credential {
    /// A key file: its key, and the store and signing key that it pins.
    KeyFile {
        /// Wrapping key.
        key: SecretKey,
        /// The store it belongs to.
        store: StoreId,
        /// The signing key it pins.
        public_key: [u8; 32],
    },
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// The recovery key.
    Recovery(SecretKey),
}

impl Credential {
    /// Reads a key file. It must belong to its reader alone.
    pub fn read_key_file(path: &Path) -> Result<Self> {
        let fail = |why: String| StoreError::Key(format!("key file {}: {why}", path.display()));
        let meta = fs::metadata(path).map_err(|e| fail(e.to_string()))?;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(fail("others may read it; run chmod 600 on it".into()));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(|e| fail(e.to_string()))?);
        if let Ok(recovery) = SecretKey::from_recovery_text(&text) {
            return Ok(Self::Recovery(recovery));
        }
        let mut lines = text.lines();
        if lines.next() != Some(KEY_FILE_MAGIC) {
            return Err(fail(format!("it is no key file (its first line is not '{KEY_FILE_MAGIC}')")));
        }
        let mut field = |name: &str| lines.next().and_then(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
        let (store, public_key, key) = (field("store"), field("signed-by"), field("key").map(Zeroizing::new));
        let parse = || Some((store?.parse().ok()?, parse_hex(&public_key?).ok()?, parse_hex(&key?).ok()?));
        let (store, public_key, key) = parse().ok_or_else(|| fail("a line is missing or not hexadecimal".into()))?;
        Ok(Self::KeyFile { key: SecretKey(Zeroizing::new(key)), store, public_key })
    }

    /// Writes a new key file, mode 0600; refuses where one exists.
    pub(crate) fn write_key_file(path: &Path, key: &SecretKey, store: &StoreId, public_key: &[u8; 32]) -> Result<()> {
        let fail = |e: std::io::Error| StoreError::Key(format!("cannot create key file {}: {e}", path.display()));
        let text =
            Zeroizing::new(format!("{KEY_FILE_MAGIC}\nstore: {store}\nsigned-by: {}\nkey: {}\n", to_hex(public_key), *Zeroizing::new(to_hex(&key.0[..]))));
        let mut f = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        f.write_all(text.as_bytes()).and_then(|()| f.sync_all()).map_err(fail)
    }
}

fn passphrase_key(passphrase: &str, memory_kib: u32, passes: u32, lanes: u32, salt: &[u8; 16]) -> Result<Zeroizing<[u8; 32]>> {
    let bad = |e: argon2::Error| StoreError::Key(format!("argon2: {e}"));
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(bad)?;
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(passphrase.as_bytes(), salt, &mut out[..]).map_err(bad)?;
    Ok(out)
}

/// Wraps the master key for a credential.
pub(crate) fn new_slot(platform: &dyn Platform, credential: &Credential, master: &[u8; 32]) -> Result<KeySlot> {
    let (kind, key) = match credential {
        Credential::KeyFile { key, .. } => (SlotKind::KeyFile, key.0.clone()),
        Credential::Recovery(key) => (SlotKind::Recovery, key.0.clone()),
        Credential::Passphrase(text) => {
            let salt = random_bytes(platform);
            let kind = SlotKind::Passphrase { memory_kib: ARGON2_MEMORY_KIB, passes: ARGON2_PASSES, lanes: 1, salt };
            (kind, passphrase_key(text, ARGON2_MEMORY_KIB, ARGON2_PASSES, 1, &salt)?)
        }
    };
    Ok(KeySlot { kind, created_unix_ms: platform.now_unix_ms(), wrapped: seal_x(&key, random_bytes(platform), WRAP_AAD, master) })
}

/// The master key, where this credential opens this slot.
pub(crate) fn unwrap_master(slot: &KeySlot, credential: &Credential) -> Result<Option<Zeroizing<[u8; 32]>>> {
    let key = match (slot.kind, credential) {
        (SlotKind::KeyFile, Credential::KeyFile { key, .. }) | (SlotKind::Recovery, Credential::Recovery(key)) => key.0.clone(),
        (SlotKind::Passphrase { memory_kib, passes, lanes, salt }, Credential::Passphrase(text)) => passphrase_key(text, memory_kib, passes, lanes, &salt)?,
        _ => return Ok(None),
    };
    let Some(mut plain) = open_x(&key, WRAP_AAD, &slot.wrapped) else { return Ok(None) };
    let master = plain.as_slice().try_into().ok().map(Zeroizing::new);
    plain.zeroize();
    Ok(master)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_keys_survive_paper_and_refuse_typing_mistakes() {
        let key = SecretKey(Zeroizing::new([0xa5; 32]));
        let text = key.to_recovery_text();
        let typed = text.to_uppercase().replacen("A5A5A5A5-", "A5A5 A5A5 ", 1);
        assert_eq!(*SecretKey::from_recovery_text(&typed).expect("same key").0, *key.0);
        assert!(SecretKey::from_recovery_text(&text.replacen("a5", "a6", 1)).is_err());
        assert!(SecretKey::from_recovery_text("hello").is_err());
    }

    #[test]
    fn key_files_are_private_and_never_replaced() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("k");
        let key = SecretKey(Zeroizing::new([1; 32]));
        Credential::write_key_file(&path, &key, &StoreId([2; 16]), &[3; 32]).expect("writes");
        assert!(Credential::write_key_file(&path, &key, &StoreId([2; 16]), &[3; 32]).is_err());
        let Credential::KeyFile { store, public_key, .. } = Credential::read_key_file(&path).expect("own") else { panic!("a key file") };
        assert_eq!((store, public_key), (StoreId([2; 16]), [3; 32]));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(Credential::read_key_file(&path).is_err(), "readable by others");
    }
}
