//! qcow2 images are written by QEMU itself: `qemu-storage-daemon` opens the new image and takes our writes over NBD on a private socket.

use crate::failure::{FAILED, Failure, Outcome};
use cairn_nbd::{Address, ConnectOptions, Pool};
use cairn_store::BlockTarget;
use std::{
    io,
    ops::Range,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::runtime::{Handle, Runtime};

/// How long the daemon may take to open its socket, or to end.
const DAEMON_WAIT_MS_MAX: u64 = 15_000;
const POLL_MS: u64 = 20;
const CONNECTIONS: usize = 4;

/// A new qcow2 image that is being written.
pub struct Image {
    daemon: Daemon,
    target: NbdTarget,
}

impl Image {
    /// Creates the image and starts the daemon.
    pub fn create(path: &Path, size_bytes: u64, runtime: &Runtime) -> Outcome<Self> {
        create_image(path, size_bytes)?;
        let daemon = Daemon::start(path)?;
        let options = ConnectOptions::new(Address::Unix(daemon.socket()), "target");
        let pool = runtime
            .block_on(Pool::connect(options, CONNECTIONS))
            .map_err(|e| Failure::new(FAILED, format!("cannot write {} through qemu-storage-daemon: {e}", path.display())))?;
        Ok(Self { daemon, target: NbdTarget { pool, runtime: runtime.handle().clone(), size_bytes } })
    }

    /// Where the disk's content goes.
    pub fn target(&self) -> &dyn BlockTarget {
        &self.target
    }

    /// Ends the daemon in good order, so that the image is complete.
    pub fn close(self) -> Outcome<()> {
        self.target.runtime.block_on(self.target.pool.close());
        self.daemon.stop()
    }
}

fn create_image(path: &Path, size_bytes: u64) -> Outcome<()> {
    let out = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off"]).arg(path).arg(size_bytes.to_string()).output();
    let fail = |why: String| Failure::new(FAILED, format!("qemu-img create {}: {why}", path.display()));
    let out = out.map_err(|e| fail(format!("{e} (is qemu-utils installed?)")))?;
    if out.status.success() { Ok(()) } else { Err(fail(String::from_utf8_lossy(&out.stderr).trim().to_owned())) }
}

struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl Daemon {
    fn start(image: &Path) -> Outcome<Self> {
        let fail = |why: String| Failure::new(FAILED, format!("qemu-storage-daemon for {}: {why}", image.display()));
        let dir = std::env::temp_dir().join(format!("cairn-qsd-{}", uuid::Uuid::new_v4().simple()));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|e| fail(format!("{}: {e}", dir.display())))?;
        let file = serde_json::json!({"driver": "qcow2", "node-name": "target", "discard": "unmap", "detect-zeroes": "off",
            "file": {"driver": "file", "filename": image.display().to_string(), "discard": "unmap"}});
        let export = serde_json::json!({"type": "nbd", "id": "target", "node-name": "target", "name": "target", "writable": true});
        let server = serde_json::json!({"addr": {"type": "unix", "path": dir.join("nbd").display().to_string()}});
        let child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &file.to_string(), "--nbd-server", &server.to_string(), "--export", &export.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|e| {
            // An empty folder of ours; nothing else knows it.
            let _ = std::fs::remove_dir(&dir);
            fail(format!("{e} (it is in Debian's qemu-utils or qemu-system-common)"))
        })?;
        let mut daemon = Self { child, dir };
        let deadline = Instant::now() + Duration::from_millis(DAEMON_WAIT_MS_MAX);
        while !daemon.socket().exists() {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                return Err(fail(format!("it ended with {status}: {}", daemon.stderr())));
            }
            if Instant::now() > deadline {
                return Err(fail("it opened no socket in time".into()));
            }
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("nbd")
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(pipe) = self.child.stderr.as_mut() {
            // What it said is for the message only.
            let _ = io::Read::read_to_string(pipe, &mut text);
        }
        text.trim().chars().take(500).collect()
    }

    /// SIGTERM makes it flush and close its images. One that lands on another of its threads only sets a flag and does not wake the main
    /// loop (QEMU 7.2), so it is sent until it has effect.
    fn stop(mut self) -> Outcome<()> {
        let fail = |why: String| Failure::new(FAILED, format!("qemu-storage-daemon: {why}"));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).map_err(|e| fail(e.to_string()))?);
        let deadline = Instant::now() + Duration::from_millis(DAEMON_WAIT_MS_MAX);
        loop {
            // Our own child, not waited for yet: the number is still its own.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(|e| fail(e.to_string()))?;
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(fail(format!("it ended with {status}: {}", self.stderr()))),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_MS)),
                Ok(None) => return Err(fail("it did not end in time; the image may be incomplete".into())),
                Err(e) => return Err(fail(e.to_string())),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After a failure; a daemon that ended is not there any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(self.socket());
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// An NBD export as a target, for plain threads.
struct NbdTarget {
    pool: Pool,
    runtime: Handle,
    size_bytes: u64,
}

impl BlockTarget for NbdTarget {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.runtime.block_on(self.pool.write_at(offset, buf)).map_err(io::Error::other)
    }
    fn zero(&self, range: Range<u64>) -> io::Result<()> {
        self.runtime.block_on(self.pool.write_zeroes(range)).map_err(io::Error::other)
    }
    fn flush(&self) -> io::Result<()> {
        self.runtime.block_on(self.pool.flush()).map_err(io::Error::other)
    }
    /// A new image reads as zero.
    fn starts_zeroed(&self) -> bool {
        true
    }
}
