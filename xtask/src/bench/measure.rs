//! Measuring a command: wall time, processor time, peak memory; a cold page cache before, the size of a folder after.
//!
//! Invariants: every wait has a limit; figures of a command that failed are never returned.
//! A child's peak memory cannot be seen below this program's own at the moment it started, so nothing large is ever held here.

use crate::error::{Error, Result};
use cairn_lab::process::{command_line, exit_code};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A step that takes longer has failed.
const STEP_LIMIT: Duration = Duration::from_secs(3600);
const POLL: Duration = Duration::from_millis(2);
const LOG_TAIL_BYTES: usize = 1500;
const COMPARE_BYTES: usize = 1 << 20;
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// What a command used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// From start to end, seconds.
    pub wall_s: f64,
    /// User and system time of all its threads and children, seconds.
    pub cpu_s: f64,
    /// Largest resident set, bytes.
    pub rss_bytes: u64,
}

impl Usage {
    /// One command after the other.
    pub fn then(self, next: Self) -> Self {
        Self { wall_s: self.wall_s + next.wall_s, cpu_s: self.cpu_s + next.cpu_s, rss_bytes: self.rss_bytes.max(next.rss_bytes) }
    }
}

/// The peak memory of a child in MiB, for a table. One that does not exceed this program's own tells no more than that it needed no more.
pub fn peak_mib(rss_bytes: u64) -> String {
    // SAFETY: rusage is plain numbers; all zero is a valid one.
    let mut own: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut own) };
    let at_most = if rss_bytes <= own.ru_maxrss.unsigned_abs() * 1024 { "at most " } else { "" };
    format!("{at_most}{}", rss_bytes >> 20)
}

/// Runs a command with its output in `log`; anything but exit code 0 is an error that ends with what it said last.
pub fn measured(command: &mut Command, log: &Path) -> Result<Usage> {
    let line = command_line(command);
    let out = File::create(log).map_err(|e| Error::failed(format!("cannot create {}: {e}", log.display())))?;
    let err = out.try_clone().map_err(|e| Error::failed(format!("cannot open {} twice: {e}", log.display())))?;
    let start = Instant::now();
    // wait4 below reaps it, so `Child::wait` is never called.
    #[allow(clippy::zombie_processes, reason = "reaped by wait4")]
    let mut child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(|e| Error::failed(format!("cannot start `{line}`: {e}")))?;
    let pid = libc::pid_t::try_from(child.id()).expect("a process id is a pid_t");
    loop {
        if let Some((status, usage)) = wait4(pid, start)? {
            let said = || log_tail(log);
            return if status.success() { Ok(usage) } else { Err(Error::failed(format!("`{line}` ended with exit code {}:\n{}", exit_code(status), said()))) };
        }
        if start.elapsed() > STEP_LIMIT {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::failed(format!("`{line}` did not end within {} s and was killed:\n{}", STEP_LIMIT.as_secs(), log_tail(log))));
        }
        std::thread::sleep(POLL);
    }
}

fn wait4(pid: libc::pid_t, start: Instant) -> Result<Option<(ExitStatus, Usage)>> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; all zero is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to two locals of the right types, and the child is ours and not reaped yet.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match reaped {
        0 => Ok(None),
        n if n == pid => {
            let seconds = |t: libc::timeval| Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_usec).unwrap_or(0) * 1000).as_secs_f64();
            let cpu_s = seconds(usage.ru_utime) + seconds(usage.ru_stime);
            let rss_bytes = usage.ru_maxrss.unsigned_abs() * 1024;
            Ok(Some((ExitStatus::from_raw(status), Usage { wall_s: start.elapsed().as_secs_f64(), cpu_s, rss_bytes })))
        }
        _ => Err(Error::failed(format!("cannot wait for process {pid}: {}", std::io::Error::last_os_error()))),
    }
}

fn log_tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).trim().to_owned()
}

/// Writes everything back and empties the page cache; `false` where that is not allowed (not root).
pub fn cold_cache() -> bool {
    // SAFETY: sync takes nothing and always succeeds.
    unsafe { libc::sync() };
    fs::write(DROP_CACHES, "3\n").is_ok()
}

/// Sizes of all files below a folder, hard links once.
pub fn folder_bytes(dir: &Path) -> Result<u64> {
    let (mut sum, mut seen, mut folders) = (0, HashSet::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |e: std::io::Error| Error::failed(format!("cannot read {}: {e}", folder.display()));
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let meta = entry.metadata().map_err(failed)?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else if seen.insert(meta.ino()) {
                sum += meta.len();
            }
        }
    }
    Ok(sum)
}

/// The first byte at which two files differ, `None` if they are equal.
pub fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>> {
    let open = |p: &Path| File::open(p).map_err(|e| Error::failed(format!("cannot open {}: {e}", p.display())));
    let read = |f: &mut File, buf: &mut Vec<u8>| {
        buf.clear();
        f.take(COMPARE_BYTES as u64).read_to_end(buf).map_err(|e| Error::failed(format!("cannot compare {} and {}: {e}", a.display(), b.display())))
    };
    let (mut fa, mut fb) = (open(a)?, open(b)?);
    let (mut ba, mut bb, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        let (na, _) = (read(&mut fa, &mut ba)?, read(&mut fb, &mut bb)?);
        if ba != bb {
            let same = ba.iter().zip(&bb).take_while(|(x, y)| x == y).count();
            return Ok(Some(at + same as u64));
        }
        if na == 0 {
            return Ok(None);
        }
        at += na as u64;
    }
}

/// The machine's load of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("cairn-bench-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("makes a folder");
        dir
    }

    #[test]
    fn a_command_is_measured_and_its_failure_told() {
        let dir = folder("measure");
        let log = dir.join("log");
        let usage = measured(Command::new("sh").args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]), &log).expect("runs");
        assert!(usage.cpu_s > 0.0 && usage.wall_s > 0.0 && usage.rss_bytes > 100_000, "{usage:?}");
        assert!(peak_mib(1 << 20) == "at most 1" && peak_mib(1 << 40) == (1 << 20).to_string());
        let failed = measured(Command::new("sh").args(["-c", "echo because; exit 3"]), &log).expect_err("fails");
        assert!(failed.report().contains("exit code 3") && failed.report().contains("because"), "{}", failed.report());
        fs::remove_dir_all(dir).expect("removes");
    }

    #[test]
    fn differences_are_found_and_links_counted_once() {
        let dir = folder("compare");
        let (a, b) = (dir.join("a"), dir.join("b"));
        let mut content = vec![7; COMPARE_BYTES + 100];
        fs::write(&a, &content).expect("writes");
        fs::write(&b, &content).expect("writes");
        assert_eq!(first_difference(&a, &b).expect("compares"), None);
        content[COMPARE_BYTES + 3] = 8;
        fs::write(&b, &content).expect("writes");
        assert_eq!(first_difference(&a, &b).expect("compares"), Some(COMPARE_BYTES as u64 + 3));
        fs::write(&b, &content[..50]).expect("writes");
        assert_eq!(first_difference(&a, &b).expect("compares"), Some(50));
        fs::hard_link(&a, dir.join("c")).expect("links");
        assert_eq!(folder_bytes(&dir).expect("sums"), COMPARE_BYTES as u64 + 150);
        fs::remove_dir_all(dir).expect("removes");
    }
}
