//! The storage daemon of a run: QEMU's own NBD client with a patience that libvirt before 9.2 cannot be told of.
//!
//! Invariants
//! - It is never told to stop its NBD server: QEMU 7.2 hangs if a client negotiates at that moment (docs/capture.md). It is killed when nobody
//!   needs it any more.
//! - It runs as QEMU's user, opens no file, and writes nothing.
//! - It starts after the server: its first connection is not retried for long.

use super::{folder::RunSockets, launch::detach, log, record::Record};
use crate::failure::{FAILED, Failure, Outcome};
use std::{
    fs::File,
    os::unix::{fs::MetadataExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

/// How long reads wait for a server that went away, seconds. Reads that wait hold QEMU's main loop up when it is told to pause the guest, so this
/// is no longer than an admin's patience; after it the guest is paused by its own read, and the supervisor lets it go on.
pub const RECONNECT_S: u32 = 30;
/// How long its first connection is tried, seconds.
const OPEN_TIMEOUT_S: u32 = 10;
/// Sockets of 0600.
const UMASK: u32 = 0o177;

/// Starts it; its socket appears a moment later.
pub fn start(record: &Record, sockets: &RunSockets, log: &File) -> Outcome<Child> {
    let fail = |e: &dyn std::fmt::Display| Failure::new(FAILED, format!("cannot start qemu-storage-daemon: {e} (it is in Debian's qemu-system-common)"));
    let mut command = Command::new("qemu-storage-daemon");
    for disk in &record.disks {
        let node = serde_json::json!({
            "driver": "nbd", "node-name": disk.target, "read-only": true, "export": disk.target, "reconnect-delay": RECONNECT_S,
            "open-timeout": OPEN_TIMEOUT_S, "server": {"type": "unix", "path": sockets.server().display().to_string()},
        });
        command.args(["--blockdev", &node.to_string()]);
    }
    let server = serde_json::json!({"addr": {"type": "unix", "path": sockets.daemon().display().to_string()}});
    command.args(["--nbd-server", &server.to_string()]);
    for disk in &record.disks {
        let export = serde_json::json!({"type": "nbd", "id": disk.target, "node-name": disk.target, "name": disk.target, "writable": false});
        command.args(["--export", &export.to_string()]);
    }
    let clone = || log.try_clone().map_err(|e| fail(&e));
    command.current_dir("/").stdin(Stdio::null()).stdout(clone()?).stderr(clone()?);
    if let Some((uid, gid)) = record.owner.filter(|_| nix::unistd::geteuid().is_root()) {
        command.uid(uid).gid(gid);
    }
    detach(&mut command);
    let umask = || {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(UMASK));
        Ok(())
    };
    // SAFETY: between fork and exec only umask is called: a plain system call without locks or memory.
    unsafe { command.pre_exec(umask) };
    command.spawn().map_err(|e| fail(&e))
}

/// Whether somebody listens on a socket.
pub fn answers(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// A socket with more rights than it should have is not handed to a guest.
pub fn check_rights(socket: &Path) -> Outcome<()> {
    let mode = std::fs::metadata(socket).map_err(|e| Failure::new(FAILED, format!("{}: {e}", socket.display())))?.mode();
    if mode & 0o077 != 0 {
        log::say(format!("{} has mode {:o}", socket.display(), mode & 0o7777));
        return Err(Failure::new(FAILED, format!("{} can be opened by others (mode {:o})", socket.display(), mode & 0o777)));
    }
    Ok(())
}
