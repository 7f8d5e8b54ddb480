//! The shared storage: what running processes see, what of it a power loss leaves.
//!
//! A change of names (mkdir, create, link, unlink, rename) is seen at once and is pending until one of its folders is synced. A power loss
//! keeps any of the pending changes, each whole, whatever their order; a file keeps its synced content whole, else a random beginning.
//! A folder whose own entry is lost takes all below it along.
//!
//! Invariant: a name that was taken away is never created again, and no register is ever deleted; breaking it is a panic, since the protocol
//! hangs on it. Exempt are temporary files, what says how far a round of garbage collection is (its pardon names its list) and the trash.

use super::rng::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

/// First characters of files that are no objects.
pub(super) const TEMPORARY: &str = ".tmp-";

/// First characters of names that a collection may use again.
const USED_AGAIN: [&str; 3] = ["gc/condemned-", "gc/done-", "trash/"];

/// What a name leads to.
#[derive(Clone)]
pub(super) enum Node {
    Dir,
    File { bytes: Arc<[u8]>, synced: bool, modified_ms: u64 },
}

/// One change of names, whole or not at all.
#[derive(Clone)]
struct Change {
    put: Vec<(String, Node)>,
    remove: Vec<String>,
}

/// What a power loss does to changes that were not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// None of them is left.
    None,
    /// Each is left or lost by the seed.
    Random,
    /// All are left (a journal that was written just in time).
    All,
}

#[derive(Clone, Default)]
pub(super) struct Disk {
    visible: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    pending: Vec<Change>,
    dir_modified_ms: BTreeMap<String, u64>,
    removed: BTreeSet<String>,
    /// Every change is durable at once, as an NFS server exports it with `sync`.
    names_durable_at_once: bool,
    /// Bytes that may still be written before the storage is full; deleting gives none back.
    pub(super) free_bytes: Option<u64>,
}

pub(super) fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |p| p.0)
}

fn file_part(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |p| p.1)
}

fn errno(n: i32) -> io::Error {
    io::Error::from_raw_os_error(n)
}

impl Change {
    fn touches(&self, dir: &str) -> bool {
        self.put.iter().map(|p| &p.0).chain(&self.remove).any(|n| parent(n) == dir)
    }
    fn apply(&self, to: &mut BTreeMap<String, Node>) {
        for name in &self.remove {
            to.remove(name);
        }
        for (name, node) in &self.put {
            to.insert(name.clone(), node.clone());
        }
    }
}

impl Disk {
    pub(super) fn new(names_durable_at_once: bool) -> Self {
        Self { names_durable_at_once, ..Self::default() }
    }

    pub(super) fn clone_for(&self, names_durable_at_once: bool) -> Self {
        let mut out = Self { names_durable_at_once, ..self.clone() };
        if names_durable_at_once {
            out.durable = out.visible.clone();
            out.pending.clear();
        }
        out
    }

    fn change(&mut self, now_ms: u64, put: Vec<(String, Node)>, remove: Vec<String>) {
        let change = Change { put, remove };
        for name in change.put.iter().map(|p| &p.0).chain(&change.remove) {
            self.dir_modified_ms.insert(parent(name).to_owned(), now_ms);
        }
        for (name, node) in &change.put {
            assert!(matches!(node, Node::Dir) || !self.removed.contains(name), "{name} is created again after it was deleted; names are never used twice");
        }
        for name in &change.remove {
            if !file_part(name).starts_with(TEMPORARY) && !matches!(self.visible.get(name), Some(Node::Dir)) && !USED_AGAIN.iter().any(|u| name.starts_with(u))
            {
                assert!(!name.starts_with("c/"), "{name}: a register is never deleted");
                self.removed.insert(name.clone());
            }
        }
        change.apply(&mut self.visible);
        if self.names_durable_at_once {
            change.apply(&mut self.durable);
        } else {
            self.pending.push(change);
        }
    }

    pub(super) fn is_dir(&self, dir: &str) -> bool {
        dir.is_empty() || matches!(self.visible.get(dir), Some(Node::Dir))
    }

    pub(super) fn file(&self, name: &str) -> io::Result<&Arc<[u8]>> {
        match self.visible.get(name) {
            Some(Node::File { bytes, .. }) => Ok(bytes),
            _ => Err(errno(libc::ENOENT)),
        }
    }

    pub(super) fn make_dir(&mut self, dir: &str, now_ms: u64) -> io::Result<()> {
        if self.visible.contains_key(dir) {
            return Err(errno(libc::EEXIST));
        }
        self.change(now_ms, vec![(dir.to_owned(), Node::Dir)], vec![]);
        Ok(())
    }

    /// A new file, as far as it fits: a full storage leaves a beginning.
    pub(super) fn write_new(&mut self, name: &str, bytes: &[u8], now_ms: u64) -> io::Result<()> {
        if !self.is_dir(parent(name)) {
            return Err(errno(libc::ENOENT));
        }
        if self.visible.contains_key(name) {
            return Err(errno(libc::EEXIST));
        }
        let fits = self.free_bytes.map_or(bytes.len(), |free| bytes.len().min(usize::try_from(free).unwrap_or(usize::MAX)));
        if let Some(free) = &mut self.free_bytes {
            *free -= fits as u64;
        }
        self.change(now_ms, vec![(name.to_owned(), Node::File { bytes: bytes[..fits].into(), synced: false, modified_ms: now_ms })], vec![]);
        if fits < bytes.len() { Err(errno(libc::ENOSPC)) } else { Ok(()) }
    }

    /// Makes a file's content durable. Its name has other needs.
    pub(super) fn sync_file(&mut self, name: &str) -> io::Result<()> {
        match self.visible.get_mut(name) {
            Some(Node::File { synced, .. }) => *synced = true,
            _ => return Err(errno(libc::ENOENT)),
        }
        for (n, node) in self.durable.iter_mut().chain(self.pending.iter_mut().flat_map(|c| c.put.iter_mut().map(|(n, node)| (&*n, node)))) {
            if let Node::File { synced, .. } = node
                && n == name
            {
                *synced = true;
            }
        }
        Ok(())
    }

    pub(super) fn link(&mut self, from: &str, to: &str, now_ms: u64) -> io::Result<()> {
        let node = self.visible.get(from).ok_or_else(|| errno(libc::ENOENT))?.clone();
        self.put_new(to, node, now_ms)
    }

    /// A name for a file that is there: what is left of a request whose sender has died.
    pub(super) fn put_new(&mut self, to: &str, node: Node, now_ms: u64) -> io::Result<()> {
        if !self.is_dir(parent(to)) {
            return Err(errno(libc::ENOENT));
        }
        if self.visible.contains_key(to) {
            return Err(errno(libc::EEXIST));
        }
        self.change(now_ms, vec![(to.to_owned(), node)], vec![]);
        Ok(())
    }

    pub(super) fn node(&self, name: &str) -> Option<Node> {
        self.visible.get(name).cloned()
    }

    pub(super) fn unlink(&mut self, name: &str, now_ms: u64) -> io::Result<()> {
        match self.visible.get(name) {
            None => Err(errno(libc::ENOENT)),
            Some(Node::Dir) => Err(errno(libc::EISDIR)),
            Some(Node::File { .. }) => {
                self.change(now_ms, vec![], vec![name.to_owned()]);
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, now_ms: u64) -> io::Result<()> {
        let node = self.visible.get(from).ok_or_else(|| errno(libc::ENOENT))?.clone();
        if !self.is_dir(parent(to)) {
            return Err(errno(libc::ENOENT));
        }
        assert!(!self.visible.contains_key(to), "{to}: a rename over something that is there");
        self.change(now_ms, vec![(to.to_owned(), node)], vec![from.to_owned()]);
        Ok(())
    }

    pub(super) fn remove_dir(&mut self, dir: &str, now_ms: u64) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(errno(libc::ENOENT));
        }
        if self.entries(dir).next().is_some() {
            return Err(errno(libc::ENOTEMPTY));
        }
        self.change(now_ms, vec![], vec![dir.to_owned()]);
        Ok(())
    }

    /// Direct entries of a folder: name and node.
    pub(super) fn entries<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = (&'a str, &'a Node)> + 'a {
        let start = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let below = start.clone();
        self.visible.range(start..).take_while(move |(n, _)| n.starts_with(&below)).filter(move |(n, _)| parent(n) == dir).map(|(n, node)| (n.as_str(), node))
    }

    pub(super) fn sync_dir(&mut self, dir: &str) -> io::Result<()> {
        if !self.is_dir(dir) {
            return Err(errno(libc::ENOENT));
        }
        let (now, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending).into_iter().partition(|c| c.touches(dir));
        now.iter().for_each(|c| c.apply(&mut self.durable));
        self.pending = rest;
        Ok(())
    }

    pub(super) fn dir_modified_ms(&self, dir: &str) -> Option<u64> {
        self.is_dir(dir).then(|| self.dir_modified_ms.get(dir).copied().unwrap_or(0))
    }

    pub(super) fn power_loss(&mut self, survival: Survival, rng: &mut Rng) {
        let mut left = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.pending) {
            if survival == Survival::All || (survival == Survival::Random && rng.chance_ppm(500_000)) {
                change.apply(&mut left);
            }
        }
        // In the order of names a folder comes before what is in it.
        let mut dirs = BTreeSet::from([String::new()]);
        left.retain(|name, node| {
            let kept = dirs.contains(parent(name));
            if kept && matches!(node, Node::Dir) {
                dirs.insert(name.clone());
            }
            kept
        });
        for node in left.values_mut() {
            if let Node::File { bytes, synced: synced @ false, .. } = node {
                (*bytes, *synced) = (bytes[..rng.below(bytes.len() + 1)].into(), true);
            }
        }
        self.visible = left.clone();
        self.durable = left;
        // What came back by the power loss was never taken away for good.
        self.removed.retain(|name| !self.visible.contains_key(name));
    }

    /// Names of all objects, for suites.
    pub(super) fn names(&self) -> Vec<String> {
        let files = self.visible.iter().filter(|(n, node)| matches!(node, Node::File { .. }) && !file_part(n).starts_with(TEMPORARY));
        files.map(|(n, _)| n.clone()).collect()
    }
}
