//! libvirt and QEMU as Cairn needs them: domains, disks, QMP, and the capture of a point in time.
//!
//! Layers, one way only: [`ffi`] (the one module with unsafe calls of libvirt) <- [`host`], [`domain`] <- [`qmp`] <- [`capture`], [`run`]. [`image_tools`] (qemu-img and
//! its kin as processes with limits) stands beside [`ffi`].
//!
//! Invariants
//! - libvirt's pull backup job is the umbrella. QMP dirty bitmaps are the change tracker; where the monitor must be left alone, libvirt's checkpoints
//!   (docs/capture.md).
//! - Nothing here stores anything: the agent reads what [`capture`] opens and decides what becomes a restore point.
//! - Blocking calls: nothing in the public API is async; callers are plain threads.
//!
//! What it must not do: know the store, or believe a guest.

pub mod agent_channel;
pub mod capture;
pub mod copy;
pub mod disks;
pub mod domain;
mod edits;
pub mod events;
pub mod ffi;
pub mod guard;
pub mod host;
pub mod image_tools;
pub mod metadata;
pub mod needs;
pub mod phase;
pub mod qmp;
pub mod restore_map;
pub mod restore_xml;
pub mod run;
pub mod snapshots;
pub mod state_files;
pub mod storage;
mod translated;

pub use capture::Capture;
pub use capture::live::{LiveCapture, LiveOptions};
pub use capture::nbd_disk::{DiskExtent, NbdDisk};
pub use capture::offline::{OfflineCapture, OfflineOptions, StampCatalog};
pub use capture::plan::{CarrierRecord, DiskPlan, FullReason, PointCatalog, PointStatus};
pub use domain::Domain;
pub use host::Host;
