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
                // A mount that this host cannot write to: it can restore from it, and no session could begin here anyway.
                Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => return fs::read_dir(dir)?.collect(),
                // Another host may have made the folder since this one looked for it in vain.
                Err(e) if e.kind() == io::ErrorKind::NotFound && !believed_missing && nfs::refresh(dir, &self.root)? => {
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
