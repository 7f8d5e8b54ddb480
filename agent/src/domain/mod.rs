//! Domains: fitting what the hypervisor captures to what the store takes, and bringing a domain back.

mod agent_wait;
mod capture;
mod catalog;
mod facts;
mod files;
mod recover;
mod saved;
mod source;

pub use agent_wait::wait_for_agent;
pub use capture::{BackupRequest, back_up};
pub use catalog::{PointsCatalog, Seen, carrier, later};
pub use files::{Context as FileContext, Files};
pub use recover::{Recovery, missing, saved_xml};
pub use saved::{LIBVIRT_API, SavedDomain};

use crate::failure::{BUSY, FAILED, Failure, NOT_FOUND, REFUSED};
use cairn_hypervisor::{capture::error::CaptureError, host::HostError, image_tools::ToolError};

/// Message with all its causes, outermost first.
pub fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(s) = source {
        let s_text = s.to_string();
        if !text.contains(&s_text) {
            text.push_str(": ");
            text.push_str(&s_text);
        }
        source = s.source();
    }
    text
}

impl From<HostError> for Failure {
    fn from(e: HostError) -> Self {
        let code = match &e {
            HostError::NoDomain { .. } => NOT_FOUND,
            HostError::TooOld { .. } => REFUSED,
            _ => FAILED,
        };
        Self::new(code, chain(&e))
    }
}

impl From<ToolError> for Failure {
    fn from(e: ToolError) -> Self {
        Self::new(FAILED, chain(&e))
    }
}

impl From<CaptureError> for Failure {
    fn from(e: CaptureError) -> Self {
        let code = match &e {
            CaptureError::Busy { .. } | CaptureError::ForeignJob { .. } | CaptureError::Changed { .. } => BUSY,
            CaptureError::Running { .. } | CaptureError::Restless { .. } | CaptureError::FreezeUnderWay { .. } => BUSY,
            CaptureError::NoSuchDisk { .. } | CaptureError::Image { .. } => NOT_FOUND,
            CaptureError::NotRunning { .. } | CaptureError::NotQuiesced { .. } | CaptureError::ScratchSpace { .. } => REFUSED,
            CaptureError::Written { .. } | CaptureError::Elsewhere { .. } => REFUSED,
            _ => FAILED,
        };
        Self::new(code, chain(&e))
    }
}
