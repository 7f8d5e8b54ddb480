//! A hook of somebody else's: a shell script that writes down what libvirt calls it with. The oracle for Cairn's own.

use crate::error::{Error, Result};
use crate::folder::set_mode;
use std::fs;
use std::path::Path;

/// Where libvirt looks.
pub const DIR: &str = "/etc/libvirt/hooks";
/// Where the script writes to.
const LOG: &str = "/run/other-hook.log";

/// One call: domain, operation, sub-operation, extra, and what the XML on standard input has as the domain's UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The four arguments.
    pub arguments: Vec<String>,
    /// The first `<uuid>` at the indentation that libvirt gives to the domain's own.
    pub uuid: String,
}

/// Puts the script beside other hooks, under this name.
///
/// # Errors
/// It cannot be written.
pub fn make(name: &str) -> Result<()> {
    let folder = Path::new(DIR).join("qemu.d");
    fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
    let path = folder.join(name);
    // One write for each call: calls for several domains may come at once.
    let script = format!("#!/bin/sh\nuuid=$(sed -n 's|^  <uuid>\\(.*\\)</uuid>$|\\1|p' | head -n 1)\necho \"$1 $2 $3 $4 $uuid\" >> {LOG}\n");
    fs::write(&path, script).map_err(Error::io("write", &path))?;
    set_mode(&path, 0o755)
}

/// What it was called with since the last time, in this view of the file system or in that of another process.
///
/// # Errors
/// A line that it does not write.
pub fn take(root: &Path) -> Result<Vec<Call>> {
    let path = root.join(LOG.trim_start_matches('/'));
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("read", &path)(e)),
    };
    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    text.lines().map(call).collect()
}

fn call(line: &str) -> Result<Call> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    match words.as_slice() {
        [arguments @ .., uuid] if arguments.len() == 4 => Ok(Call { arguments: arguments.to_vec(), uuid: uuid.clone() }),
        _ => Err(Error::answer("the other hook", format!("wrote {line:?}"))),
    }
}
