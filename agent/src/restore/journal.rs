//! What a restore was about to put in place, so that the next one can tell its own files from others' and go on.
//!
//! Order: 1 the record, durable · 2 the rename, or the new volume. A file is taken for ours, and whole, only if it is the very one (device, inode, size,
//! time) that was recorded before it got its name: it was whole and durable then. If the record is lost, the file is like any other that is in the way.

use super::partial::Partial;
use crate::failure::{FAILED, Failure, Outcome};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell,
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// One restore of a point under a name.
pub struct Journal {
    path: PathBuf,
    record: RefCell<Record>,
}

#[derive(Serialize, Deserialize, Default)]
struct Record {
    point: String,
    name: String,
    #[serde(default)]
    files: Vec<Mark>,
    #[serde(default)]
    volumes: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
struct Mark {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl Mark {
    fn of(file: &Path, name: &Path) -> std::io::Result<Self> {
        let m = fs::symlink_metadata(file)?;
        Ok(Self { path: name.to_owned(), device: m.dev(), inode: m.ino(), size: m.len(), modified_s: m.mtime(), modified_ns: m.mtime_nsec() })
    }
}

impl Journal {
    /// The journal of this point's restore under this name: a new one, or what an earlier one left in `dir`. One that cannot be read counts for nothing.
    pub fn open(dir: &Path, point: &str, name: &str) -> Self {
        let safe: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(80).collect();
        let path = dir.join(format!("{point}-{safe}.json"));
        let old = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok()).filter(|r| r.point == point && r.name == name);
        Self { path, record: RefCell::new(old.unwrap_or_else(|| Record { point: point.into(), name: name.into(), ..Record::default() })) }
    }

    /// Whether a file is one that this restore put in place, untouched since.
    pub fn is_whole(&self, path: &Path) -> bool {
        Mark::of(path, path).is_ok_and(|mark| self.record.borrow().files.contains(&mark))
    }

    /// Whether this restore made the volume.
    pub fn has_made(&self, pool: &str, volume: &str) -> bool {
        self.record.borrow().volumes.iter().any(|(p, v)| p == pool && v == volume)
    }

    /// These files, whole and durable, get their names next.
    pub fn will_name(&self, partials: &[Partial]) -> Outcome<()> {
        for partial in partials {
            let mark = Mark::of(partial.path(), partial.target()).map_err(|e| Failure::new(FAILED, format!("{}: {e}", partial.path().display())))?;
            self.record.borrow_mut().files.push(mark);
        }
        self.write()
    }

    /// This volume is made next.
    pub fn will_make(&self, pool: &str, volume: &str) -> Outcome<()> {
        self.record.borrow_mut().volumes.push((pool.to_owned(), volume.to_owned()));
        self.write()
    }

    fn write(&self) -> Outcome<()> {
        let temporary = self.path.with_extension("tmp");
        let bytes = serde_json::to_vec(&*self.record.borrow()).expect("texts and numbers always have a JSON form");
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let written = fs::create_dir_all(folder)
            .and_then(|()| File::create(&temporary))
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &self.path))
            .and_then(|()| File::open(folder)?.sync_all());
        written.map_err(|e| Failure::new(FAILED, format!("cannot write {}: {e}; nothing was put in place", self.path.display())))
    }

    /// The restore is done.
    pub fn remove(self) {
        // A record that stays tells of files that are no longer as it says, or are no loss to anybody.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_file_is_taken_for_ours() {
        let dir = tempfile::tempdir().expect("temp dir");
        let target = dir.path().join("vda.raw");
        let open = || Journal::open(&dir.path().join("state"), "p1", "web 1");
        let partial = Partial::new(&target).expect("creates");
        fs::write(partial.path(), "disk").expect("written");
        open().will_name(std::slice::from_ref(&partial)).expect("recorded");
        assert!(!open().is_whole(&target), "not there yet");
        partial.finish(false).expect("named");
        assert!(open().is_whole(&target));
        assert!(!Journal::open(&dir.path().join("state"), "p2", "web 1").is_whole(&target), "another point's");
        fs::write(&target, "used").expect("written");
        assert!(!open().is_whole(&target), "somebody wrote to it");
        let journal = open();
        assert!(!journal.has_made("p", "v"));
        journal.will_make("p", "v").expect("recorded");
        assert!(open().has_made("p", "v") && !open().has_made("p", "w"));
        open().remove();
        assert!(!open().has_made("p", "v"));
        fs::write(dir.path().join("state/p1-web_1.json"), "{").expect("written");
        assert!(!open().has_made("p", "v"), "a damaged record counts for nothing");
    }
}
