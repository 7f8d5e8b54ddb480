//! Creating objects, whole or not at all, and the folders that they lie in. Above each function stands its order, and what is there if we die after a step.

use super::{LocalPlatform, TEMPORARY, direct, drop_cache, lock};
use crate::platform::{Created, Durability};
use cairn_store_format::ObjectName;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

impl LocalPlatform {
    /// Makes the folder of an object, durably, one level at a time.
    /// Order: 1 mkdir · 2 fsync of the folder above. If we die after 1, or another process is there now: the folder is there for everybody but
    /// may vanish with all that is put into it, so whoever finds one does 2 as well, once.
    /// Where 2 fails, whoever comes next does it again: names that a sync failed for are not lost by that (docs/adr/0022).
    pub(super) fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        if dir == self.root || lock(&self.known_dirs).contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().expect("below the root");
        self.ensure_dir(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => sync_dir(parent)?,
        }
        lock(&self.known_dirs).insert(dir.to_path_buf());
        Ok(())
    }

    /// Order: 1 temporary file, exclusive · 2 write · 3 fdatasync · 4 close · 5 link to the final name · 6 unlink temporary ·
    /// 7 fsync of the folder (now, or at the barrier).
    /// If we die after 1-4: a `.tmp-` file that no listing shows and GC removes by age. After 5: the object is there; it may vanish with a
    /// power loss until 7, which is why nothing refers to it before. After 6: the same. After 7: done.
    /// A failed fdatasync makes the temporary file garbage: it is never synced again.
    pub(super) fn create_file(&self, name: &ObjectName, bytes: &[u8], durability: Durability) -> io::Result<Created> {
        let target = self.path(name);
        let dir = target.parent().expect("objects lie in folders").to_path_buf();
        self.ensure_dir(&dir)?;
        let (tmp, mut file) = new_temporary(&dir)?;
        // A server has a cache of its own, and gathers small writes into large ones.
        let written = if self.nfs { file.write_all(bytes) } else { direct::write(&file, bytes) }.and_then(|()| file.sync_data());
        drop_cache(&file);
        drop(file);
        let linked = written.and_then(|()| self.link_if_absent(&tmp, &target, bytes));
        // The temporary file is ours alone and nothing refers to it: failing to remove it costs space until GC finds it.
        let _ = fs::remove_file(&tmp);
        let created = linked?;
        match durability {
            Durability::Now => sync_dir(&dir)?,
            Durability::Deferred => {
                lock(&self.unsynced_dirs).insert(dir);
            }
        }
        Ok(created)
    }

    /// EEXIST may be the echo of our own link whose reply was lost: the bytes (they carry our nonce) tell.
    pub(super) fn link_if_absent(&self, tmp: &Path, target: &Path, bytes: &[u8]) -> io::Result<Created> {
        match fs::hard_link(tmp, target) {
            Ok(()) => Ok(Created::New),
            Err(e) => match self.open_path(target) {
                Ok(mut f) => {
                    let mut there = Vec::with_capacity(bytes.len());
                    f.read_to_end(&mut there)?;
                    Ok(if there == bytes { Created::New } else { Created::Exists })
                }
                Err(_) => Err(e),
            },
        }
    }
}

pub(in crate::platform) fn new_temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let mut r = [0u8; 8];
        getrandom::fill(&mut r).map_err(|e| io::Error::other(e.to_string()))?;
        let path = dir.join(format!("{TEMPORARY}{:016x}", u64::from_le_bytes(r)));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|f| (path, f)),
        }
    }
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
