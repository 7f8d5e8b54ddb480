//! The folder of a job that was started, `<state folder>/jobs/<id>`, 0700. It outlives the daemon and says all that a new one has to know.
//!
//! ```text
//! job.json       what was ordered; written before anything else        daemon
//! lock           held by the runner for as long as it lives            handed over by the daemon
//! started        the command is about to be started; made once, ever   runner
//! process.json   its process                                           runner
//! progress.json  how far it is                                         the command
//! cancel         somebody wants it to end                              daemon
//! result         the command's standard output                         the command
//! log, log.1     its standard error, and the runner's words            the command, runner
//! exit.room      place for how it ends, taken before it begins         daemon
//! exit.json      how it ended: that place, filled and renamed          runner
//! ```
//!
//! Invariants
//! - The command of a folder is started at most once: `started` is made with O_EXCL, by the runner, or by the daemon that gives up waiting for one; the
//!   daemon takes its own away once that runner is gone.
//! - The lock is of an open file description that the daemon takes and hands to the runner: there is no moment at which a job that may run has
//!   no holder. So a free lock means that nothing runs, whatever process numbers say.
//! - `exit.json` is written under the lock: who finds the lock free and no `exit.json` afterwards will never see one.
//! - A job that begins has the place for `exit.json`, a `result` and the last of its `log` already: a disk that is full by then costs none of them.

use super::{
    record::{Begun, Exit, JobId, Ticket},
    room,
};
use crate::{
    failure::Outcome,
    run::folder::{failed, read_json, sync_folder, try_write_json, write_json},
};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Most of a result that is read: a point is far smaller.
const RESULT_BYTES_MAX: u64 = 1 << 20;
/// Most of a log that is read for its last line.
const TAIL_BYTES: u64 = 16 << 10;
/// Place for `exit.json`: a message of 2000 characters, each written as six, and little else.
const EXIT_BYTES: usize = 16 << 10;
/// Place for a result, and for the log's beginning.
const RESULT_BYTES: u64 = 64 << 10;
const LOG_BYTES: u64 = 16 << 10;
/// Longest message.
const WORDS_CHARS_MAX: usize = 2000;
/// Before the name of what is being removed.
const GONE: &str = ".gone-";

/// What a folder says of its job.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its command was never started, and nobody is about to.
    NotStarted,
    /// A runner lives; its command's process, once there is one.
    Running(Option<Begun>),
    /// It has ended.
    Ended(Option<Begun>, Exit),
    /// It was started, and nobody is left who could say how it ended.
    Lost(Option<Begun>),
}

/// The folder of a job.
#[derive(Debug, Clone)]
pub struct JobFolder {
    path: PathBuf,
}

/// A piece of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// Where it begins; 0 where the log was cut meanwhile.
    pub offset: u64,
    /// Its bytes as text; what is no UTF-8 is replaced.
    pub text: String,
    /// Where the next one begins.
    pub next_offset: u64,
}

impl JobFolder {
    /// Of a job, whether it exists or not.
    pub fn of(jobs_dir: &Path, id: JobId) -> Self {
        Self { path: jobs_dir.join(id.to_string()) }
    }

    /// At a path that the command line named.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Numbers of all that there are. What was half removed is removed now.
    pub fn all(jobs_dir: &Path) -> Outcome<Vec<JobId>> {
        let entries = match fs::read_dir(jobs_dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed("read", jobs_dir, &e)),
        };
        let mut ids = Vec::new();
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.starts_with(GONE) {
                // Tried again at the next start.
                let _ = fs::remove_dir_all(entry.path());
            } else if let Some(id) = name.parse::<JobId>().ok().filter(|id| *id > 0 && id.to_string() == name) {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the log.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Path of what the command said on its standard output.
    pub fn result(&self) -> PathBuf {
        self.path.join("result")
    }

    /// Makes it with its order, and with the place for all that its job will leave; one that is there is used again.
    ///
    /// # Errors
    /// [`room::is_full`] tells those of a disk without room. Nothing may be started then.
    pub fn create(&self, ticket: &Ticket) -> io::Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => File::open(parent)?.sync_all()?,
        }
        room::blanks(&self.path.join("exit.room"), EXIT_BYTES)?;
        room::behind(&OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.result())?, RESULT_BYTES)?;
        room::behind(&OpenOptions::new().append(true).create(true).mode(0o600).open(self.log())?, LOG_BYTES)?;
        try_write_json(&self.path.join("job.json"), ticket)
    }

    /// What was ordered.
    pub fn ticket(&self) -> Outcome<Option<Ticket>> {
        read_json(&self.path.join("job.json"))
    }

    /// Takes the lock; none if a runner has it.
    pub fn try_lock(&self) -> Outcome<Option<File>> {
        let path = self.path.join("lock");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(|e| failed("open", &path, &e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed("lock", &path, &e.into())),
        }
    }

    /// Whether an open file is this folder's lock, held by it.
    pub fn holds_lock(&self, file: &File) -> bool {
        let same = fs::metadata(self.path.join("lock")).and_then(|a| file.metadata().map(|b| (a.dev(), a.ino()) == (b.dev(), b.ino())));
        same.unwrap_or(false) && flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// Says that the command will be started now; false if that was said before, ever.
    pub fn claim_start(&self) -> Outcome<bool> {
        let path = self.path.join("started");
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(_) => sync_folder(&self.path).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(failed("create", &path, &e)),
        }
    }

    /// Takes that back, for a runner that was ended before it started anything: nobody else may have the lock.
    pub fn unclaim_start(&self) -> Outcome<()> {
        let path = self.path.join("started");
        fs::remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
        sync_folder(&self.path)
    }

    /// Notes its process.
    pub fn set_begun(&self, begun: &Begun) -> Outcome<()> {
        write_json(&self.path.join("process.json"), begun)
    }

    /// Notes its end, in the place that it has for it. A folder of an older Cairn's has none.
    pub fn set_exit(&self, exit: &Exit) -> Outcome<()> {
        let (room, path) = (self.path.join("exit.room"), self.path.join("exit.json"));
        let filled = serde_json::to_vec(exit).map_err(io::Error::from).and_then(|text| room::fill(&room, &text)).and_then(|()| fs::rename(&room, &path));
        match filled {
            Ok(()) => sync_folder(&self.path),
            Err(_) => write_json(&path, exit),
        }
    }

    /// Asks for its end.
    pub fn ask_cancel(&self) -> Outcome<()> {
        let path = self.path.join("cancel");
        File::create(&path).map_err(|e| failed("create", &path, &e))?;
        sync_folder(&self.path)
    }

    /// Whether somebody asked for its end.
    pub fn is_cancel_asked(&self) -> bool {
        self.path.join("cancel").exists()
    }

    /// How it stands.
    pub fn look(&self) -> Outcome<Seen> {
        // A record that cannot be read (a full disk) is none.
        let begun = || read_json::<Begun>(&self.path.join("process.json")).unwrap_or_default();
        // The lock first: see the invariants.
        let Some(_free) = self.try_lock()? else { return Ok(Seen::Running(begun())) };
        match read_json::<Exit>(&self.path.join("exit.json")) {
            Ok(Some(exit)) => Ok(Seen::Ended(begun(), exit)),
            Ok(None) | Err(_) if self.path.join("started").exists() => Ok(Seen::Lost(begun())),
            Ok(None) => Ok(Seen::NotStarted),
            Err(f) => Err(f),
        }
    }

    /// The log, to be appended to.
    pub fn open_log(&self) -> Outcome<File> {
        let path = self.log();
        OpenOptions::new().create(true).append(true).mode(0o600).open(&path).map_err(|e| failed("open", &path, &e))
    }

    /// How far it is, as the command told last.
    pub fn progress(&self) -> Option<Value> {
        read_json(&self.path.join("progress.json")).ok().flatten()
    }

    /// The point that the result is, or anything else that has an id.
    pub fn made(&self) -> Option<(String, Value)> {
        let mut text = String::new();
        File::open(self.result()).ok()?.take(RESULT_BYTES_MAX).read_to_string(&mut text).ok()?;
        let made: Value = serde_json::from_str(&text).ok()?;
        Some((made["id"].as_str()?.to_owned(), made))
    }

    /// The last that the command said: the message of its error object, or its last line.
    pub fn last_words(&self) -> Option<String> {
        let mut file = File::open(self.log()).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        last_words(&bytes)
    }

    /// The last lines that the command said, at most so many.
    pub fn last_lines(&self, lines_max: usize) -> Vec<String> {
        let Some((length, mut file)) = File::open(self.log()).ok().and_then(|file| Some((file.metadata().ok()?.len(), file))) else { return Vec::new() };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).and_then(|_| file.take(TAIL_BYTES).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        // The first of them is cut, unless it is the first of all.
        let lines: Vec<&str> = text.lines().skip(usize::from(length > TAIL_BYTES)).filter(|line| !line.trim().is_empty()).collect();
        if read.is_err() { Vec::new() } else { lines[lines.len().saturating_sub(lines_max)..].iter().map(|line| (*line).to_owned()).collect() }
    }

    /// A piece of the log, from an offset on.
    pub fn read_log(&self, offset: u64, bytes_max: u64) -> Outcome<LogPiece> {
        let path = self.log();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(LogPiece { offset: 0, text: String::new(), next_offset: 0 }),
            Err(e) => return Err(failed("open", &path, &e)),
        };
        let fail = |e: io::Error| failed("read", &path, &e);
        // It was cut: from its new beginning on.
        let offset = if offset > file.metadata().map_err(fail)?.len() { 0 } else { offset };
        file.seek(SeekFrom::Start(offset)).map_err(fail)?;
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).map_err(fail)?;
        // Not in the middle of a character, unless that is no character at all.
        if let Err(e) = std::str::from_utf8(&bytes)
            && e.error_len().is_none()
            && e.valid_up_to() > 0
        {
            bytes.truncate(e.valid_up_to());
        }
        Ok(LogPiece { offset, next_offset: offset + bytes.len() as u64, text: String::from_utf8_lossy(&bytes).into_owned() })
    }

    /// Removes it, by a name that says so if that takes two tries.
    pub fn remove(&self) -> Outcome<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = self.path.with_file_name(format!("{GONE}{name}"));
        match fs::rename(&self.path, &gone) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("remove", &self.path, &e)),
            Ok(()) => {}
        }
        fs::remove_dir_all(&gone).map_err(|e| failed("remove", &gone, &e))
    }
}

/// The message of the error object that a program's words end with, or their last line.
pub fn last_words(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
    let object = serde_json::from_str::<Value>(line).ok();
    let message = object.as_ref().and_then(|o| o["error"]["message"].as_str()).unwrap_or(line);
    Some(message.chars().take(WORDS_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::record::{Kind, Order};
    use std::io::Write;

    fn made() -> (tempfile::TempDir, JobFolder) {
        let dir = tempfile::tempdir().expect("dir");
        let order = Order {
            kind: Kind::Backup,
            domain: "web".into(),
            uuid: None,
            store: "main".into(),
            policies: Vec::new(),
            trigger: "asked".into(),
            why: "by hand".into(),
            windows: vec![],
            argv: vec!["backup".into()],
            cancel_limit_ms: 1,
        };
        let folder = JobFolder::of(&dir.path().join("jobs"), 7);
        folder.create(&Ticket { id: 7, order, queued_unix_ms: 1, again: None }).expect("creates");
        (dir, folder)
    }

    #[test]
    fn a_folder_tells_how_its_job_stands() {
        let (dir, folder) = made();
        assert_eq!(folder.look().expect("looks"), Seen::NotStarted);
        let lock = folder.try_lock().expect("locks").expect("free");
        assert!(folder.holds_lock(&lock));
        assert_eq!(folder.look().expect("looks"), Seen::Running(None));
        assert!(folder.claim_start().expect("claims"));
        assert!(!folder.claim_start().expect("claims"), "once, ever");
        let begun = Begun { pid: 9, started_unix_ms: 2 };
        folder.set_begun(&begun).expect("writes");
        assert_eq!(folder.look().expect("looks"), Seen::Running(Some(begun.clone())));
        drop(lock);
        assert_eq!(folder.look().expect("looks"), Seen::Lost(Some(begun.clone())));
        let exit = Exit { code: 3, cancelled: false, ended_unix_ms: 3, message: None, point: Some("p".into()) };
        folder.set_exit(&exit).expect("writes");
        assert_eq!(folder.look().expect("looks"), Seen::Ended(Some(begun), exit));
        assert_eq!(JobFolder::all(&dir.path().join("jobs")).expect("lists"), [7]);
        folder.remove().expect("removes");
        folder.remove().expect("twice is as good");
        assert!(JobFolder::all(&dir.path().join("jobs")).expect("lists").is_empty());
    }

    #[test]
    fn another_file_is_not_the_lock() {
        let (_dir, folder) = made();
        let other = File::open(folder.path().join("job.json")).expect("opens");
        assert!(!folder.holds_lock(&other));
        let held = folder.try_lock().expect("locks").expect("free");
        let second = File::open(folder.path().join("lock")).expect("opens");
        assert!(!folder.holds_lock(&second), "somebody else has it");
        drop(held);
    }

    #[test]
    fn the_last_words_are_the_error() {
        let (_dir, folder) = made();
        assert_eq!(folder.last_words(), None);
        let mut log = folder.open_log().expect("opens");
        log.write_all(b"cairn: warning: x\n").expect("writes");
        assert_eq!(folder.last_words().as_deref(), Some("cairn: warning: x"));
        log.write_all(b"{\"error\":{\"code\":15,\"kind\":\"not-found\",\"message\":\"no such\"}}\n\n").expect("writes");
        assert_eq!(folder.last_words().as_deref(), Some("no such"));
    }

    #[test]
    fn a_log_is_read_in_pieces() {
        let (_dir, folder) = made();
        assert_eq!(folder.read_log(5, 10).expect("none yet").next_offset, 0);
        folder.open_log().expect("opens").write_all("abcdefgh\u{e4}z".as_bytes()).expect("writes");
        let first = folder.read_log(0, 9).expect("reads");
        assert_eq!((first.text.as_str(), first.next_offset), ("abcdefgh", 8), "not through a character");
        assert_eq!(folder.read_log(8, 9).expect("reads").text, "\u{e4}z");
        assert_eq!(folder.read_log(99, 2).expect("was cut"), LogPiece { offset: 0, text: "ab".into(), next_offset: 2 });
    }
}
