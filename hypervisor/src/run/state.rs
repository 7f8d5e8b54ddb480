//! Whether a guest runs, as far as a run has to know.

use virt_sys as sys;

use crate::domain::Domain;
use crate::ffi::{self, LibvirtError};

/// A guest's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestState {
    /// Its processors run.
    Running,
    /// QEMU stopped them because a read or write failed (`rerror_policy='stop'`).
    IoError,
    /// Somebody stopped them.
    Paused,
    /// No QEMU process.
    Off,
}

impl Domain {
    /// The guest's state now.
    ///
    /// # Errors
    /// libvirt's.
    pub fn guest_state(&self) -> Result<GuestState, LibvirtError> {
        let (state, reason) = ffi::domain_state(self.raw())?;
        Ok(match state {
            sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED | sys::VIR_DOMAIN_NOSTATE => GuestState::Off,
            sys::VIR_DOMAIN_PAUSED if u32::try_from(reason) == Ok(sys::VIR_DOMAIN_PAUSED_IOERROR) => GuestState::IoError,
            sys::VIR_DOMAIN_PAUSED => GuestState::Paused,
            _ => GuestState::Running,
        })
    }
}
