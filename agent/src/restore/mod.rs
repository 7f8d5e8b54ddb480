//! Restoring disks to files and devices: what goes where, and writing it so that nothing existing is lost and nothing half-written is
//! taken for whole.

mod in_use;
mod partial;
mod plan;
mod qcow2;
mod write;

pub use in_use::refuse_in_use;
pub use plan::{DiskPlan, Request, RestorePlan, plan};
pub use write::write_disks;
