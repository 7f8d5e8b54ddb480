//! What the guard needs to know, one line of JSON on its standard input.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::capture::options::Tracker;

/// Longest line, bytes.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;

/// What helps a guest that stands still. libvirt loses an agent that goes away while a backup's job runs (docs/capture.md).
pub(super) const FROZEN_REMEDY: &str = "If the guest stands still when the backup has ended: restart libvirtd, or the guest's agent (on its console: \
    systemctl restart qemu-guest-agent); later than ten minutes after the backup `virsh domfsthaw` thaws it then; a reset of the guest ends every freeze";

/// One backup to guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardConfig {
    /// libvirt's URI.
    pub uri: String,
    /// UUID of the domain.
    pub domain: String,
    /// Store of the backup.
    pub store8: [u8; 4],
    /// Session of the backup.
    pub session: [u8; 16],
    /// Who keeps track of what changed.
    #[serde(default)]
    pub tracker: Tracker,
    /// Scratch images.
    pub scratch_folder: PathBuf,
    /// Longest the guest may be frozen.
    pub freeze_limit_ms: u64,
    /// The process that is watched.
    pub job_pid: u32,
    /// Socket of the guest agent's channel, for the case that libvirt is gone; empty if there is none.
    pub agent_socket: PathBuf,
    /// Program of the admin, called once for a guest that is not thawed within the limit.
    #[serde(default)]
    pub on_stuck_freeze: Option<PathBuf>,
}

/// What a guard process is started for; the watching one starts the others, with a time limit each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuardTask {
    /// Watch a backup.
    Watch(GuardConfig),
    /// Thaw the guest through libvirt.
    Thaw {
        /// Of the backup.
        config: GuardConfig,
        /// For the agent's answer.
        limit: Duration,
    },
    /// Take everything of the backup away.
    CleanUp {
        /// Of the backup.
        config: GuardConfig,
        /// The point is committed: only the frozen copies go.
        keep_bitmaps: bool,
    },
}

/// Messages of the job, one byte each.
pub mod message {
    /// Sign of life.
    pub const BEAT: u8 = b'b';
    /// A freeze begins.
    pub const FREEZE: u8 = b'f';
    /// libvirt has answered the freeze.
    pub const FREEZE_ANSWERED: u8 = b'a';
    /// The guest is thawed for certain.
    pub const THAWED: u8 = b't';
    /// The point is committed: the new bitmaps must stay.
    pub const COMMITTED: u8 = b'c';
    /// The backup has ended and is cleaned up.
    pub const DISMISS: u8 = b'd';
    /// The backup has ended, and its own clean-up failed.
    pub const HAND_OVER: u8 = b'h';
    /// The guard's answer to its configuration, to FREEZE, and once it goes on without the job.
    pub const READY: u8 = b'r';
}
