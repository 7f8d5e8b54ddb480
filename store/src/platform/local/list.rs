//! Listing folders. On NFS a listing is believed once it shows what was made just before it.

use super::{LocalPlatform, create::new_temporary};
use crate::{Result, platform::nfs};
use std::{fs, io, path::Path};

/// Tries of a listing that misses its own probe.
const PROBE_TRIES_MAX: u32 = 5;

impl LocalPlatform {
    /// On NFS a listing counts only if it shows a name that was made just before: the client's own change drops its cached folder.
    pub(super) fn entries(&self, dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
        if !self.nfs {
            return fs::read_dir(dir)?.collect();
        }
        let mut believed_missing = false;
        for _ in 0..PROBE_TRIES_MAX {
            let probe = match new_temporary(dir) {
                // Closed before it is removed: the client would only rename an open one.
                Ok((probe, file)) => {
                    drop(file);
                    probe
                }
                // A folder that this host cannot write to: it can restore from it, and decides nothing by it.
                Err(e) if nfs::takes_no_files(&e) => {
                    let entries = fs::read_dir(dir)?.collect();
                    self.not_proven(dir);
                    return entries;
                }
                // Another host may have made the folder since this one looked for it in vain.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !believed_missing && self.refresh(dir)? => {
                    believed_missing = true;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let entries: io::Result<Vec<_>> = fs::read_dir(dir)?.collect();
            // A probe that stays behind is skipped by every listing.
            let _ = fs::remove_file(&probe);
            let entries = entries?;
            if entries.iter().any(|e| e.path() == probe) {
                return Ok(entries);
            }
        }
        Err(io::Error::other("the listing keeps missing a file that was just made here; is this mount stale?"))
    }

    pub(super) fn list_kind(&self, dir: &str, want_dirs: bool) -> Result<Vec<String>> {
        let path = self.root.join(dir);
        let entries = match self.entries(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| self.failed("list", dir, e))?,
        };
        let mut out = Vec::new();
        for e in entries {
            // Temporary files come and go, and asking about one that went is an error: they are passed over first.
            let Ok(name) = e.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let wanted = match e.file_type() {
                // What an admin has moved elsewhere and linked to is followed; a link that leads nowhere hides all that was there.
                Ok(kind) if kind.is_symlink() => match fs::metadata(e.path()) {
                    Ok(target) => target.is_dir() == want_dirs,
                    // Whoever reads such an object is told.
                    Err(_) if !want_dirs => true,
                    Err(x) => return Err(self.failed("follow the link", &format!("{dir}/{name}"), x)),
                },
                Ok(kind) => kind.is_dir() == want_dirs,
                // It was listed, so it was there; NFS lists without kinds, and "missing" may be an old belief. Readers meet what has gone as well.
                Err(x) if x.kind() == io::ErrorKind::NotFound => true,
                Err(x) => return Err(self.failed("list", dir, x)),
            };
            if wanted {
                out.push(name);
            }
        }
        out.sort_unstable();
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use crate::platform::{Durability, LocalPlatform, Platform};
    use cairn_store_format::{ObjectName, SessionId};
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_folder_behind_a_link_is_listed_and_one_that_is_gone_is_an_error() {
        let (root, elsewhere) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
        let p = LocalPlatform::open(root.path()).expect("opens");
        let name = ObjectName::register(&SessionId([1; 16]));
        p.create(&name, b"x", Durability::Now).expect("creates");
        let (there, moved) = (root.path().join(name.dir()), elsewhere.path().join("moved"));
        // As to another file system.
        assert!(std::process::Command::new("cp").arg("-a").arg(&there).arg(&moved).status().expect("cp runs").success());
        fs::remove_dir_all(&there).expect("removes");
        symlink(&moved, &there).expect("links");
        let month = name.dir().strip_prefix("c/").expect("a month");
        assert_eq!(p.list_dirs("c").expect("lists"), [month]);
        assert_eq!(p.list("c").expect("a folder is no object"), []);
        assert_eq!(p.list(name.dir()).expect("lists"), std::slice::from_ref(&name));
        fs::remove_dir_all(&moved).expect("it is gone");
        let e = p.list_dirs("c").expect_err("what it held is hidden").to_string();
        assert!(e.contains(&there.display().to_string()) && e.contains("follow the link"), "{e}");
        // Among objects, a link to one is one.
        fs::remove_file(&there).expect("removes");
        fs::create_dir(&there).expect("made");
        symlink(elsewhere.path().join("file"), there.join(name.file())).expect("links");
        assert_eq!(p.list(name.dir()).expect("lists"), std::slice::from_ref(&name));
    }
}
