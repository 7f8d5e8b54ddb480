//! qcow2 images are written by QEMU itself: `qemu-storage-daemon` opens the new image and takes our writes over NBD on a private socket.

use crate::failure::{FAILED, Failure, Outcome};
use cairn_nbd::{Address, ConnectOptions, Pool};
use cairn_store::BlockTarget;
use std::{
    io,
    ops::Range,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::runtime::{Handle, Runtime};

/// How long the daemon may take to open its socket.
const DAEMON_START_MS_MAX: u64 = 15_000;
/// How long one write or flush, making the image, or the daemon's end may take: all wait for the disk, and a slow one with a full cache needs
/// minutes. A daemon that dies ends the wait at once.
const DISK_WAIT_MS_MAX: u64 = 600_000;
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
        let mut options = ConnectOptions::new(Address::Unix(daemon.socket()), "target");
        options.limits.reply = Duration::from_millis(DISK_WAIT_MS_MAX);
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
    let fail = |why: String| Failure::new(FAILED, format!("qemu-img create {}: {why}", path.display()));
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=off"]).arg(path).arg(size_bytes.to_string());
    let mut child = Child::spawn(command).map_err(|e| fail(format!("{e} (is qemu-utils installed?)")))?;
    let deadline = Instant::now() + Duration::from_millis(DISK_WAIT_MS_MAX);
    loop {
        match child.0.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(fail(format!("it ended with {status}: {}", child.stderr()))),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_MS)),
            Ok(None) => return Err(fail(format!("it did not end in {} minutes", DISK_WAIT_MS_MAX / 60_000))),
            Err(e) => return Err(fail(e.to_string())),
        }
    }
}

/// A QEMU tool that works for us. Ctrl-C at the terminal is for us alone: a tool that died of it would turn an orderly end into an error.
/// It never outlives us, however we end.
struct Child(process::Child);

impl Child {
    fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let parent = nix::unistd::getpid();
        let tie = move || {
            // The signal comes when the thread that spawns ends: that is the main thread, which restores disks one after the other.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // Too late, if we ended in between.
            if nix::unistd::getppid() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        };
        // SAFETY: between fork and exec only prctl and getppid are called: both are plain system calls without locks or memory.
        unsafe { command.pre_exec(tie) };
        Ok(Self(command.spawn()?))
    }

    /// What it said before it ended; for a message only.
    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(pipe) = self.0.stderr.as_mut() {
            // What it said is for the message only.
            let _ = io::Read::read_to_string(pipe, &mut text);
        }
        text.trim().chars().take(500).collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // After a failure; one that ended is not there any more, and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
        let mut command = Command::new("qemu-storage-daemon");
        command.args(["--blockdev", &file.to_string(), "--nbd-server", &server.to_string(), "--export", &export.to_string()]);
        let child = Child::spawn(command).map_err(|e| {
            // An empty folder of ours; nothing else knows it.
            let _ = std::fs::remove_dir(&dir);
            fail(format!("{e} (it is in Debian's qemu-utils or qemu-system-common)"))
        })?;
        let mut daemon = Self { child, dir };
        let deadline = Instant::now() + Duration::from_millis(DAEMON_START_MS_MAX);
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

    fn socket(&self) -> PathBuf {
        self.dir.join("nbd")
    }

    /// SIGTERM makes it flush and close its images. One that lands on another of its threads only sets a flag and does not wake the main
    /// loop (QEMU 7.2), so it is sent until it has effect.
    fn stop(mut self) -> Outcome<()> {
        let fail = |why: String| Failure::new(FAILED, format!("qemu-storage-daemon: {why}"));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.0.id()).map_err(|e| fail(e.to_string()))?);
        let deadline = Instant::now() + Duration::from_millis(DISK_WAIT_MS_MAX);
        loop {
            // Our own child, not waited for yet: the number is still its own.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).map_err(|e| fail(e.to_string()))?;
            match self.child.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(fail(format!("it ended with {status}: {}", self.child.stderr()))),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(POLL_MS)),
                Ok(None) => return Err(fail("it did not end in time; the image may be incomplete".into())),
                Err(e) => return Err(fail(e.to_string())),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Names of ours that nobody else has; the daemon itself goes with its `Child`.
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
