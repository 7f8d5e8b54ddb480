//! Restoring disks to files and devices: what goes where, and writing it so that nothing existing is lost and nothing half-written is
//! taken for whole.

mod in_use;
mod job;
mod journal;
mod mapping;
pub mod nbd_image;
mod partial;
mod plan;
mod qcow2;
mod volumes;
mod write;

pub use in_use::{QEMU_LOCK_LEN, QEMU_LOCK_START, refuse_in_use, refuse_paths_in_use};
pub use job::{Options, Work, check_new_name, prepare, refuse_problems, unused_map};
pub use journal::Journal;
pub use mapping::{Place, mapping, places};
pub use partial::Partial;
pub use plan::{DiskPlan, RestorePlan, plan, refuse_store_folder};
pub use volumes::Volumes;
pub use write::{Writing, write_disks};
