//! Whether a domain runs, and how it came to: what libvirt still knows of events that nobody heard.

use virt_sys as sys;

use crate::domain::Domain;
use crate::events::{Start, Stop};
use crate::ffi::{self, LibvirtError};

/// Whether there is a QEMU process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is one, whatever the guest's processors do.
    Running(Start),
    /// There is none. How it ended is [`Stop::Other`] once libvirt's daemon was restarted.
    Off(Stop),
}

impl Domain {
    /// The domain's phase now.
    ///
    /// # Errors
    /// libvirt's.
    pub fn phase(&self) -> Result<Phase, LibvirtError> {
        let (state, reason) = ffi::domain_state(self.raw())?;
        Ok(Phase::of(state, reason))
    }
}

impl Phase {
    fn of(state: sys::virDomainState, reason: i32) -> Self {
        let reason = u32::try_from(reason).unwrap_or(0);
        match state {
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_NOSTATE => Self::Off(match reason {
                sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => Stop::Shutdown,
                sys::VIR_DOMAIN_SHUTOFF_DESTROYED => Stop::Destroyed,
                sys::VIR_DOMAIN_SHUTOFF_CRASHED => Stop::Crashed,
                sys::VIR_DOMAIN_SHUTOFF_MIGRATED => Stop::Migrated,
                sys::VIR_DOMAIN_SHUTOFF_SAVED => Stop::Saved,
                sys::VIR_DOMAIN_SHUTOFF_FAILED => Stop::Failed,
                sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => Stop::Snapshot,
                _ => Stop::Other,
            }),
            sys::VIR_DOMAIN_RUNNING => Self::Running(match reason {
                sys::VIR_DOMAIN_RUNNING_BOOTED => Start::Booted,
                sys::VIR_DOMAIN_RUNNING_MIGRATED => Start::Migrated,
                sys::VIR_DOMAIN_RUNNING_RESTORED => Start::Restored,
                sys::VIR_DOMAIN_RUNNING_FROM_SNAPSHOT => Start::Snapshot,
                _ => Start::Other,
            }),
            _ => Self::Running(Start::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_libvirt_become_phases() {
        let number = |reason: u32| i32::try_from(reason).expect("small");
        assert_eq!(Phase::of(sys::VIR_DOMAIN_SHUTOFF, number(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN)), Phase::Off(Stop::Shutdown));
        assert_eq!(Phase::of(sys::VIR_DOMAIN_SHUTOFF, number(sys::VIR_DOMAIN_SHUTOFF_CRASHED)), Phase::Off(Stop::Crashed));
        assert_eq!(Phase::of(sys::VIR_DOMAIN_SHUTOFF, -1), Phase::Off(Stop::Other));
        assert_eq!(Phase::of(sys::VIR_DOMAIN_RUNNING, number(sys::VIR_DOMAIN_RUNNING_MIGRATED)), Phase::Running(Start::Migrated));
        // A guest that crashed and whose QEMU is kept, one that is paused: the reasons are of other kinds.
        assert_eq!(Phase::of(sys::VIR_DOMAIN_CRASHED, 1), Phase::Running(Start::Other));
        assert_eq!(Phase::of(sys::VIR_DOMAIN_PAUSED, 1), Phase::Running(Start::Other));
    }
}
