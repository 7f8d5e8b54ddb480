//! What can go wrong in a capture. Whatever it is, the previous bitmap has lost nothing and the next backup may be incremental.

use std::path::PathBuf;
use std::time::Duration;

use cairn_nbd::NbdError;
use thiserror::Error;

use crate::disks::DisksError;
use crate::ffi::LibvirtError;
use crate::host::HostError;
use crate::image_tools::ToolError;
use crate::qmp::QmpError;
use crate::qmp::nodes::NodesError;

/// Errors of a capture.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Not running.
    #[error("domain {domain:?} is not running; a live backup needs a running domain")]
    NotRunning {
        /// Name.
        domain: String,
    },
    /// Running, where only one that is off will do.
    #[error("domain {domain:?} is running; its images cannot be read as they lie there")]
    Running {
        /// Name.
        domain: String,
    },
    /// Off because it went to another host.
    #[error("domain {domain:?} was migrated to another host, where its images may be in use; back it up there")]
    Elsewhere {
        /// Name.
        domain: String,
    },
    /// An image that cannot be read.
    #[error("disk {disk} of domain {domain:?}: image {path:?}: {problem} (--disk names the disks to save without it)")]
    Image {
        /// Name.
        domain: String,
        /// Target.
        disk: String,
        /// Which image.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// An image that goes on changing.
    #[error("disk {disk} of domain {domain:?}: image {path:?} changes all the time, though the domain is off; nothing was saved, try again when it does not")]
    Restless {
        /// Name.
        domain: String,
        /// Target.
        disk: String,
        /// Which image.
        path: PathBuf,
    },
    /// Somebody else writes to an image.
    #[error("disk {disk} of domain {domain:?}: image {path:?} is in use by {by}, which writes to it; nothing was saved")]
    Written {
        /// Name.
        domain: String,
        /// Target.
        disk: String,
        /// Which image.
        path: PathBuf,
        /// Who.
        by: String,
    },
    /// Another Cairn process works on the domain.
    #[error("domain {domain:?} is busy: process {holder} works on it; try again when it is done")]
    Busy {
        /// Name.
        domain: String,
        /// Process id and command.
        holder: String,
    },
    /// A job that is not ours.
    #[error("domain {domain:?} has a running {job} that is not Cairn's; wait for its end or abort it (`virsh domjobabort`, `virsh blockjob`)")]
    ForeignJob {
        /// Name.
        domain: String,
        /// What runs.
        job: String,
    },
    /// A disk that the domain does not have, or that is never backed up.
    #[error("domain {domain:?} has no disk {disk:?} that can be backed up; it has {available}")]
    NoSuchDisk {
        /// Name.
        domain: String,
        /// Asked for.
        disk: String,
        /// What there is.
        available: String,
    },
    /// Nothing to back up.
    #[error("domain {domain:?} has no disk that can be backed up: {skipped}")]
    NoDisks {
        /// Name.
        domain: String,
        /// Disks and why not.
        skipped: String,
    },
    /// A disk that is not supported.
    #[error("disk {disk} of domain {domain:?} cannot be backed up: {problem}")]
    Unsupported {
        /// Name.
        domain: String,
        /// Target.
        disk: String,
        /// Why and what to do.
        problem: String,
    },
    /// The image chain is another one than pre-flight saw.
    #[error("disk {disk} of domain {domain:?} got another image chain while the backup began (a snapshot, a commit?); nothing was saved, try again")]
    Changed {
        /// Name.
        domain: String,
        /// Target.
        disk: String,
    },
    /// Quiesce was required.
    #[error("domain {domain:?} was not quiesced, which the policy requires: {reason}")]
    NotQuiesced {
        /// Name.
        domain: String,
        /// Why.
        reason: String,
    },
    /// Quiesce was required, and is not possible for a while.
    #[error(
        "domain {domain:?} cannot be quiesced yet, which the policy requires: the freeze of a backup that was killed less than a minute ago may still be under \
         way; try again in a minute"
    )]
    FreezeUnderWay {
        /// Name.
        domain: String,
    },
    /// No thaw was confirmed, and the agent is out of reach.
    #[error(
        "domain {domain:?} was frozen for the backup, and its agent did not say that it is thawed ({reason}): the backup was ended, because libvirt cannot hear of the \
         agent's return while one runs; the guard goes on thawing for ten minutes. If the guest stands still, restart its agent (on its console) or libvirtd; later than that 'virsh domfsthaw' \
         besides. The next backup asks for no freeze, unless it must"
    )]
    NotThawed {
        /// Name.
        domain: String,
        /// Why.
        reason: String,
    },
    /// A file or folder of ours.
    #[error("cannot {action} {path:?}")]
    File {
        /// What was done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Scratch space.
    #[error("{path:?} has {free_bytes} bytes free, the scratch of this backup needs {needed_bytes}; free some space or set another scratch folder")]
    ScratchSpace {
        /// Folder.
        path: PathBuf,
        /// There.
        free_bytes: u64,
        /// Needed.
        needed_bytes: u64,
    },
    /// A program we need.
    #[error("{program} failed: {problem}")]
    Program {
        /// Program.
        program: &'static str,
        /// Its words.
        problem: String,
    },
    /// The guard did not start.
    #[error("the guard process did not start: {problem}")]
    Guard {
        /// Why.
        problem: String,
    },
    /// Something did not end in time.
    #[error("{what} did not end within {limit:?}")]
    Stuck {
        /// What.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The backup job ended by itself.
    #[error("the backup job of domain {domain:?} ended before the backup was read: {problem}")]
    JobDied {
        /// Name.
        domain: String,
        /// What is known.
        problem: String,
    },
    /// A program of QEMU's.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// libvirt's.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
    /// Host's.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The XML's.
    #[error(transparent)]
    Disks(#[from] DisksError),
    /// QEMU's.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The chain's.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The NBD client's.
    #[error(transparent)]
    Nbd(#[from] NbdError),
}
