//! Registers as they stand in `c/`: what each session ended as. They never change, so this host reads each from the storage once.

use super::Point;
use crate::{Result, StoreError, platform::Platform, store::Inner};
use cairn_store_format::{
    ObjectName, SessionId,
    limits::REGISTER_BYTES_MAX,
    map::Ref,
    name::parse_session,
    register::{self, Body, RegisterKind, Summary},
};
use sha2::{Digest, Sha256};

/// New objects are handed to the cache in groups of this many.
const CACHE_BATCH: usize = 1000;

/// What a session ended as.
#[derive(Debug)]
pub(crate) enum Decided {
    /// A restore point; its log is not read yet.
    Point(Box<Point>),
    /// A repack or heal, with the frame of its list.
    Relocation(Ref),
    /// Fenced or given up.
    Closed,
}

/// A fresh list of all registers.
pub(crate) fn list(store: &Inner) -> Result<Vec<(SessionId, ObjectName)>> {
    let names = list_months(store, "c")?;
    // One in another month's folder is no register: there is one name for each, which decides a session once.
    Ok(names.into_iter().filter_map(|n| Some((parse_session(n.file()).ok()?, n))).filter(|(id, n)| *n == ObjectName::register(id)).collect())
}

/// A register that lies in another month's folder and nowhere else: its session is decided, and nobody sees it.
pub(crate) fn misplaced(store: &Inner) -> Result<Option<ObjectName>> {
    for name in list_months(store, "c")? {
        if let Ok(id) = parse_session(name.file())
            && name != ObjectName::register(&id)
            && store.platform.size(&ObjectName::register(&id))?.is_none()
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Objects of all months below `root`.
pub(crate) fn list_months(store: &Inner, root: &str) -> Result<Vec<ObjectName>> {
    list_months_of(&*store.platform, root)
}

/// The same of a store that is not open.
pub(crate) fn list_months_of(platform: &dyn Platform, root: &str) -> Result<Vec<ObjectName>> {
    let mut out = Vec::new();
    for month in platform.list_dirs(root)? {
        out.extend(platform.list(&format!("{root}/{month}"))?);
    }
    Ok(out)
}

/// Reads objects that never change, through the cache.
pub(crate) struct CachedReader<'a> {
    pub(crate) store: &'a Inner,
    cached: bool,
    fresh: Vec<(String, Vec<u8>)>,
}

impl<'a> CachedReader<'a> {
    /// `cached`: false reads what lies in the store now.
    pub(crate) fn new(store: &'a Inner, cached: bool) -> Self {
        Self { store, cached, fresh: Vec::new() }
    }

    /// What `open` makes of an object. Only what it accepts is kept: a storage that had a bad moment must not be believed for ever.
    pub(crate) fn read<T>(&mut self, name: &ObjectName, max: usize, open: impl Fn(&[u8]) -> Result<T>) -> Result<Option<T>> {
        if self.cached
            && let Some(bytes) = self.in_cache(name)
        {
            match open(&bytes) {
                Err(StoreError::Damaged { .. } | StoreError::Format(_)) => tracing::info!("{name}: this host's copy is damaged; reading it again"),
                other => return other.map(Some),
            }
        }
        let Some(bytes) = self.store.platform.read(name, max)? else { return Ok(None) };
        let opened = open(&bytes)?;
        if self.cached {
            self.fresh.push((name.as_str().to_owned(), bytes));
            if self.fresh.len() >= CACHE_BATCH {
                self.keep();
            }
        }
        Ok(Some(opened))
    }

    /// A cache that fails is done without: nothing local may keep a host from restoring.
    fn in_cache(&mut self, name: &ObjectName) -> Option<Vec<u8>> {
        self.store.index.object(name.as_str()).unwrap_or_else(|e| {
            tracing::warn!("{e}; this command goes on without it");
            self.cached = false;
            None
        })
    }

    /// Hands what was read to the cache.
    pub(crate) fn keep(&mut self) {
        if self.cached
            && !self.fresh.is_empty()
            && let Err(e) = self.store.index.keep_objects(&std::mem::take(&mut self.fresh))
        {
            tracing::warn!("{e}; this command goes on without it");
            self.cached = false;
        }
    }

    /// A register, opened.
    pub(crate) fn register(&mut self, id: &SessionId, name: &ObjectName) -> Result<Decided> {
        let store = self.store;
        let missing = || StoreError::damaged(name, "it is listed but cannot be opened");
        self.read(name, REGISTER_BYTES_MAX, |bytes| open_register(store, id, name, bytes))?.ok_or_else(missing)
    }
}

fn open_register(store: &Inner, id: &SessionId, name: &ObjectName, bytes: &[u8]) -> Result<Decided> {
    let reg = register::decode(bytes).map_err(|e| StoreError::damaged(name, e))?;
    if reg.session != *id {
        return Err(StoreError::damaged(name, "it lies under another session's name"));
    }
    let open = |part: u8, sealed: &[u8]| store.keys.open_small(name, &register::aad(id, reg.kind, part), sealed);
    Ok(match reg.kind {
        RegisterKind::Fence | RegisterKind::Abort => Decided::Closed,
        RegisterKind::Relocation => {
            let list = Body::decode(&open(2, reg.body)?)?.manifest;
            Decided::Relocation(list.ok_or_else(|| StoreError::damaged(name, "a relocation without a list"))?)
        }
        RegisterKind::Manifest => {
            let summary = Summary::decode(&open(1, reg.summary)?)?;
            let body = Body::decode(&open(2, reg.body)?)?;
            let register_sha256 = Sha256::digest(bytes).into();
            Decided::Point(Box::new(Point { id: *id, summary, body, register_sha256, log: Vec::new(), log_damage: None }))
        }
    })
}
