//! The note that disks are half restored: below the state folder, one file a domain or image.
//!
//! Invariants
//! - It is durable before the first byte is written, and goes when the last disk is whole.
//! - It never lies to a guest's harm: without it (a deleted state folder) a backup saves what is there; with it nothing is saved until the restore
//!   is done.

use crate::failure::{BUSY, FAILED, Failure, Outcome};
use nix::sys::signal::{Signal, kill};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const FOLDER: &str = "in-place";
/// How the key of an image begins.
const IMAGE_KEY: &str = "image-";
/// How long a storage daemon that an earlier restore left may take to write its bitmaps and end.
const LEFTOVER_MS_MAX: u64 = 60_000;
const POLL_MS: u64 = 50;

/// A restore in place that is at work or broke off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The domain's UUID, or a key of an image's path.
    pub key: String,
    /// For people: the domain's name, or the image's path.
    pub name: String,
    /// The point that was to come.
    pub point: String,
    /// Name that the point is listed under.
    pub point_name: String,
    /// Disks that are not whole yet.
    pub disks: Vec<String>,
    /// Process id of the storage daemon at work, and what its command line has.
    pub daemon: Option<(u32, String)>,
}

/// Key of an image's record: FNV-1a over its path, which is no secret and needs no better hash.
pub fn image_key(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let hash = path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!("{IMAGE_KEY}{hash:016x}")
}

fn path(state_dir: &Path, key: &str) -> PathBuf {
    state_dir.join(FOLDER).join(format!("{key}.json"))
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(FAILED, format!("cannot {what} the note of what is half restored, {}: {e}", path.display()))
}

impl Record {
    /// What an earlier restore left, if it did.
    pub fn read(state_dir: &Path, key: &str) -> Outcome<Option<Self>> {
        let path = path(state_dir, key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("read", &path, &e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| failed("read", &path, &e.into()))
    }

    /// Order: 1 temporary file, synced · 2 rename · 3 the folder synced. It is whole or as it was.
    pub fn write(&self, state_dir: &Path) -> Outcome<()> {
        let path = path(state_dir, &self.key);
        let temporary = path.with_extension("tmp");
        let text = serde_json::to_vec_pretty(self).map_err(|e| failed("write", &path, &e.into()))?;
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::File::create(&temporary))
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| fs::File::open(&folder)?.sync_all())
            .map_err(|e| failed("write", &path, &e))
    }

    /// A disk is whole; with the last one the record goes.
    pub fn done(&mut self, state_dir: &Path, target: &str) -> Outcome<()> {
        self.disks.retain(|d| d != target);
        self.daemon = None;
        if self.disks.is_empty() { remove(state_dir, &self.key) } else { self.write(state_dir) }
    }

    /// Ends the storage daemon of a restore that was killed; it still holds the image.
    pub fn end_leftover(&self) -> Outcome<()> {
        let Some((id, mark)) = &self.daemon else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(*id).unwrap_or(0));
        let deadline = Instant::now() + Duration::from_millis(LEFTOVER_MS_MAX);
        // The number may be another process's by now; the folder of its socket is in nobody else's command line.
        while pid.as_raw() > 0 && is_marked(*id, mark) {
            if Instant::now() > deadline {
                return Err(Failure::new(BUSY, format!("process {id} of an earlier restore still writes to {}; try again when it has ended", self.name)));
            }
            tracing::info!("ending the storage daemon {id} that an earlier restore left");
            // It may have ended just now.
            let _ = kill(pid, Signal::SIGTERM);
            std::thread::sleep(Duration::from_millis(POLL_MS));
        }
        Ok(())
    }

    /// The command that goes on. It names the disks, and the place of an image: without them it would write to what was never to be restored.
    pub fn again(&self) -> String {
        let is_image = self.key.starts_with(IMAGE_KEY);
        let place = if is_image { format!("={}", crate::output::shown(&self.name)) } else { String::new() };
        let disks: String = self.disks.iter().map(|disk| format!(" --disk {disk}{place}")).collect();
        format!("cairn restore {} --in-place{disks}", self.point)
    }

    /// What is said of it, with what to do.
    fn message(&self) -> String {
        format!(
            "{} is half restored: disk {} was to become what point {} ({}) says and is not whole; run \
             '{}' again, which goes on where it stopped (another point of it will do as well)",
            crate::output::shown(&self.name),
            self.disks.join(", "),
            &self.point[..self.point.len().min(crate::points::SHOWN_ID_DIGITS)],
            crate::output::shown(&self.point_name),
            self.again(),
        )
    }
}

/// Takes a record away; one that is not there is gone already.
pub fn remove(state_dir: &Path, key: &str) -> Outcome<()> {
    let path = path(state_dir, key);
    match fs::remove_file(&path) {
        Ok(()) => fs::File::open(state_dir.join(FOLDER)).and_then(|d| d.sync_all()).map_err(|e| failed("remove", &path, &e)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", &path, &e)),
    }
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !mark.is_empty() && line.windows(mark.len()).any(|w| w == mark.as_bytes())
}

/// A half restored disk is no state that anybody wants saved.
pub fn refuse_half_restored(state_dir: &Path, key: &str) -> Outcome<()> {
    match Record::read(state_dir, key)? {
        Some(record) => Err(Failure::refused(record.message())),
        None => Ok(()),
    }
}

/// One line for each domain or image of this host that is half restored, of these names of points (all, if none).
pub fn warnings(state_dir: &Path, name: Option<&str>) -> Vec<String> {
    let entries = fs::read_dir(state_dir.join(FOLDER)).into_iter().flatten().flatten();
    let records = entries.filter_map(|e| {
        let file = e.file_name().to_string_lossy().into_owned();
        Record::read(state_dir, file.strip_suffix(".json")?).ok().flatten()
    });
    records.filter(|r| name.is_none_or(|n| n == r.point_name || n == r.name)).map(|r| r.message()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lasts_until_its_last_disk_is_whole() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = dir.path();
        assert!(refuse_half_restored(state, "u").is_ok() && warnings(state, None).is_empty());
        let mut record = Record {
            key: "u".into(),
            name: "web1".into(),
            point: "0123456789abcdef".into(),
            point_name: "web1".into(),
            disks: vec!["vda".into(), "vdb".into()],
            daemon: Some((std::process::id(), "no such text in my arguments".into())),
        };
        record.write(state).expect("writes");
        let refused = refuse_half_restored(state, "u").expect_err("half restored");
        assert_eq!(refused.code, crate::failure::REFUSED);
        assert!(
            refused.message.contains("vda, vdb") && refused.message.contains("'cairn restore 0123456789abcdef --in-place --disk vda --disk vdb'"),
            "{}",
            refused.message
        );
        assert_eq!((warnings(state, Some("web1")).len(), warnings(state, Some("db1")).len()), (1, 0));
        record.end_leftover().expect("that process is another one now");
        record.done(state, "vda").expect("writes");
        let left = Record::read(state, "u").expect("reads").expect("there");
        assert_eq!((left.disks.as_slice(), left.again().as_str()), (&["vdb".to_owned()][..], "cairn restore 0123456789abcdef --in-place --disk vdb"));
        let image = Record { key: image_key(Path::new("/srv/db.raw")), name: "/srv/db.raw".into(), disks: vec!["disk0".into()], ..left };
        assert_eq!(image.again(), "cairn restore 0123456789abcdef --in-place --disk disk0=/srv/db.raw", "not where the point was made from");
        record.done(state, "vdb").expect("removes");
        assert!(refuse_half_restored(state, "u").is_ok());
        remove(state, "u").expect("twice is once");
    }

    #[test]
    fn the_daemon_of_a_dead_restore_is_ended() {
        let mark = format!("mark-{}", uuid::Uuid::new_v4());
        // It waits by itself: a child of its own would outlive it.
        let mut shell = std::process::Command::new("sh");
        let mut child = shell.args(["-c", "read line; exit 0", &mark]).stdin(std::process::Stdio::piped()).spawn().expect("starts");
        let _held = child.stdin.take();
        // A new program's arguments are there a moment after its start is reported.
        let begin = Instant::now();
        while !is_marked(child.id(), &mark) {
            assert!(begin.elapsed() < Duration::from_secs(20), "it starts");
        }
        let record = Record { key: "u".into(), name: "n".into(), point: "p".into(), point_name: "n".into(), disks: vec![], daemon: Some((child.id(), mark)) };
        let waiter = std::thread::spawn(move || child.wait().expect("waits"));
        record.end_leftover().expect("ends");
        assert!(!waiter.join().expect("joins").success());
    }
}
