//! Cairn's store: deduplicated, compressed, encrypted restore points that many hosts write at once without locks.
//!
//! Layers, one way: [`platform`] (files, clock, randomness) <- `crypto`, `chunk` <- `pack`, `index` <- `tree` <- `session`, `backup`,
//! [`point`], [`restore`], [`verify`] <- the callers. Steps of the protocol carry the labels of docs/format.md (`B1`..`B6`).
//! Must not: know libvirt or any hypervisor; its doors are [`BlockSource`] and [`BlockTarget`].

mod against;
mod backup;
mod block;
mod chunk;
mod crypto;
mod damage;
mod database;
mod error;
mod gc;
mod index;
mod init;
mod pack;
mod parallel;
pub mod platform;
pub mod point;
mod point_source;
mod relocation;
mod resolve;
pub mod restore;
pub mod scrub;
mod session;
mod stats;
mod store;
#[cfg(test)]
mod testing;
mod tree;
pub mod update;
pub mod verify;
mod witness;

pub use against::Comparison;
pub use backup::{BackupOutcome, DISKS_AT_ONCE_MAX, DiskJob, DiskResult, Part, Plan, PointInfo, Progress};
pub use block::{BlockSource, BlockTarget, Extent, FileSource, FileTarget};
pub use cairn_store_format as format;
pub use crypto::{Credential, RECOVERY_PREFIX, SecretKey};
pub use damage::Damage;
pub use error::{Result, StoreError};
pub use gc::{GcOptions, GcReport};
pub use init::{InitOptions, InitReport, KeyFileChooser, Profile, init, init_on};
pub use parallel::StageWaits;
pub use point::{AllPoints, BootProof, Forgotten, LogDamage, Point, PointState, Stays, TakeBack, TakenBack};
pub use point_source::{PointSource, ReadOptions, ReadStatistics};
pub use session::{BEAT_PERIOD_MS, Pin, Session};
pub use stats::{Growth, NameStatistics, PointSizes, Statistics, Waste};
pub use store::{OpenOptions, Store};
pub use tree::DiskDiff;
