//! A copy of a store that may be damaged: files are hard links, broken where a case changes one; the host's cache is a copy.

use super::case::Edit;
use crate::zoo::{self, Death, Dying, Zoo};
use cairn_store::{OpenOptions, Result, Store};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// State of the host that made the store.
const WARM: &str = "warm";

/// See the module.
pub struct Home {
    dir: tempfile::TempDir,
    /// What the changed files were, `None` where there was none.
    before: Vec<(String, Option<Vec<u8>>)>,
}

/// Memory, where the system has a folder for it: nothing here asks what a power loss leaves, and the suite makes tens of thousands of syncs.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("temp dir")
}

impl Home {
    pub fn of(zoo: &Zoo) -> Self {
        let dir = scratch();
        for (from, link) in [("store", true), (WARM, false)] {
            copy(&zoo.dir.join(from), &dir.path().join(from), link);
        }
        if zoo.encrypted {
            copy_file(&zoo.dir.join("key"), &dir.path().join("key"), true);
        }
        Self { dir, before: Vec::new() }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn damage(&mut self, edits: &[Edit]) {
        for edit in edits {
            let path = self.root().join(edit.path());
            let before = fs::read(&path).ok();
            match edit {
                Edit::Write(_, bytes) => replace(&path, bytes),
                Edit::Delete(_) => fs::remove_file(&path).expect("deletes"),
                Edit::Grow(_, len) => {
                    replace(&path, before.as_ref().expect("it is there"));
                    fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(*len)).expect("grows");
                }
            }
            self.before.push((edit.path().into(), before));
        }
    }

    /// Puts back what the files were.
    pub fn mend(&mut self) {
        for (path, before) in self.before.drain(..).rev() {
            let path = self.dir.path().join("store").join(path);
            match before {
                Some(bytes) => replace(&path, &bytes),
                // A collection may have taken it.
                None => drop(fs::remove_file(&path)),
            }
        }
    }

    pub fn open(&self, state: &str) -> Result<Store> {
        let options = OpenOptions { credential: zoo::credential(self.path()), state_dir: self.path().join(state), host: "matrix".into() };
        // The host with the cache works with all its threads; the others with one, since starting threads for tiny disks is most of the time.
        if state == WARM { Store::open(&self.root(), options) } else { Store::open_on(Arc::new(Dying::open(&self.root(), Death::Never)), options) }
    }

    /// Packs by path.
    pub fn packs(&self) -> Vec<PathBuf> {
        ["d", "m"].iter().flat_map(|k| zoo::files(&self.root().join(k))).collect()
    }
}

/// A new file, so that other copies of the store keep theirs.
fn replace(path: &Path, bytes: &[u8]) {
    // It may not be there.
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().expect("objects lie in folders")).expect("makes folders");
    fs::write(path, bytes).expect("writes");
}

fn copy(from: &Path, to: &Path, link: bool) {
    fs::create_dir_all(to).expect("makes folders");
    for entry in fs::read_dir(from).expect("lists").map(|e| e.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() { copy(&entry.path(), &target, link) } else { copy_file(&entry.path(), &target, link) }
    }
}

fn copy_file(from: &Path, to: &Path, link: bool) {
    if link { fs::hard_link(from, to) } else { fs::copy(from, to).map(drop) }.expect("copies");
}
