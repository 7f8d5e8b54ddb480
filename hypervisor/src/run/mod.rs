//! Running a domain straight from a restore point: its XML, its block jobs, what libvirt made of both.
//!
//! - [`xml`]: the saved XML becomes that of a domain whose disks are overlays over NBD exports
//! - [`isolate`]: the same for a guest that nobody watches: nothing reaches out of it; [`eye`]: what can be seen of it
//! - [`flush`]: what a block job left in QEMU's memory reaches the disk
//! - [`jobs`]: blockpull and blockcopy of a disk, their progress and end
//! - [`orphans`]: copies that libvirt has forgotten
//! - [`mod@state`]: whether the guest runs, and whether it stands still because a read failed
//!
//! Invariants
//! - What libvirt made of a definition is read back and believed, never what was sent (libvirt 9.0 drops `<reconnect>` silently).
//! - Nothing here waits: block jobs are asked about, again and again, by who wants to know.
//!
//! What it must not do: know of stores or points, start processes, remember anything.

pub mod driver;
pub mod eye;
pub mod flush;
pub mod isolate;
pub mod jobs;
pub mod orphans;
pub mod state;
pub mod xml;

pub use eye::Console;
pub use jobs::{BlockJob, JobKind};
pub use state::GuestState;
pub use xml::{Built, Network, RunDisk, RunXml};
