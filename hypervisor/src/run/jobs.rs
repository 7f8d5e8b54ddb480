//! Block jobs of a running domain's disks: pull what the backing chain holds into the overlay, or copy the disk elsewhere and change over.
//!
//! Invariants
//! - A job is looked up by its disk; nothing is remembered here, so that whoever comes after a crash sees the same.
//! - A copy that says it has caught up is ready for the pivot: libvirt reports `cur` below `end` until QEMU's job is ready.

use virt_sys as sys;

use crate::domain::Domain;
use crate::edits::escape;
use crate::ffi::{self, LibvirtError};

/// What kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Backing chain into the image.
    Pull,
    /// Image to another image.
    Copy,
    /// Of a backup, which ends by itself.
    Backup,
    /// Anything else: not ours.
    Other,
}

/// A block job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockJob {
    /// Kind.
    pub kind: JobKind,
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all, as far as is known now.
    pub total_bytes: u64,
    /// Limit, bytes a second; 0 for none.
    pub bytes_per_s: u64,
}

impl BlockJob {
    /// A copy that has caught up with the guest.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        self.kind == JobKind::Copy && self.total_bytes > 0 && self.done_bytes == self.total_bytes
    }
}

impl Domain {
    /// The block job of a disk, if it has one.
    ///
    /// # Errors
    /// libvirt's.
    pub fn block_job(&self, target: &str) -> Result<Option<BlockJob>, LibvirtError> {
        let info = ffi::block_job_info(self.raw(), target)?;
        Ok(info.map(|info| BlockJob {
            kind: match u32::try_from(info.type_) {
                Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_PULL) => JobKind::Pull,
                Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_COPY) => JobKind::Copy,
                Ok(sys::VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP) => JobKind::Backup,
                _ => JobKind::Other,
            },
            done_bytes: info.cur,
            total_bytes: info.end,
            bytes_per_s: info.bandwidth,
        }))
    }

    /// Starts to pull a disk's backing chain into its image.
    ///
    /// # Errors
    /// libvirt's.
    pub fn start_pull(&self, target: &str, bytes_per_s: u64) -> Result<(), LibvirtError> {
        ffi::block_pull(self.raw(), target, bytes_per_s)
    }

    /// Starts to copy a disk to an image that exists and reads as zero. The job ends with the domain: libvirt refuses any other kind for a
    /// persistent domain.
    ///
    /// # Errors
    /// libvirt's.
    pub fn start_copy(&self, target: &str, path: &str, format: &str, block_device: bool, bytes_per_s: u64) -> Result<(), LibvirtError> {
        let (kind, attribute) = if block_device { ("block", "dev") } else { ("file", "file") };
        let xml = format!("<disk type='{kind}'><driver name='qemu' type='{}'/><source {attribute}='{}'/></disk>", escape(format), escape(path));
        let flags = sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB | sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT;
        ffi::block_copy(self.raw(), target, &xml, bytes_per_s, flags)
    }

    /// Changes the limit of a disk's job, bytes a second; 0 for none.
    ///
    /// # Errors
    /// libvirt's; among them that the job has ended.
    pub fn limit_block_job(&self, target: &str, bytes_per_s: u64) -> Result<(), LibvirtError> {
        ffi::block_job_set_speed(self.raw(), target, bytes_per_s)
    }

    /// Ends a disk's job and leaves the disk on its image.
    ///
    /// # Errors
    /// libvirt's.
    pub fn cancel_block_job(&self, target: &str) -> Result<(), LibvirtError> {
        ffi::block_job_abort(self.raw(), target, 0)
    }

    /// Ends a copy that has caught up: the disk is the copy from now on.
    ///
    /// # Errors
    /// libvirt's; among them that the copy has not caught up.
    pub fn pivot(&self, target: &str) -> Result<(), LibvirtError> {
        ffi::block_job_abort(self.raw(), target, sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    }
}
