//! Loop devices: block devices over files.

use crate::error::Result;
use crate::process;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A loop device over a file, detached at the end.
#[derive(Debug)]
pub struct Loop(String);

impl Loop {
    /// Attaches the next free one.
    ///
    /// # Errors
    /// losetup's words.
    pub fn over(file: &Path) -> Result<Self> {
        let path = process::run_ok(Command::new("losetup").args(["--find", "--show"]).arg(file), LIMIT)?;
        Ok(Self(path.trim().to_owned()))
    }

    /// The device.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // At the end of a test that may have failed: nobody to tell.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
