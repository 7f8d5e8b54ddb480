//! `qemu-storage-daemon` with one image, served to us alone over NBD on a private socket: QEMU itself reads and writes qcow2, and keeps the dirty
//! bitmaps in it.
//!
//! Invariants
//! - Whoever connected closes before [`Daemon::stop`]: QEMU 7.2 hangs when a server ends while a client negotiates (docs/capture.md). The NBD server
//!   is never stopped by command; the daemon ends by SIGTERM, and its exit status is looked at.
//! - It never outlives us. A new image is worth nothing then, and the daemon is killed; one that exists has its bitmaps written at an orderly end
//!   only, so such a daemon gets SIGTERM, also from the kernel when we are killed.
//! - Every wait has a limit.

use crate::failure::{FAILED, Failure, Outcome};
use nix::sys::signal::Signal;
use std::{
    io,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};

/// How long the daemon may take to open its socket.
const START_MS_MAX: u64 = 15_000;
/// How long one write or flush, making the image, or the daemon's end may take: all wait for the disk, and a slow one with a full cache needs
/// minutes. A daemon that dies ends the wait at once.
pub const DISK_WAIT_MS_MAX: u64 = 600_000;
/// How long an orderly end may take after something else went wrong.
const GIVE_UP_MS_MAX: u64 = 60_000;
const POLL_MS: u64 = 20;
/// Name of the top image's export.
pub const TARGET: &str = "target";

/// One image of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// File or block device.
    pub path: PathBuf,
    /// QEMU's name of the format.
    pub format: String,
    /// Exported with this dirty bitmap.
    pub bitmap: Option<String>,
}

/// What happens to the daemon where it must end without being asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The image is thrown away.
    Kill,
    /// The image is kept: everything is written, bitmaps too.
    Orderly,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    dir: PathBuf,
    end: End,
}

impl Daemon {
    /// Opens a chain of images, top first; the lower ones are never written. The export of the top is [`TARGET`], those below with a bitmap are
    /// [`layer_export`].
    pub fn start(layers: &[Layer], writable: bool, end: End) -> Outcome<Self> {
        let image = layers.first().map(|l| l.path.display().to_string()).unwrap_or_default();
        let fail = |why: String| Failure::new(FAILED, format!("qemu-storage-daemon for {image}: {why}"));
        let dir = std::env::temp_dir().join(format!("cairn-qsd-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| fail(format!("{}: {e}", dir.display())))?;
        let mut command = Command::new("qemu-storage-daemon");
        let server = serde_json::json!({"addr": {"type": "unix", "path": dir.join("nbd").display().to_string()}});
        command.args(["--blockdev", &blockdev(layers, 0, writable).to_string(), "--nbd-server", &server.to_string()]);
        for (depth, layer) in layers.iter().enumerate().filter(|(depth, l)| *depth == 0 || l.bitmap.is_some()) {
            let name = layer_export(depth);
            let bitmaps: Vec<&str> = layer.bitmap.as_deref().into_iter().collect();
            let export =
                serde_json::json!({"type": "nbd", "id": name, "node-name": name, "name": name, "writable": writable && depth == 0, "bitmaps": bitmaps});
            command.args(["--export", &export.to_string()]);
        }
        let signal = if end == End::Kill { Signal::SIGKILL } else { Signal::SIGTERM };
        let child = Child::spawn(command, signal).map_err(|e| {
            // An empty folder of ours; nothing else knows it.
            let _ = std::fs::remove_dir(&dir);
            fail(format!("{e} (it is in Debian's qemu-utils or qemu-system-common)"))
        })?;
        let mut daemon = Self { child, dir, end };
        let deadline = Instant::now() + Duration::from_millis(START_MS_MAX);
        while !daemon.socket().exists() {
            if let Ok(Some(status)) = daemon.child.0.try_wait() {
                return Err(fail(format!("it ended with {status}: {}", daemon.child.stderr())));
            }
            if Instant::now() > deadline {
                return Err(fail("it opened no socket in time".into()));
            }
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        Ok(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("nbd")
    }

    /// Its process, and a text that its command line has and no other process's.
    pub fn identity(&self) -> (u32, String) {
        (self.child.0.id(), self.dir.display().to_string())
    }

    /// Ends it in good order, so that the image is complete. All clients are to be closed.
    pub fn stop(mut self) -> Outcome<()> {
        self.terminate(DISK_WAIT_MS_MAX)
    }

    /// SIGTERM makes it flush and close its images. One that comes just before it waits for events only sets a flag and does not wake it (QEMU
    /// 7.2), so it is sent until it has effect.
    fn terminate(&mut self, wait_ms_max: u64) -> Outcome<()> {
        let fail = |why: String| Failure::new(FAILED, format!("qemu-storage-daemon: {why}"));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.0.id()).map_err(|e| fail(e.to_string()))?);
        let deadline = Instant::now() + Duration::from_millis(wait_ms_max);
        loop {
            match self.child.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(fail(format!("it ended with {status}: {}", self.child.stderr()))),
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) => return Err(fail("it did not end in time; the image may be incomplete".into())),
                Err(e) => return Err(fail(e.to_string())),
            }
            // Our own child, not waited for yet: the number is still its own.
            nix::sys::signal::kill(pid, Signal::SIGTERM).map_err(|e| fail(e.to_string()))?;
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.end == End::Orderly
            && let Err(e) = self.terminate(GIVE_UP_MS_MAX)
        {
            tracing::warn!("{}", e.message);
        }
        // Names of ours that nobody else has; what is left of the daemon goes with its `Child`.
        let _ = std::fs::remove_file(self.socket());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Name of the node and export of an image of the chain.
pub fn layer_export(depth: usize) -> String {
    if depth == 0 { TARGET.into() } else { format!("layer{depth}") }
}

/// The chain is spelled out, so that no image names the next one: what is opened is what was looked at.
fn blockdev(layers: &[Layer], depth: usize, writable: bool) -> serde_json::Value {
    use std::os::unix::fs::FileTypeExt;
    let layer = &layers[depth];
    let read_only = !writable || depth > 0;
    let is_device = std::fs::metadata(&layer.path).is_ok_and(|m| m.file_type().is_block_device());
    let driver = if is_device { "host_device" } else { "file" };
    let mut node = serde_json::json!({"driver": layer.format, "node-name": layer_export(depth), "discard": "unmap", "detect-zeroes": "off",
        "read-only": read_only, "file": {"driver": driver, "filename": layer.path.display().to_string(), "discard": "unmap", "read-only": read_only}});
    if layer.format != "raw" {
        node["backing"] = if depth + 1 < layers.len() { blockdev(layers, depth + 1, writable) } else { serde_json::Value::Null };
    }
    node
}

/// A QEMU tool that works for us. Ctrl-C at the terminal is for us alone: a tool that died of it would turn an orderly end into an error.
pub struct Child(pub process::Child);

impl Child {
    /// Starts it; the kernel sends `on_death` when we are gone.
    pub fn spawn(mut command: Command, on_death: Signal) -> io::Result<Self> {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let parent = nix::unistd::getpid();
        let tie = move || {
            // The signal comes when the thread that spawns ends: that is the main thread, which does one disk after the other.
            nix::sys::prctl::set_pdeathsig(on_death)?;
            // Too late, if we ended in between.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only prctl and getppid are called: both are plain system calls without locks or memory.
        unsafe { command.pre_exec(tie) };
        Ok(Self(command.spawn()?))
    }

    /// What it said before it ended; for a message only.
    pub fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(pipe) = self.0.stderr.as_mut() {
            // What it said is for the message only.
            let _ = io::Read::read_to_string(pipe, &mut text);
        }
        text.trim().chars().take(500).collect()
    }

    /// Waits for its good end.
    pub fn finish(mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_millis(DISK_WAIT_MS_MAX);
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended with {status}: {}", self.stderr())),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_MS)),
                Ok(None) => return Err(format!("it did not end in {} minutes", DISK_WAIT_MS_MAX / 60_000)),
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After a failure; one that ended is not there any more, and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `qemu-img` to its end.
pub fn qemu_img(args: &[&str], image: &Path) -> Outcome<()> {
    let fail = |why: String| Failure::new(FAILED, format!("qemu-img {} {}: {why}", args.first().unwrap_or(&""), image.display()));
    let mut command = Command::new("qemu-img");
    command.args(args);
    let child = Child::spawn(command, Signal::SIGKILL).map_err(|e| fail(format!("{e} (is qemu-utils installed?)")))?;
    child.finish().map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_of_a_chain_is_written() {
        let layer = |path: &str, bitmap: Option<&str>| Layer { path: path.into(), format: "qcow2".into(), bitmap: bitmap.map(str::to_owned) };
        let chain = [layer("/i/top", Some("b")), layer("/i/base", None)];
        let node = blockdev(&chain, 0, true);
        assert_eq!((&node["read-only"], &node["node-name"]), (&false.into(), &TARGET.into()));
        assert_eq!((&node["backing"]["read-only"], &node["backing"]["file"]["read-only"]), (&true.into(), &true.into()));
        assert!(node["backing"]["backing"].is_null() && node["backing"].as_object().is_some_and(|o| o.contains_key("backing")));
        assert_eq!(blockdev(&chain, 0, false)["file"]["read-only"], true);
    }
}
