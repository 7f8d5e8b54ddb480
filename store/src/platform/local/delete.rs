//! What garbage collection may do besides: take packs out of use, delete objects, clear away what nobody uses.

use super::{LocalPlatform, TEMPORARY, lock};
use crate::{
    Result, StoreError,
    platform::{Deleting, Platform},
};
use cairn_store_format::ObjectName;
use std::{
    fs, io,
    time::{SystemTime, UNIX_EPOCH},
};

/// Tries to move a pack into a folder of the trash that others remove while it is empty.
const TRASH_TRIES_MAX: u32 = 100;

impl LocalPlatform {
    fn gone_is_false(&self, op: &'static str, name: &str, result: io::Result<()>) -> Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(op, name, e)),
        }
    }
}

impl Deleting for LocalPlatform {
    /// Order: 1 trash folder, durable · 2 rename into it. The name there is as unique as the pack's, so nothing is renamed over.
    /// If we die after 1: an empty folder, removed by the next purge. After 2: done; should a power loss bring the old entry back, the round
    /// that condemned the pack is either still open, and discards it again, or closed, and the next round condemns it again.
    /// On NFS a lost reply makes the repeated rename say "not there" although it took effect: that is the answer for "gone" as well.
    fn discard(&self, name: &ObjectName, round: u64) -> Result<bool> {
        let trashed = ObjectName::trashed(&format!("{round:08}"), name).expect("a number is a plain folder name");
        self.forget_open(name);
        for _ in 0..TRASH_TRIES_MAX {
            let folder = self.path(&trashed).parent().expect("it lies in trash/").to_path_buf();
            self.ensure_dir(&folder).map_err(|e| self.failed("create the folder of", trashed.as_str(), e))?;
            match fs::rename(self.path(name), self.path(&trashed)) {
                // Not there, or another collection has just purged the empty folder: then the pack would stay, while its round counts as done.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.size(name)?.is_some() => {
                    lock(&self.known_dirs).remove(&folder);
                }
                other => return self.gone_is_false("discard", name.as_str(), other),
            }
        }
        Err(StoreError::Busy(format!("{}: its folder in trash/ is removed again and again by other collections; try again", name.as_str())))
    }

    fn delete(&self, name: &ObjectName) -> Result<bool> {
        self.forget_open(name);
        self.gone_is_false("delete", name.as_str(), fs::remove_file(self.path(name)))
    }

    fn delete_temporaries(&self, dir: &str, age_ms_min: u64) -> Result<u64> {
        let failed = |e| self.failed("list", dir, e);
        let entries = match fs::read_dir(self.root.join(dir)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(failed)?,
        };
        let mut deleted = 0;
        for e in entries {
            let e = e.map_err(failed)?;
            let ours = e.file_name().to_str().is_some_and(|n| n.starts_with(TEMPORARY));
            // What vanishes meanwhile was removed by its owner.
            let age = e.metadata().and_then(|m| m.modified()).map(|t| SystemTime::now().duration_since(t).unwrap_or_default());
            if ours && age.is_ok_and(|a| a.as_millis() >= u128::from(age_ms_min)) && fs::remove_file(e.path()).is_ok() {
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn delete_empty_dir(&self, dir: &str) -> Result<()> {
        lock(&self.known_dirs).remove(&self.root.join(dir));
        match fs::remove_dir(self.root.join(dir)) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Err(self.failed("delete", dir, e)),
            _ => Ok(()),
        }
    }

    fn dir_modified_unix_ms(&self, dir: &str) -> Result<Option<u64>> {
        match fs::metadata(self.root.join(dir)).and_then(|m| m.modified()) {
            Ok(t) => Ok(Some(u64::try_from(t.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("stat", dir, e)),
        }
    }
}
