//! Whether a guest runs, as far as a run has to know.

use virt::domain::{DomainPausedReason, DomainState, DomainStateReason};
use virt::enumutil::Enum;

use crate::domain::Domain;
use crate::ffi::{LibvirtError, Named};

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
        let (state, reason) = self.raw().state().named("virDomainGetState")?;
        Ok(match (state, reason) {
            (Enum::Known(DomainState::Shutoff | DomainState::Crashed | DomainState::NoState), _) => GuestState::Off,
            (Enum::Known(DomainState::Paused), Enum::Known(DomainStateReason::Paused(Enum::Known(DomainPausedReason::IOError)))) => GuestState::IoError,
            (Enum::Known(DomainState::Paused), _) => GuestState::Paused,
            _ => GuestState::Running,
        })
    }
}
