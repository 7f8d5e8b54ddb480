//! Capture: how a point in time is taken from a domain (docs/capture.md): [`live`] from one that runs, [`offline`] from one that is off.

pub mod checkpoints;
pub mod cleanup;
mod dirty;
pub mod error;
pub mod examine;
mod job_xml;
pub mod live;
pub mod lock;
pub mod look;
pub mod names;
pub mod nbd_disk;
pub mod offline;
pub mod options;
pub mod plan;
mod preflight;
pub mod scratch;
pub mod sweep;
pub mod untrack;

pub use error::CaptureError;

use cairn_quiesce::QuiesceReport;

use crate::disks::SkipReason;
use live::{CapturedDisk, Health, LiveCapture};
use offline::OfflineCapture;

/// A point in time that is open for reading, however it was taken.
#[derive(Debug)]
pub enum Capture {
    /// Of a running domain.
    Live(LiveCapture),
    /// Of one that is off.
    Offline(OfflineCapture),
}

impl Capture {
    /// The disks, in the order of their ordinals.
    #[must_use]
    pub fn disks(&self) -> &[CapturedDisk] {
        match self {
            Self::Live(capture) => capture.disks(),
            Self::Offline(capture) => capture.disks(),
        }
    }

    /// Disks that were left out, and why.
    #[must_use]
    pub fn skipped_disks(&self) -> &[(String, SkipReason)] {
        match self {
            Self::Live(capture) => capture.skipped_disks(),
            Self::Offline(capture) => capture.skipped_disks(),
        }
    }

    /// How quiet the guest was.
    #[must_use]
    pub fn quiesce(&self) -> &QuiesceReport {
        match self {
            Self::Live(capture) => capture.quiesce(),
            Self::Offline(capture) => capture.quiesce(),
        }
    }

    /// Whether what is read is still one point in time. Ask when a read fails, and after the last one, before the commit.
    ///
    /// # Errors
    /// libvirt's.
    pub fn health(&self) -> Result<Health, CaptureError> {
        match self {
            Self::Live(capture) => capture.health(),
            Self::Offline(capture) => capture.health(),
        }
    }

    /// After the commit.
    ///
    /// # Errors
    /// [`CaptureError`]; the point is good all the same, and the next backup sweeps.
    pub fn finish_success(self) -> Result<(), CaptureError> {
        match self {
            Self::Live(capture) => capture.finish_success(),
            Self::Offline(capture) => {
                capture.end();
                Ok(())
            }
        }
    }

    /// Without a commit.
    ///
    /// # Errors
    /// [`CaptureError`]; the next backup sweeps.
    pub fn abort(self) -> Result<(), CaptureError> {
        match self {
            Self::Live(capture) => capture.abort(),
            Self::Offline(capture) => {
                capture.end();
                Ok(())
            }
        }
    }
}
