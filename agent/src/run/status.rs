//! What a run's supervisor tells of it: `status.json` beside its sockets. Written often, worth nothing after a restart, never relied on.

use super::folder::{RunSockets, read_json};
use serde::{Deserialize, Serialize};
use std::{fs, io::Write, os::unix::fs::OpenOptionsExt};

/// A run as its supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Server and, where one is needed, storage daemon answer.
    pub served: bool,
    /// How often one of them was started again.
    pub restarts: u64,
    /// Progress of a keep.
    pub keep: Option<KeepStatus>,
    /// What is in the way now, if anything.
    pub problem: Option<String>,
    /// What lives and does not answer, if anything.
    #[serde(default)]
    pub hangs: Option<String>,
}

/// How far a keep is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepStatus {
    /// Which wish this is about.
    pub asked_unix_ms: u64,
    /// Bytes done, all disks.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// It was given up, for the reason in `problem`; `keep` again tries again.
    pub gave_up: bool,
}

impl Status {
    /// What people should know.
    pub fn trouble(&self) -> Option<String> {
        let both = [self.problem.as_deref(), self.hangs.as_deref()];
        let said: Vec<&str> = both.into_iter().flatten().collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// What was said last.
    pub fn read(sockets: &RunSockets) -> Option<Self> {
        read_json(&sockets.dir.join("status.json")).ok().flatten()
    }

    /// Says it; nobody depends on it, so it is not synced and a failure is ignored.
    pub fn write(&self, sockets: &RunSockets) {
        let (path, temporary) = (sockets.dir.join("status.json"), sockets.dir.join("status.tmp"));
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(serde_json::to_string(self).map_err(std::io::Error::other)?.as_bytes())?;
            fs::rename(&temporary, &path)
        };
        // The sockets' folder may be gone already.
        let _ = write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_hides_no_other_problem() {
        let status =
            |problem: Option<&str>, hangs: Option<&str>| Status { problem: problem.map(str::to_owned), hangs: hangs.map(str::to_owned), ..Status::default() };
        assert_eq!(status(Some("a"), Some("b")).trouble().as_deref(), Some("a; b"));
        assert_eq!((status(None, Some("b")).trouble().as_deref(), status(None, None).trouble()), (Some("b"), None));
    }
}
