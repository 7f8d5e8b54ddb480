//! The hook's file in libvirt's folder of hooks: what is there, putting ours there, taking it away.
//!
//! Invariants:
//! - only a file that carries the hook's mark is replaced or removed; another one of our name only by `--force`, and never a folder;
//! - libvirt runs every executable file in `qemu.d`, hidden and temporary ones too (measured): ours is made and tried in the folder above,
//!   and comes by a rename;
//! - it is a copy, no link: libvirt's AppArmor profile lets it run what lies below its folder of hooks, and nothing of `/usr/lib`;
//! - the file's modification time is that of the first installation: a daemon started after it has found a hook, whatever was upgraded since.

pub mod daemons;
mod file;
pub mod look;
pub mod problems;

pub use file::{Found, Source, install, look, remove};

use std::path::{Path, PathBuf};

/// Where libvirt looks, as it is built everywhere.
pub const DIR_DEFAULT: &str = "/etc/libvirt/hooks";
const FOLDER: &str = "qemu.d";
const NAME: &str = "cairn";

/// The paths in one folder of hooks.
#[derive(Debug, Clone)]
pub struct Place {
    /// libvirt's folder.
    pub dir: PathBuf,
    /// The folder in it whose programs are run for domains of QEMU.
    pub folder: PathBuf,
    /// The hook.
    pub path: PathBuf,
}

impl Place {
    /// In this folder.
    pub fn of(dir: &Path) -> Self {
        let folder = dir.join(FOLDER);
        Self { dir: dir.to_owned(), path: folder.join(NAME), folder }
    }

    /// The hook of older times, one for all; libvirt runs it, too.
    pub fn single(&self) -> PathBuf {
        self.dir.join("qemu")
    }
}
