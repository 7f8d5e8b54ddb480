//! A domain that runs from a backup, seen from outside: its processes, its files, what must not be left of it.
//!
//! Processes are found in `/proc` by their arguments; nothing of Cairn's own records is believed but `cairn runs --json`.

use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::libvirt::{self, IMAGES};
use crate::process::{run_ok, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where records of runs are, for root.
pub const RECORDS: &str = "/var/lib/cairn/runs";
/// Where their sockets are.
pub const SOCKETS: &str = "/run/cairn/run";

/// Names of boot proofs' domains and images begin so.
pub const BOOT_PROOF: &str = "cairn-boot-";

/// For `qemu-img info`.
const INFO_LIMIT: Duration = Duration::from_secs(20);

/// A process around a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Keeps the others alive.
    Supervisor,
    /// Reads the store.
    Server,
    /// Between QEMU and the server.
    Daemon,
    /// libvirt itself.
    Libvirtd,
    /// `cairn daemon`, which no run needs.
    Service,
    /// The guest.
    Qemu,
}

/// Numbers of the living processes of a part, of all runs of this lab.
#[must_use]
pub fn pids(part: Part) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| is_part(*pid, part)).collect()
}

fn is_part(pid: i32, part: Part) -> bool {
    // A process that ended and was not waited for has no arguments any more.
    let Ok(bytes) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let args: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let program = Path::new(args[0].as_ref()).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let serves = args.get(1).is_some_and(|arg| arg == "serve-run");
    match part {
        Part::Supervisor => serves && !args.iter().any(|arg| arg == "--server"),
        Part::Server => serves && args.iter().any(|arg| arg == "--server"),
        Part::Daemon => program == "qemu-storage-daemon" && args.iter().any(|arg| arg.contains(SOCKETS)),
        Part::Libvirtd => program == "libvirtd",
        Part::Service => program == "cairn" && args.get(1).is_some_and(|arg| arg == "daemon"),
        // The lab's own guest has no path of a run among its arguments.
        Part::Qemu => {
            program.starts_with("qemu-system") && args.iter().any(|arg| arg.contains("-run,") || arg.contains("guest=run") || arg.contains(BOOT_PROOF))
        }
    }
}

/// Kills all processes of a part; gives how many there were.
pub fn kill_all(part: Part) -> usize {
    let pids = pids(part);
    for pid in &pids {
        // Gone already is as good.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    pids.len()
}

/// Starts the lab's libvirtd again and waits until it answers.
///
/// # Errors
/// It does not come up.
pub fn libvirtd_again(folder: &Path) -> Result<()> {
    let _ = wait_for("end of libvirtd", Duration::from_secs(10), Duration::from_millis(20), || Ok(pids(Part::Libvirtd).is_empty().then_some(())));
    libvirt::launch(&folder.join("log/libvirtd.log"))?;
    wait_for("libvirtd's answer", Duration::from_secs(60), Duration::from_millis(50), || {
        Ok(Domain::new("lab1").virsh(&["list"])?.status.success().then_some(()))
    })
}

/// The power fails: everything around runs dies at once, libvirt and their guests too; nothing of /run survives.
pub fn power_off() {
    // libvirtd first: it would note the end of the guests.
    for part in [Part::Libvirtd, Part::Qemu, Part::Service, Part::Supervisor, Part::Server, Part::Daemon, Part::Supervisor, Part::Server] {
        kill_all(part);
    }
}

/// What is left of runs: processes, sockets, records, images. Empty if nothing is.
#[must_use]
pub fn left_over() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in [Part::Supervisor, Part::Server, Part::Daemon] {
        found.extend(pids(part).iter().map(|pid| format!("{part:?} {pid}")));
    }
    for folder in [RECORDS, SOCKETS] {
        found.extend(entries(folder).iter().map(|path| path.display().to_string()));
    }
    found.extend(
        entries(IMAGES)
            .iter()
            .filter(|path| ["-run", BOOT_PROOF].iter().any(|part| path.to_string_lossy().contains(part)))
            .map(|path| path.display().to_string()),
    );
    found
}

fn entries(folder: &str) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A sum over all files that were on both disks from the start, read anew from the disks.
///
/// # Errors
/// The guest does not answer.
pub fn content_sum(domain: &Domain) -> Result<String> {
    domain.sh("echo 3 > /proc/sys/vm/drop_caches; for f in $(find /mnt/a/data /mnt/b/data -type f | sort); do md5sum \"$f\"; done | md5sum")
}

/// Records that the writer has finished on both disks at least: what a crash from now on must not lose.
///
/// # Errors
/// The guest does not answer.
pub fn acknowledged(domain: &Domain) -> Result<u64> {
    let text = domain.sh("wc -c < /mnt/b/journal")?;
    let bytes: u64 = text.trim().parse().map_err(|e| Error::answer("wc", format!("{e} in {text:?}")))?;
    // The last one may not be synced yet.
    Ok((bytes / crate::journal::RECORD_BYTES as u64).saturating_sub(1))
}

/// Target and image of each disk of the definition.
///
/// # Panics
/// libvirt does not say.
#[must_use]
pub fn disks_of(domain: &Domain) -> Vec<(String, String)> {
    let text = domain.virsh_ok(&["domblklist", "--inactive", domain.name()]).expect("domblklist");
    let pairs = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    pairs.map(|(target, image)| (target.to_owned(), image.trim().to_owned())).collect()
}

/// No definition and no image knows of a run any more, and every disk is where it should be, with the options of `lab1`'s.
///
/// # Panics
/// It is not so.
pub fn assert_ordinary(domain: &Domain, folder: Option<&Path>) {
    for args in [vec!["dumpxml", domain.name()], vec!["dumpxml", "--inactive", domain.name()]] {
        let xml = domain.virsh_ok(&args).expect("dumpxml");
        assert!(!xml.contains("nbd") && !xml.contains("/run/cairn"), "{args:?}: {xml}");
    }
    let (own, kept) = (driver_options("lab1"), driver_options(domain.name()));
    assert_eq!(kept, own, "driver options of the definition");
    for (target, image) in disks_of(domain) {
        let info = run_ok(std::process::Command::new("qemu-img").args(["info", "-U", &image]), INFO_LIMIT).expect("qemu-img info");
        assert!(!info.contains("backing file"), "{info}");
        assert!(folder.is_none_or(|folder| Path::new(&image).starts_with(folder)), "{target} is {image}");
    }
}

/// How a definition wants its disks' images opened and their errors handled.
fn driver_options(name: &str) -> Vec<String> {
    let xml = Domain::new(name).virsh_ok(&["dumpxml", "--inactive", name]).expect("dumpxml");
    let drivers: Vec<&str> = xml.lines().map(str::trim).filter(|line| line.starts_with("<driver name=")).collect();
    assert!(!drivers.is_empty(), "{xml}");
    let names = ["cache=", "error_policy=", "rerror_policy=", "discard="];
    drivers.iter().map(|d| d.split_whitespace().filter(|word| names.iter().any(|n| word.starts_with(n))).collect()).collect()
}
