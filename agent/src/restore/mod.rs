//! Restoring disks to files and devices: what goes where, and writing it so that nothing existing is lost and nothing half-written is
//! taken for whole.

pub mod daemon;
mod in_use;
pub mod nbd_image;
mod partial;
mod plan;
mod qcow2;
mod write;

pub use in_use::{QEMU_LOCK_LEN, QEMU_LOCK_START, refuse_in_use, refuse_paths_in_use};
pub use plan::{DiskPlan, Request, RestorePlan, plan};
pub use write::write_disks;
