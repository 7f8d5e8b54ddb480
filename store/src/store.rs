//! An open store: its configuration, checked against what this host pinned, its keys, its local index.

use crate::{
    Result, StoreError,
    crypto::{Credential, Keys, unwrap_master, verify_signature},
    damage::{Reported, read_or_skip},
    index::Index,
    pack::PackReader,
    platform::{LocalPlatform, Platform},
    relocation::{Recent, Relocations},
};
use cairn_store_format::{
    ObjectName, StoreId,
    config::Config,
    header::ObjectKind,
    ids::{parse_hex, to_hex},
    keys::{KeyRing, KeySlot},
    limits::SMALL_BYTES_MAX,
    name::parse_copy,
    small,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use zeroize::Zeroizing;

/// How to open a store.
pub struct OpenOptions {
    /// What the caller holds; `None` for stores without encryption.
    pub credential: Option<Credential>,
    /// Where the local index and pins live; a cache.
    pub state_dir: PathBuf,
    /// This host's name, for records.
    pub host: String,
}

/// Everything that the threads of an open store share.
pub(crate) struct Inner {
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) config: Config,
    /// The key ring that opened, as it lies in the store: its number and sealed bytes. A collection makes its other copy whole by it.
    pub(crate) ring: (u64, Vec<u8>),
    pub(crate) keys: Arc<Keys>,
    pub(crate) index: Index,
    pub(crate) packs: PackReader,
    pub(crate) relocations: Relocations,
    /// Packs that are lost, and were looked for in newer index files and the trash a moment ago.
    pub(crate) searched: Mutex<Recent>,
    /// Packs of which a frame was served by a stray copy, and newer lists of moves were looked for a moment ago.
    pub(crate) asked_for_moves: Mutex<Recent>,
    /// What was reported as damaged.
    pub(crate) reported: Reported,
    pub(crate) host: String,
}

/// An open store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in a directory.
    pub fn open(root: &Path, options: OpenOptions) -> Result<Self> {
        Self::open_on(Arc::new(LocalPlatform::open(root)?), options)
    }

    /// Opens the store that lies on a platform.
    pub fn open_on(platform: Arc<dyn Platform>, options: OpenOptions) -> Result<Self> {
        let config = read_config(&*platform)?;
        check_pin(&config, &options)?;
        let (number, ring, sealed) = read_ring(&*platform, &config, options.credential.as_ref())?;
        if let Err(e) = pin(&config, &options.state_dir) {
            // Nothing local may keep a host from restoring.
            tracing::warn!("the store's signing key is not pinned on this host: {e}");
        }
        let keys = Arc::new(Keys::new(config.family, &ring, config.encrypted));
        let index = Index::open_or_temporary(&options.state_dir.join("index"), &config.store)?;
        let packs = PackReader::new(platform.clone());
        Ok(Self {
            inner: Arc::new(Inner {
                platform,
                config,
                ring: (number, sealed),
                keys,
                index,
                packs,
                relocations: Relocations::default(),
                searched: Mutex::default(),
                asked_for_moves: Mutex::default(),
                reported: Reported::default(),
                host: options.host,
            }),
        })
    }

    /// Id of the store in a directory and whether it is encrypted, before any key is at hand. Nothing is pinned or trusted by this.
    pub fn identify(root: &Path) -> Result<(StoreId, bool)> {
        let config = read_config(&LocalPlatform::open(root)?)?;
        Ok((config.store, config.encrypted))
    }

    /// The store's id.
    pub fn id(&self) -> StoreId {
        self.inner.config.store
    }
    /// Where it is.
    pub fn location(&self) -> String {
        self.inner.platform.location()
    }
    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
}

/// The newest configuration that is whole, its signature checked by the key inside it (the pin says whether that key is the right one). It lies
/// there twice.
pub(crate) fn read_config(platform: &dyn Platform) -> Result<Config> {
    let none = || StoreError::NoStore {
        at: platform.location(),
        why: "there is no config/ in it; is its file system mounted? A new store is made with 'cairn init'".into(),
    };
    let names = platform.list("config")?;
    let read = |name: &ObjectName| {
        let bytes = platform.read(name, SMALL_BYTES_MAX)?.ok_or_else(none)?;
        let (config, signed, signature) = Config::decode(&bytes).map_err(|e| StoreError::damaged(name, e))?;
        verify_signature(&config.public_key, signed, &signature)?;
        Ok(config)
    };
    let (newest, first) = newest_whole(&names, "", |name, _| read(name))?.ok_or_else(none)?;
    // Another store's configuration is whole as well; the key ring says whose copy is the right one.
    if !ring_is_of(platform, &first.store)?
        && let Some(other) = names.iter().filter(|n| parse_copy(n.file(), "") == Some(newest)).filter_map(|n| read(n).ok()).find(|c| c.store != first.store)
        && ring_is_of(platform, &other.store)?
    {
        tracing::warn!("a copy in config/ is that of another store; the other copy is used");
        return Ok(other);
    }
    Ok(first)
}

/// Whether a copy of a key ring says that it belongs to this store; in the clear, so it is no proof.
fn ring_is_of(platform: &dyn Platform, store: &StoreId) -> Result<bool> {
    for name in platform.list("keys")?.iter().filter(|n| parse_copy(n.file(), "ring-").is_some()) {
        let bytes = read_or_skip(platform, name, SMALL_BYTES_MAX)?.unwrap_or_default();
        if small::decode(ObjectKind::KeyRing, &bytes).is_ok_and(|ring| ring.subject == store.0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest of a folder's numbered objects of which a copy is whole, with its number; else the newest one's error; `None` where there is none. A file
/// that is half written, damaged or foreign is named and passed over, whatever its number: nobody who can put one there could not take the newest away
/// as well.
fn newest_whole<T>(names: &[ObjectName], prefix: &str, read: impl Fn(&ObjectName, u64) -> Result<T>) -> Result<Option<(u64, T)>> {
    let mut copies: Vec<(u64, &ObjectName)> = names.iter().filter_map(|n| Some((parse_copy(n.file(), prefix)?, n))).collect();
    copies.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    let mut first = None;
    for (number, name) in copies {
        match read(name, number) {
            Ok(v) => return Ok(Some((number, v))),
            Err(e) => {
                tracing::warn!("{e}; {name} is passed over, another copy is tried");
                first = first.or(Some(e));
            }
        }
    }
    first.map_or(Ok(None), Err)
}

fn pin_path(state_dir: &Path, store: &StoreId) -> PathBuf {
    state_dir.join("pins").join(store.to_string())
}

/// The signing key must be the one in the key file, or the one this host saw when it first opened the store.
fn check_pin(config: &Config, options: &OpenOptions) -> Result<()> {
    let swapped = |who: &str| {
        StoreError::Key(format!(
            "the store's configuration is not signed by the key that {who}; either this is another store or somebody changed it, so it is not used"
        ))
    };
    if let Some(Credential::KeyFile { store, public_key, .. }) = &options.credential {
        if *store != config.store {
            return Err(StoreError::Key(format!("the key file belongs to store {store}, this is store {}; give the right one with --key-file", config.store)));
        }
        if *public_key != config.public_key {
            return Err(swapped("the key file names"));
        }
    }
    if options.credential.is_some() && !config.encrypted {
        return Err(StoreError::Key("a key was given, but this store is not encrypted: refusing, since somebody may have put another store in its place (leave the key away if this is meant)".into()));
    }
    match fs::read_to_string(pin_path(&options.state_dir, &config.store)) {
        // An empty file is a pin that a full disk or a power loss kept from being written.
        Ok(text) if !text.trim().is_empty() && parse_hex::<32>(text.trim()).ok() != Some(config.public_key) => Err(swapped("this host has pinned")),
        _ => Ok(()),
    }
}

/// Order: 1 temporary file, written and synced · 2 rename. A pin is whole or not there.
fn pin(config: &Config, state_dir: &Path) -> std::io::Result<()> {
    let path = pin_path(state_dir, &config.store);
    if fs::metadata(&path).is_ok_and(|m| m.len() > 0) {
        return Ok(());
    }
    fs::create_dir_all(path.parent().expect("pins/ is its parent"))?;
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let mut file = fs::File::create(&temporary)?;
    let written = file.write_all(to_hex(&config.public_key).as_bytes()).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        // It is ours alone; the error above matters more.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn read_ring(platform: &dyn Platform, config: &Config, credential: Option<&Credential>) -> Result<(u64, KeyRing, Vec<u8>)> {
    let names = platform.list("keys")?;
    let damaged = |e: &dyn std::fmt::Display| StoreError::damaged("keys/", e);
    let master = if config.encrypted { Some(find_master(platform, &names, credential)?) } else { None };
    let newest = newest_whole(&names, "ring-", |name, number| {
        let bytes = platform.read(name, SMALL_BYTES_MAX)?.ok_or_else(|| damaged(&"the key ring is missing"))?;
        let ring = small::decode(ObjectKind::KeyRing, &bytes).map_err(|e| StoreError::damaged(name, e))?;
        if ring.subject != config.store.0 || ring.number != number {
            return Err(StoreError::damaged(name, "it is another store's, or lies under another name"));
        }
        let Some(master) = &master else { return Ok((KeyRing::decode(ring.sealed)?, bytes.clone())) };
        let aad = small::aad(ObjectKind::KeyRing, &config.store.0, number);
        let plain = crate::crypto::open_with(master, &aad, ring.sealed).ok_or_else(|| StoreError::damaged(name, "its seal does not hold"))?;
        Ok((KeyRing::decode(&Zeroizing::new(plain))?, bytes.clone()))
    })?;
    newest.map(|(number, (ring, bytes))| (number, ring, bytes)).ok_or_else(|| damaged(&"the key ring is missing"))
}

fn find_master(platform: &dyn Platform, names: &[ObjectName], credential: Option<&Credential>) -> Result<Zeroizing<[u8; 32]>> {
    let Some(credential) = credential else {
        return Err(StoreError::Key("this store is encrypted and no key was given; use --key-file, CAIRN_KEY_FILE or CAIRN_PASSPHRASE_FILE".into()));
    };
    let read = |name: &ObjectName| {
        let Some(bytes) = platform.read(name, SMALL_BYTES_MAX)? else { return Ok(None) };
        unwrap_master(&KeySlot::decode(&bytes).map_err(|e| StoreError::damaged(name, e))?, credential)
    };
    let mut unreadable = None;
    for name in names.iter().filter(|n| n.file().starts_with("slot-")) {
        match read(name) {
            Ok(Some(master)) => return Ok(master),
            Ok(None) => {}
            // Each slot alone opens the store: one that is damaged must not hide the others.
            Err(e) => {
                tracing::warn!("{e}; trying the other key slots");
                unreadable = unreadable.or(Some(e));
            }
        }
    }
    // The slot of this very key may be the one that cannot be read.
    Err(StoreError::Key(match unreadable {
        None => "this key or passphrase opens none of the store's key slots; check that it belongs to this store".into(),
        Some(e) => format!("this key or passphrase opens none of the store's key slots that can be read, and its own may be this one: {e}; use another key"),
    }))
}
