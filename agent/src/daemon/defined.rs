//! Whether libvirt has a domain that somebody asks a job for: a name that was mistyped is to be told at once, not by a job that fails.
//!
//! Invariants
//! - Refused is only what libvirt itself says that it does not have: the watch's records may be behind, and a libvirt that is away is for the job to tell.
//! - A libvirt that hangs costs the one who asks a few seconds, and the daemon [`ASKERS_MAX`] threads.

use super::state::{Shared, connect};
use crate::failure::{Failure, Outcome};
use cairn_hypervisor::{Host, host::HostError};
use std::{sync::Arc, time::Duration};

/// Threads that a libvirt that hangs may keep; where it has them, nothing is asked.
pub const ASKERS_MAX: usize = 2;
/// It answers within milliseconds, or something is wrong with it.
const LIBVIRT_LIMIT: Duration = Duration::from_secs(5);

impl Shared {
    /// Refuses a domain that is not defined here, by name or UUID.
    pub(super) async fn check_defined(self: &Arc<Self>, domain: &str) -> Outcome<()> {
        let Ok(asker) = self.askers.clone().try_acquire_owned() else { return Ok(()) };
        let (uri, domain) = (connect(&self.config(), &self.places).map(str::to_owned), domain.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let _asker = asker;
            match Host::open(uri.as_deref()).and_then(|host| host.domain(&domain)) {
                Err(e @ HostError::NoDomain { .. }) => Err(Failure::from(e)),
                Err(e) => {
                    tracing::debug!("whether there is a domain {domain:?} cannot be told: {e}");
                    Ok(())
                }
                Ok(_) => Ok(()),
            }
        });
        match tokio::time::timeout(LIBVIRT_LIMIT, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}
