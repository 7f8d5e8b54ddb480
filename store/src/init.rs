//! Making a store: configuration, key ring, key slots.
//!
//! Order: 1 key ring · 2 slots · 3 config. A store exists once its config does; dying before leaves keys/ that a second `init` refuses with
//! the remedy, since overwriting a key ring could make data unreadable.

use crate::{
    Result, StoreError,
    crypto::{Credential, SecretKey, new_ring, new_slot, seal_with, sign},
    platform::{Created, Durability, LocalPlatform, Platform, random_bytes},
};
use cairn_store_format::{
    FamilyId, ObjectName, StoreId,
    config::{ChunkSizes, Config},
    header::ObjectKind,
    ids::to_hex,
    small,
};
use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// What ext4 and its kin make in the root of a new file system.
const LOST_AND_FOUND: &str = "lost+found";

/// Chunk sizes by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Profile {
    /// 16-64 KiB: more deduplication, larger index.
    Small,
    /// 32-128 KiB.
    #[default]
    Default,
    /// 128-512 KiB: very large stores.
    Archive,
}

impl Profile {
    const fn sizes(self) -> (&'static str, ChunkSizes) {
        match self {
            Self::Small => ("small", ChunkSizes::SMALL),
            Self::Default => ("default", ChunkSizes::DEFAULT),
            Self::Archive => ("archive", ChunkSizes::ARCHIVE),
        }
    }
}

/// Says where the key file goes, once the store's id is known.
pub type KeyFileChooser = Box<dyn FnOnce(&StoreId) -> PathBuf>;

/// What kind of store to make.
pub struct InitOptions {
    /// Chunk sizes.
    pub profile: Profile,
    /// zstd level of data, 1 to 19.
    pub zstd_level: u8,
    /// Seal everything (recommended).
    pub encrypted: bool,
    /// Key file to create, given the store's id; encrypted stores only.
    pub key_file: Option<KeyFileChooser>,
    /// Passphrase slot to make besides.
    pub passphrase: Option<Zeroizing<String>>,
}

/// What was made.
pub struct InitReport {
    /// The new store.
    pub store: StoreId,
    /// Recovery key, to be shown once; encrypted stores only.
    pub recovery_key: Option<Zeroizing<String>>,
    /// The key file that was created.
    pub key_file: Option<PathBuf>,
}

/// Makes a store in a directory that does not exist or is empty but for `lost+found`.
pub fn init(root: &Path, options: InitOptions) -> Result<InitReport> {
    prepare_dir(root)?;
    init_on(&LocalPlatform::open(root)?, options)
}

/// Makes a store on an empty platform.
pub fn init_on(platform: &dyn Platform, options: InitOptions) -> Result<InitReport> {
    let (profile, chunks) = options.profile.sizes();
    let ring = new_ring(platform);
    let (public_key, _) = sign(&ring.signing_seed, b"");
    let config = Config {
        store: StoreId(random_bytes(platform)),
        family: FamilyId(random_bytes(platform)),
        created_unix_ms: platform.now_unix_ms(),
        encrypted: options.encrypted,
        profile: profile.into(),
        chunks,
        zstd_level: options.zstd_level,
        public_key,
    };
    let plain = Zeroizing::new(ring.encode());
    let aad = small::aad(ObjectKind::KeyRing, &config.store.0, 1);
    let mut report = InitReport { store: config.store, recovery_key: None, key_file: None };
    let sealed = if options.encrypted {
        let master = SecretKey::random(platform);
        (report.key_file, report.recovery_key) = write_slots(platform, &config, &master, options)?;
        seal_with(&master.0, platform, &aad, &plain)
    } else {
        plain.to_vec()
    };
    let ring_object = small::encode(ObjectKind::KeyRing, &config.store.0, 1, &sealed)?;
    ObjectName::key_ring(1).iter().try_for_each(|name| write(platform, name, &ring_object))?;
    let mut bytes = config.encode_unsigned();
    let (_, signature) = sign(&ring.signing_seed, &bytes);
    bytes.extend_from_slice(&signature);
    ObjectName::config(1).iter().try_for_each(|name| write(platform, name, &bytes))?;
    Ok(report)
}

fn prepare_dir(root: &Path) -> Result<()> {
    let fail = |source| StoreError::Storage { op: "create", name: root.display().to_string(), source };
    match fs::read_dir(root) {
        // A file system of its own comes with this one folder. An entry that cannot be read is none that may be ignored.
        Ok(entries) => match entries.into_iter().find(|e| !e.as_ref().is_ok_and(|e| e.file_name() == LOST_AND_FOUND)) {
            None => Ok(()),
            Some(_) if root.join("config").exists() => Err(StoreError::Refused(format!("{} is a store already; nothing was changed", root.display()))),
            Some(_) => Err(StoreError::Refused(format!(
                "{} is not empty; a store wants a folder of its own (if an earlier init broke off there, empty it first)",
                root.display()
            ))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(fail),
        Err(e) => Err(fail(e)),
    }
}

type Written = (Option<PathBuf>, Option<Zeroizing<String>>);

fn write_slots(platform: &dyn Platform, config: &Config, master: &SecretKey, options: InitOptions) -> Result<Written> {
    let slot = |credential: &Credential| {
        let slot = new_slot(platform, credential, &master.0)?;
        write(platform, &ObjectName::key_slot(&to_hex(&random_bytes::<8>(platform))), &slot.encode())
    };
    let recovery = SecretKey::random(platform);
    let recovery_text = recovery.to_recovery_text();
    let mut key_file = None;
    if let Some(path) = options.key_file {
        let path = path(&config.store);
        let key = SecretKey::random(platform);
        Credential::write_key_file(&path, &key, &config.store, &config.public_key)?;
        slot(&Credential::KeyFile { key, store: config.store, public_key: config.public_key })?;
        key_file = Some(path);
    }
    slot(&Credential::Recovery(recovery))?;
    if let Some(text) = options.passphrase {
        slot(&Credential::Passphrase(text))?;
    }
    Ok((key_file, Some(recovery_text)))
}

fn write(platform: &dyn Platform, name: &ObjectName, bytes: &[u8]) -> Result<()> {
    match platform.create(name, bytes, Durability::Now)? {
        Created::New => Ok(()),
        Created::Exists => Err(StoreError::Refused(format!("{name} exists already; somebody else is making a store here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_system_is_empty() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join(LOST_AND_FOUND)).expect("creates");
        assert!(prepare_dir(dir.path()).is_ok());
        fs::write(dir.path().join("photo.jpg"), "x").expect("writes");
        assert!(matches!(prepare_dir(dir.path()), Err(StoreError::Refused(_))));
    }
}
