//! A disk's flush, asked for from outside: what QEMU holds in memory of a qcow2 image reaches the file, and the file the disk.
//!
//! Why: a blockpull that has ended has written the image's header, which names no backing file any more, but not the tables that say where the
//! pulled clusters are: those stay in QEMU's cache until the guest flushes (measured with QEMU 7.2: another reader of the image of a guest that stood still
//! saw holes). A QEMU that is killed then leaves an image that has lost what was pulled.

use serde::Serialize;
use thiserror::Error;

use crate::disks::DisksError;
use crate::domain::Domain;
use crate::qmp::nodes::{Nodes, NodesError};
use crate::qmp::{self, QmpError};

/// Why a disk is not flushed.
#[derive(Debug, Error)]
pub enum FlushError {
    /// The domain has no such disk.
    #[error("the domain has no disk {target}")]
    NoDisk {
        /// Target.
        target: String,
    },
    /// QEMU says that it failed.
    #[error("QEMU could not flush disk {target}: {said}")]
    Failed {
        /// Target.
        target: String,
        /// QEMU's words.
        said: String,
    },
    /// Its XML.
    #[error(transparent)]
    Disks(#[from] DisksError),
    /// Its nodes.
    #[error(transparent)]
    Nodes(#[from] NodesError),
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Line {
    command_line: String,
}

impl Domain {
    /// Flushes a disk of a running or paused domain.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn flush_disk(&self, target: &str) -> Result<(), FlushError> {
        let none = || FlushError::NoDisk { target: target.to_owned() };
        let disk = self.disks()?.into_iter().find(|disk| disk.target == target).ok_or_else(none)?;
        let chain = Nodes::query(self)?.chain(&disk)?;
        let node = &chain.first().ok_or_else(none)?.name;
        // There is no QMP command for it; this one takes a node and prints only what went wrong.
        let line = Line { command_line: format!("qemu-io {node} flush") };
        let said: String = qmp::execute(self, "human-monitor-command", &line)?;
        if said.trim().is_empty() { Ok(()) } else { Err(FlushError::Failed { target: target.to_owned(), said: said.trim().to_owned() }) }
    }
}
