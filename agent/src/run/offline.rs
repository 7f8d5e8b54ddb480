//! Keeping a domain that is off: `qemu-img` reads the point through the run's server.
//!
//! - in place: `qemu-img rebase -b ''` fills the overlay and takes its backing file away last; until `filled` is recorded it is done again
//! - elsewhere: `qemu-img convert` into the new image; the overlay is the disk until the definition says otherwise
//!
//! QEMU's image locks keep a guest from starting meanwhile, and this from beginning while a guest runs.

use super::{
    attempts, backing, copy, detached, finish,
    guest::{Step, Work as Around},
    keep, log,
    record::Phase,
};
use crate::failure::{FAILED, Failure, Outcome};
use std::{
    io::Read,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

/// A qemu-img at work; dropped, it is killed.
pub struct Work {
    target: String,
    child: Child,
}

impl Work {
    fn start(target: &str, mut command: Command) -> Outcome<Self> {
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let tie = || Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?);
        // SAFETY: between fork and exec only prctl is called: a plain system call without locks or memory.
        unsafe { command.pre_exec(tie) };
        let child = command.spawn().map_err(|e| Failure::new(FAILED, format!("cannot start qemu-img: {e} (is qemu-utils installed?)")))?;
        Ok(Self { target: target.to_owned(), child })
    }

    /// Whether it has ended well; `None` while it works.
    fn ended(&mut self) -> Outcome<Option<()>> {
        let fail = |why: String| Failure::new(FAILED, format!("qemu-img, disk {}: {why}", self.target));
        match self.child.try_wait().map_err(|e| fail(e.to_string()))? {
            None => Ok(None),
            Some(status) if status.success() => Ok(Some(())),
            Some(status) => {
                let mut said = String::new();
                if let Some(pipe) = self.child.stderr.as_mut() {
                    // For the message only.
                    let _ = pipe.take(4096).read_to_string(&mut said);
                }
                Err(fail(format!("it ended with {status}: {}", said.trim())))
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // One that ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What to do about an image that another process holds though libvirt says that the domain is off: libvirt 9.0 that is killed while a copy begins
/// writes a state that it cannot read again (`unknown mirror job type ''`), and does not know the running QEMU any more.
fn explain(f: Failure, image: &Path) -> Failure {
    if !f.message.contains("lock") {
        return f;
    }
    let image_text = image.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holder = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).find(|pid| {
        let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let args = String::from_utf8_lossy(&args);
        args.split('\0').next().is_some_and(|program| program.contains("qemu-system")) && args.contains(&image_text)
    });
    match holder {
        None => f,
        Some(pid) => Failure::new(
            f.code,
            format!(
                "libvirt says that the domain is off, but QEMU process {pid} still has {image_text}: libvirt lost sight of it when its daemon died. \
                 End it ('kill {pid}': as if its power failed), and this goes on by itself or with 'cairn keep'"
            ),
        ),
    }
}

/// Whether a qcow2 image has a backing file, by its own header.
pub fn has_backing_file(image: &Path) -> Outcome<bool> {
    let fail = |why: String| Failure::new(FAILED, format!("qemu-img info {}: {why}", image.display()));
    let mut command = Command::new("qemu-img");
    command.args(["info", "-U", "-f", "qcow2", "--output=json"]).arg(image);
    let output = command.stdin(Stdio::null()).output().map_err(|e| fail(e.to_string()))?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|e| fail(e.to_string()))?;
    Ok(!info["backing-filename"].is_null())
}

/// One step of a keep in place.
pub fn rebase(around: &mut Around<'_>) -> Outcome<Step> {
    let mut done_bytes = 0;
    for index in 0..around.record.disks.len() {
        let disk = &around.record.disks[index];
        if disk.filled {
            done_bytes += disk.size_bytes;
            continue;
        }
        return fill(around, index, done_bytes);
    }
    keep::tell(around, done_bytes);
    Ok(Step::Done)
}

/// The same for one disk that nobody uses: of a domain that is off, or detached.
pub fn fill(around: &mut Around<'_>, index: usize, done_bytes: u64) -> Outcome<Step> {
    let disk = around.record.disks[index].clone();
    if let Some(work) = around.memory.offline.as_mut().filter(|w| w.target == disk.target) {
        let ended = work.ended();
        if let Ok(None) = ended {
            let filled = std::fs::metadata(&disk.overlay).map_or(0, |m| m.blocks() * 512);
            keep::tell(around, done_bytes + filled.min(disk.size_bytes));
            return Ok(Step::Again);
        }
        around.memory.offline = None;
        ended.map_err(|f| explain(f, &disk.overlay))?;
        copy::sync(&disk.overlay)?;
        around.record.disks[index].filled = true;
        around.folder.save(around.record)?;
        return Ok(Step::Again);
    }
    if !disk.overlay.exists() && detached::is_out(around.domain, &disk.target)? {
        log::say(format!("keep: {} was detached, and its image is gone", disk.target));
        around.record.disks[index].filled = true;
        around.folder.save(around.record)?;
        return Ok(Step::Again);
    }
    keep::refuse_saved(around)?;
    if !attempts::is_due(around, &disk.target, &disk.overlay)? {
        return Ok(Step::Again);
    }
    backing::header(around.record, &disk)?;
    log::say(format!("keep: filling {}, which nobody uses", disk.target));
    let mut command = Command::new("qemu-img");
    // What is written counts once the process has ended well; the header changes last.
    command.args(["rebase", "-q", "-t", "none", "-f", "qcow2", "-b", ""]).arg(&disk.overlay);
    around.memory.offline = Some(Work::start(&disk.target, command)?);
    Ok(Step::Again)
}

/// One step of a keep elsewhere, for one disk in phase `Copying`.
pub fn convert(around: &mut Around<'_>, index: usize, done_bytes: u64) -> Outcome<Step> {
    let disk = around.record.disks[index].clone();
    let copy = disk.copy.clone().ok_or_else(|| Failure::new(FAILED, format!("disk {} has no destination", disk.target)))?;
    if let Some(work) = around.memory.offline.as_mut().filter(|w| w.target == disk.target) {
        match work.ended() {
            Ok(None) => {
                let filled = std::fs::metadata(&copy.path).map_or(0, |m| m.blocks() * 512);
                keep::tell(around, done_bytes + filled.min(disk.size_bytes));
                return Ok(Step::Again);
            }
            Ok(Some(())) => {
                around.memory.offline = None;
                // Durable before the definition names it.
                copy::sync(&copy.path)?;
                finish::define_at(around.host, around.domain, &disk.target, &copy)?;
                around.record.disks[index].phase = Phase::Pivoted;
                around.folder.save(around.record)?;
                return Ok(Step::Again);
            }
            Err(f) => {
                around.memory.offline = None;
                return Err(explain(f, &disk.overlay));
            }
        }
    }
    keep::refuse_saved(around)?;
    if !copy::attempt(around, &disk.target, &copy, disk.size_bytes)? {
        return Ok(Step::Again);
    }
    log::say(format!("keep: copying {} while the domain is off", disk.target));
    copy::make_image(&copy, disk.size_bytes)?;
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-q", "-n", "-t", "none", "-f", "qcow2", "-O", &copy.format]).arg(&disk.overlay).arg(&copy.path);
    around.memory.offline = Some(Work::start(&disk.target, command)?);
    Ok(Step::Again)
}
