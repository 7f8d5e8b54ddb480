//! What a lab shall be like: sizes, guest or not, where.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Environment variable for the folder in which labs are made.
pub const BASE_VARIABLE: &str = "CAIRN_LAB_BASE";
/// `/var/tmp` and not `/tmp`: the images are too large for a memory file system, and QEMU's user can traverse it.
pub const BASE_DEFAULT: &str = "/var/tmp";
/// Smaller file systems have no room for their journal and the data.
pub const DISK_MIB_MIN: u64 = 64;
/// More would make a lab slow to start; such disks are a matter for a suite of their own.
pub const DISK_MIB_MAX: u64 = 65_536;

/// How to make a lab. `Default` is what `cargo xtask lab` gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Folder in which the lab's own folder is made.
    pub base: PathBuf,
    /// Whether `lab1` is defined and started.
    pub guest: bool,
    /// Whether the Debian guest `deb1` is defined and started ([`crate::debian`]).
    #[serde(default)]
    pub debian: bool,
    /// Size of `vda` (qcow2) in MiB.
    pub vda_mib: u64,
    /// Size of `vdb` (raw) in MiB.
    pub vdb_mib: u64,
    /// About how much real data (files of this host) `vda` holds, in MiB.
    pub data_mib: u64,
    /// No progress lines on stderr.
    pub quiet: bool,
}

impl Default for Options {
    fn default() -> Self {
        let base = std::env::var_os(BASE_VARIABLE).map_or_else(|| BASE_DEFAULT.into(), PathBuf::from);
        Self { base, guest: true, debian: false, vda_mib: 512, vdb_mib: 512, data_mib: 192, quiet: false }
    }
}

impl Options {
    /// For suites: little data, so that a lab is up quickly and references are cheap.
    #[must_use]
    pub fn small() -> Self {
        Self { vda_mib: 128, vdb_mib: 96, data_mib: 24, quiet: true, ..Self::default() }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// A size out of its limits, named.
    pub fn check(&self) -> Result<()> {
        for (name, mib) in [("vda", self.vda_mib), ("vdb", self.vdb_mib)] {
            if !(DISK_MIB_MIN..=DISK_MIB_MAX).contains(&mib) {
                return Err(Error::answer(format!("size of {name}"), format!("{mib} MiB is not within {DISK_MIB_MIN} and {DISK_MIB_MAX}")));
            }
        }
        // A quarter stays free for journal, inode tables and what the guest writes.
        if self.data_mib > self.vda_mib * 3 / 4 {
            return Err(Error::answer("size of the data", format!("{} MiB do not fit a vda of {} MiB", self.data_mib, self.vda_mib)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        assert!(Options::default().check().is_ok());
        assert!(Options::small().check().is_ok());
        assert!(Options { vdb_mib: 1, ..Options::default() }.check().is_err());
        assert!(Options { data_mib: 500, ..Options::default() }.check().is_err());
    }
}
