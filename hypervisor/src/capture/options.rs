//! How a running domain is captured.

use std::path::PathBuf;
use std::time::Duration;

use cairn_quiesce::QuiescePolicy;
use cairn_quiesce::level::FREEZE_LIMIT_DEFAULT;
use serde::{Deserialize, Serialize};

use super::lock::LOCK_DIR_DEFAULT;
use super::scratch::SCRATCH_DIR_DEFAULT;
use crate::guard::link::GuardCommand;

/// Who keeps track of what changes on a running domain's disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracker {
    /// Dirty bitmaps of our own, by QEMU's monitor (docs/adr/0010).
    #[default]
    Bitmaps,
    /// libvirt's checkpoints; the monitor is left alone (docs/adr/0024).
    Checkpoints,
}

/// How to capture.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// First four bytes of the store's id.
    pub store8: [u8; 4],
    /// The store's session for this backup; names the new bitmaps.
    pub session: [u8; 16],
    /// Who keeps track of what changed.
    pub tracker: Tracker,
    /// Targets to capture; `None`: all that can be.
    pub disks: Option<Vec<String>>,
    /// What to do about quiet.
    pub quiesce: QuiescePolicy,
    /// Why the guest's agent is left alone all the same.
    pub unasked: Option<String>,
    /// Mount points to freeze ([`cairn_quiesce::scope::check`]); empty: all.
    pub freeze_mounts: Vec<String>,
    /// Longest the guest may be frozen.
    pub freeze_limit: Duration,
    /// Program that the guard calls once, with the domain's UUID, for a guest that is not thawed within the limit.
    pub on_stuck_freeze: Option<PathBuf>,
    /// Folder for scratch images: local, writable for QEMU's user, not the store's.
    pub scratch_dir: PathBuf,
    /// Folder of the domains' locks.
    pub lock_dir: PathBuf,
    /// libvirt's folder with a private directory for each running domain.
    pub qemu_state_dir: PathBuf,
    /// How to start the guard.
    pub guard: GuardCommand,
    /// NBD connections per disk.
    pub connections: usize,
}

impl LiveOptions {
    /// Defaults for everything but names and guard.
    #[must_use]
    pub fn new(store8: [u8; 4], session: [u8; 16], guard: GuardCommand) -> Self {
        Self {
            store8,
            session,
            tracker: Tracker::default(),
            disks: None,
            quiesce: QuiescePolicy::Prefer,
            unasked: None,
            freeze_mounts: Vec::new(),
            freeze_limit: FREEZE_LIMIT_DEFAULT,
            on_stuck_freeze: None,
            scratch_dir: SCRATCH_DIR_DEFAULT.into(),
            lock_dir: LOCK_DIR_DEFAULT.into(),
            qemu_state_dir: "/var/lib/libvirt/qemu".into(),
            guard,
            connections: cairn_nbd::client::pool::CONNECTIONS_DEFAULT,
        }
    }
}
