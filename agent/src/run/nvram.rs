//! The firmware's variables of a run: a file of its own, durable before the domain is defined.

use crate::failure::{FAILED, Failure, Outcome};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

/// Makes the file, which must not exist.
pub fn write_new(path: &Path, bytes: &[u8]) -> Outcome<()> {
    let fail = |e: std::io::Error| Failure::new(FAILED, format!("NVRAM {}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(fail)?;
    }
    let mut file = OpenOptions::new().write(true).mode(0o600).create_new(true).open(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)
}
