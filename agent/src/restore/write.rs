//! Writing one disk.
//!
//! Order for files: 1 `PATH.cairn-partial`, exclusive · 2 content · 3 fsync · 4 rename to PATH (refusing to replace unless forced) ·
//! 5 fsync of the folder. If we die before 4, PATH is what it was; a partial file says so by its name and is removed on any error.

use super::{DiskPlan, qcow2};
use crate::{
    cli::Format,
    failure::{FAILED, Failure, Outcome},
};
use cairn_store::{BlockTarget, FileTarget, Progress, Store, restore::RestoreReport};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};
use tokio::runtime::Runtime;

/// Restores a disk to where its plan says.
pub fn write_disk(store: &Store, d: &DiskPlan, force: bool, runtime: &Runtime, progress: &Progress) -> Outcome<RestoreReport> {
    if d.device {
        let target = FileTarget::open_device(&d.path, d.entry.size_bytes).map_err(|e| failed("open", &d.path, &e))?;
        return Ok(store.restore_disk(&d.entry, &target, progress)?);
    }
    let partial = Partial::new(&d.path)?;
    let report = match d.format {
        Format::Raw => {
            let target = FileTarget::create_new(&partial.path, d.entry.size_bytes).map_err(|e| failed("create", &partial.path, &e))?;
            restore_to(store, d, &target, progress)?
        }
        Format::Qcow2 => {
            let image = qcow2::Image::create(&partial.path, d.entry.size_bytes, runtime)?;
            let report = restore_to(store, d, image.target(), progress)?;
            image.close()?;
            report
        }
    };
    partial.finish(&d.path, force)?;
    Ok(report)
}

fn restore_to(store: &Store, d: &DiskPlan, target: &dyn BlockTarget, progress: &Progress) -> Outcome<RestoreReport> {
    Ok(store.restore_disk(&d.entry, target, progress)?)
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    let hint = if e.raw_os_error() == Some(nix::libc::EBUSY) { " (it is mounted or in use)" } else { "" };
    Failure::new(FAILED, format!("cannot {what} {}: {e}{hint}", path.display()))
}

/// A file under a name that says it is not whole; removed unless finished.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn new(path: &Path) -> Outcome<Self> {
        let mut name = path.file_name().ok_or_else(|| Failure::usage(format!("{} names no file", path.display())))?.to_owned();
        name.push(".cairn-partial");
        let partial = path.with_file_name(name);
        match fs::symlink_metadata(&partial) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self { path: partial }),
            Ok(_) => Err(Failure::refused(format!("{} is left from a restore that broke off, or one is running; remove it if none is", partial.display()))),
            Err(e) => Err(failed("look at", &partial, &e)),
        }
    }

    fn finish(self, path: &Path, force: bool) -> Outcome<()> {
        let flags = if force { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        let renamed = match renameat2(AT_FDCWD, &self.path, AT_FDCWD, path, flags) {
            // File systems without the flag: link refuses to replace just as well; drop() removes the other name.
            Err(nix::errno::Errno::EINVAL) => fs::hard_link(&self.path, path),
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|e| failed("give the restored disk its name", path, &e))?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed("sync", dir, &e))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a finished restore the name is gone already.
        let _ = fs::remove_file(&self.path);
    }
}
