//! `qemu-storage-daemon` with one image, served to us alone over NBD on a private socket: QEMU itself reads and writes qcow2, and keeps the dirty
//! bitmaps in it.
//!
//! Invariants
//! - Whoever connected closes before [`Daemon::stop`]: QEMU 7.2 hangs when a server ends while a client negotiates (docs/capture.md). The NBD server
//!   is never stopped by command; the daemon ends by SIGTERM, and its exit status is looked at.
//! - It never outlives us. A new image is worth nothing then, and the daemon is killed; one that exists has its bitmaps written at an orderly end
//!   only, so such a daemon gets SIGTERM, also from the kernel when we are killed.
//! - Every wait has a limit.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::ToolError;
use super::child::{Child, DISK_WAIT_MS_MAX, POLL_MS};

const PROGRAM: &str = "qemu-storage-daemon";
/// In its folder: where it listens, and its process id, written when it does.
const SOCKET: &str = "nbd";
const READY: &str = "pid";
const PACKAGE: &str = "it is in Debian's qemu-utils or qemu-system-common";

/// How long the daemon may take to open its socket.
const START_MS_MAX: u64 = 15_000;
/// How long an orderly end may take after something else went wrong.
const GIVE_UP_MS_MAX: u64 = 60_000;
/// Name of the folder of a daemon's socket; behind it come the process that made it and a random text.
const DIR_PREFIX: &str = "cairn-qsd-";
/// A folder that is younger is left alone, whoever made it: its process may be one that cannot be seen from here.
const SWEEP_AGE: Duration = Duration::from_secs(60);
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

/// How the images are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To be written: nobody else may have them.
    Write,
    /// To be read: nobody may write to them.
    Read,
    /// To be read without a lock (`force-share` on the format's node and on the file's): a domain that starts meanwhile does, and whoever reads has
    /// to find out by other means.
    Share,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    image: PathBuf,
    dir: PathBuf,
    end: End,
}

impl Daemon {
    /// Opens a chain of images, top first; the lower ones are never written. The export of the top is [`TARGET`], those below with a bitmap are
    /// [`layer_export`].
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn start(layers: &[Layer], access: Access, end: End) -> Result<Self, ToolError> {
        let image = layers.first().map(|layer| layer.path.clone()).unwrap_or_default();
        let fail = |problem: String| ToolError::Failed { program: PROGRAM, image: image.clone(), problem };
        sweep();
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| fail(format!("{}: {e}", dir.display())))?;
        let mut command = Command::new(PROGRAM);
        let server = serde_json::json!({"addr": {"type": "unix", "path": dir.join(SOCKET).display().to_string()}});
        let ready = dir.join(READY);
        command.args(["--blockdev", &blockdev(layers, 0, access).to_string(), "--nbd-server", &server.to_string()]).arg("--pidfile").arg(&ready);
        for (depth, layer) in layers.iter().enumerate().filter(|(depth, l)| *depth == 0 || l.bitmap.is_some()) {
            let (name, writable) = (layer_export(depth), access == Access::Write && depth == 0);
            let bitmaps: Vec<&str> = layer.bitmap.as_deref().into_iter().collect();
            let export = serde_json::json!({"type": "nbd", "id": name, "node-name": name, "name": name, "writable": writable, "bitmaps": bitmaps});
            command.args(["--export", &export.to_string()]);
        }
        let signal = if end == End::Kill { Signal::SIGKILL } else { Signal::SIGTERM };
        let child = Child::spawn(command, signal).map_err(|source| {
            // An empty folder of ours; nothing else knows it.
            let _ = std::fs::remove_dir(&dir);
            ToolError::Start { program: PROGRAM, image: image.clone(), package: PACKAGE, source }
        })?;
        let mut daemon = Self { child, image: image.clone(), dir, end };
        let deadline = Instant::now() + Duration::from_millis(START_MS_MAX);
        // The socket's name is there before the daemon listens, and before its exports; this file is written when all of it is ready.
        while !ready.exists() {
            if let Ok(Some(status)) = daemon.child.0.try_wait() {
                return Err(fail(format!("it ended with {status}: {}", daemon.child.stderr())));
            }
            if Instant::now() > deadline {
                return Err(fail("it was not ready in time".into()));
            }
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        Ok(daemon)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// Its process, and a text that its command line has and no other process's.
    #[must_use]
    pub fn identity(&self) -> (u32, String) {
        (self.child.0.id(), self.dir.display().to_string())
    }

    /// Ends it in good order, so that the image is complete. All clients are to be closed.
    ///
    /// # Errors
    /// [`ToolError`]; the image may be incomplete.
    pub fn stop(mut self) -> Result<(), ToolError> {
        self.terminate(DISK_WAIT_MS_MAX)
    }

    /// SIGTERM makes it flush and close its images. One that comes just before it waits for events only sets a flag and does not wake it (QEMU
    /// 7.2), so it is sent until it has effect.
    fn terminate(&mut self, wait_ms_max: u64) -> Result<(), ToolError> {
        let image = self.image.clone();
        let fail = |problem: String| ToolError::Failed { program: PROGRAM, image: image.clone(), problem };
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
            tracing::warn!("{e}");
        }
        // Names of ours that nobody else has; what is left of the daemon goes with its `Child`.
        remove(&self.dir);
    }
}

/// A daemon's folder, as far as it is what a daemon leaves.
fn remove(dir: &Path) {
    for name in [SOCKET, READY] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    let _ = std::fs::remove_dir(dir);
}

/// Removes folders whose makers were killed.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(DIR_PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        let is_old = entry.metadata().and_then(|meta| meta.modified()).is_ok_and(|made| made.elapsed().is_ok_and(|age| age > SWEEP_AGE));
        if maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) && is_old {
            // Those of other users stay.
            remove(&entry.path());
        }
    }
}

/// Name of the node and export of an image of the chain.
#[must_use]
pub fn layer_export(depth: usize) -> String {
    if depth == 0 { TARGET.into() } else { format!("layer{depth}") }
}

/// The chain is spelled out, so that no image names the next one: what is opened is what was looked at.
fn blockdev(layers: &[Layer], depth: usize, access: Access) -> serde_json::Value {
    let layer = &layers[depth];
    let read_only = access != Access::Write || depth > 0;
    let mut file =
        serde_json::json!({"driver": protocol(&layer.path), "filename": layer.path.display().to_string(), "discard": "unmap", "read-only": read_only});
    let mut node =
        serde_json::json!({"driver": layer.format, "node-name": layer_export(depth), "discard": "unmap", "detect-zeroes": "off", "read-only": read_only});
    if access == Access::Share {
        file["force-share"] = true.into();
        node["force-share"] = true.into();
        if is_block_device(&layer.path) {
            // Past the page cache of this host: another one may have written to a shared device since this one read it.
            file["cache"] = serde_json::json!({"direct": true});
        }
    }
    node["file"] = file;
    if layer.format != "raw" {
        node["backing"] = if depth + 1 < layers.len() { blockdev(layers, depth + 1, access) } else { serde_json::Value::Null };
    }
    node
}

/// QEMU's driver for what lies at a path.
pub(super) fn protocol(path: &Path) -> &'static str {
    if is_block_device(path) { "host_device" } else { "file" }
}

fn is_block_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_top_of_a_chain_is_written() {
        let layer = |path: &str, bitmap: Option<&str>| Layer { path: path.into(), format: "qcow2".into(), bitmap: bitmap.map(str::to_owned) };
        let chain = [layer("/i/top", Some("b")), layer("/i/base", None)];
        let node = blockdev(&chain, 0, Access::Write);
        assert_eq!((&node["read-only"], &node["node-name"]), (&false.into(), &TARGET.into()));
        assert_eq!((&node["backing"]["read-only"], &node["backing"]["file"]["read-only"]), (&true.into(), &true.into()));
        assert!(node["backing"]["backing"].is_null() && node["backing"].as_object().is_some_and(|o| o.contains_key("backing")));
        assert_eq!(blockdev(&chain, 0, Access::Read)["file"]["read-only"], true);
        assert!(blockdev(&chain, 0, Access::Read)["file"]["force-share"].is_null());
        let shared = blockdev(&chain, 0, Access::Share);
        for node in [&shared, &shared["file"], &shared["backing"], &shared["backing"]["file"]] {
            assert_eq!((&node["read-only"], &node["force-share"]), (&true.into(), &true.into()), "{node}");
        }
    }
}
