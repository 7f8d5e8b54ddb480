//! What a domain that is off is worth as a point in time, by how it came to be off.

use cairn_quiesce::{QuiesceLevel, QuiesceReport};
use virt_sys as sys;

use crate::domain::Domain;
use crate::ffi::{self, LibvirtError};

/// How a domain came to be off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The guest shut down by itself, or when asked to.
    Shutdown,
    /// Its memory was saved; the next start goes on from there.
    Saved,
    /// It was forced off.
    Destroyed,
    /// Guest or QEMU crashed.
    Crashed,
    /// It went to another host.
    Migrated,
    /// Reverted to a snapshot.
    Snapshot,
    /// libvirt's daemon was restarted since, or it never ran.
    Unknown,
}

impl Domain {
    /// How the domain came to be off; `None` while it runs.
    ///
    /// # Errors
    /// libvirt's.
    pub fn off(&self) -> Result<Option<Off>, LibvirtError> {
        if self.is_running()? {
            return Ok(None);
        }
        // Whatever libvirt says now: memory that was saved outlives a restart of the daemon, the reason does not.
        if self.has_managed_save()? {
            return Ok(Some(Off::Saved));
        }
        let (_, reason) = ffi::domain_state(self.raw())?;
        Ok(Some(match u32::try_from(reason).unwrap_or_default() {
            sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Off::Shutdown,
            sys::VIR_DOMAIN_SHUTOFF_DESTROYED => Off::Destroyed,
            sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED => Off::Crashed,
            sys::VIR_DOMAIN_SHUTOFF_MIGRATED => Off::Migrated,
            sys::VIR_DOMAIN_SHUTOFF_SAVED => Off::Saved,
            sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => Off::Snapshot,
            _ => Off::Unknown,
        }))
    }
}

/// A guest that has shut down has its file systems unmounted and its services ended. That is no less than `filesystem`, and nothing tells whether its
/// applications were done with all they had to say.
pub(super) fn level(off: Off) -> QuiesceReport {
    let why = match off {
        Off::Shutdown => {
            return QuiesceReport {
                level: QuiesceLevel::Filesystem,
                freeze_ms: 0,
                frozen_filesystems: 0,
                frozen_mounts: Vec::new(),
                reason: Some("the domain was off, its guest had shut down".to_owned()),
            };
        }
        Off::Saved => "the domain was off with its memory saved (managed save); that memory is not in the point, and does not fit disks that are restored",
        Off::Destroyed => "the domain had been forced off",
        Off::Crashed => "the domain had crashed",
        Off::Migrated => "the domain had gone to another host",
        Off::Snapshot => "the domain was off after it had been reverted to a snapshot",
        Off::Unknown => "the domain was off, and libvirt does not know how it ended (it never ran, or libvirt was restarted since)",
    };
    QuiesceReport::crash(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_shutdown_is_more_than_a_crash() {
        assert_eq!(level(Off::Shutdown).level, QuiesceLevel::Filesystem);
        for off in [Off::Saved, Off::Destroyed, Off::Crashed, Off::Migrated, Off::Snapshot, Off::Unknown] {
            let report = level(off);
            assert!(report.level == QuiesceLevel::Crash && report.reason.is_some(), "{report:?}");
        }
    }
}
