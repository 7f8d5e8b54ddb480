//! Looking at the hook's file, making it, removing it.

use super::Place;
use crate::failure::{BUSY, FAILED, Failure, Outcome};
use cairn_hook::mark::{self, Mark};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, futimens};
use nix::sys::time::{TimeSpec, TimeValLike};
use rustix::process::geteuid;
use std::{
    fs::{self, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

/// Far more than the program has, linked as it may be with all its symbols.
const BYTES_MAX: u64 = 64 << 20;
/// In the folder of hooks, of which libvirt runs only names that it knows.
const UNFINISHED: &str = ".cairn-hook.new";
/// The hook itself is done in a tenth of that.
const TRY_LIMIT: Duration = Duration::from_secs(2);
const MODE: u32 = 0o755;

/// What is at the hook's place.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A hook of ours.
    Ours {
        /// Its version.
        mark: Mark,
        /// Its content.
        bytes: Vec<u8>,
        /// Owner, mode, times.
        metadata: Box<Metadata>,
    },
    /// Anything else, in words.
    Foreign(String),
}

/// The program to install.
#[derive(Debug)]
pub struct Source {
    /// Where it was found.
    pub path: PathBuf,
    /// Its version.
    pub mark: Mark,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Source {
    /// The file that was named, or else the one that came with this program.
    pub fn find(named: Option<&Path>) -> Outcome<Self> {
        if let Some(path) = named {
            return Self::read(path);
        }
        let beside = crate::own::file().and_then(|own| Some(own.parent()?.join("cairn-hook")));
        let places: Vec<PathBuf> = beside.into_iter().chain(["/usr/lib/cairn/cairn-hook", "/usr/libexec/cairn/cairn-hook"].map(PathBuf::from)).collect();
        match places.iter().find(|path| path.is_file()) {
            Some(path) => Self::read(path),
            None => {
                let tried = places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
                Err(Failure::not_found(format!("the program cairn-hook is not there (looked for {tried}); name it by --binary")))
            }
        }
    }

    fn read(path: &Path) -> Outcome<Self> {
        let bytes = match fs::metadata(path) {
            Ok(m) if !m.is_file() => return Err(Failure::refused(format!("{} is no file", path.display()))),
            Ok(_) => read_bounded(path).map_err(|e| failed("read", path, &e))?,
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Failure::not_found(format!("there is no {}", path.display()))),
            Err(e) => return Err(failed("look at", path, &e)),
        };
        let mark = mark::find(&bytes).ok_or_else(|| Failure::refused(format!("{} is no cairn-hook: it does not carry its mark", path.display())))?;
        Ok(Self { path: path.to_owned(), mark, bytes })
    }
}

/// What is at the hook's place now.
pub fn look(place: &Place) -> Outcome<Found> {
    let path = &place.path;
    let metadata = match fs::symlink_metadata(path) {
        Ok(m) => m,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Found::Nothing),
        Err(e) => return Err(failed("look at", path, &e)),
    };
    let kind = metadata.file_type();
    if !kind.is_file() {
        return Ok(Found::Foreign(
            if kind.is_dir() {
                "a folder"
            } else if kind.is_symlink() {
                "a link"
            } else {
                "no plain file"
            }
            .to_owned(),
        ));
    }
    let bytes = read_bounded(path).map_err(|e| failed("read", path, &e))?;
    Ok(match mark::find(&bytes) {
        Some(mark) => Found::Ours { mark, bytes, metadata: Box::new(metadata) },
        None => Found::Foreign("a file of somebody else's".to_owned()),
    })
}

/// Puts the program there; whether anything had to be done.
pub fn install(place: &Place, source: &Source, force: bool) -> Outcome<bool> {
    match fs::metadata(place.dir.parent().unwrap_or(Path::new("/"))) {
        Ok(m) if m.is_dir() => {}
        _ => return Err(Failure::not_found(format!("the folder above {} is not there: is libvirt installed?", place.dir.display()))),
    }
    for folder in [&place.dir, &place.folder] {
        match fs::DirBuilder::new().mode(MODE).create(folder) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed("make", folder, &e)),
            _ => {}
        }
    }
    let _lock = lock(place)?;
    let since = match look(place)? {
        Found::Ours { bytes, metadata, .. } => {
            if bytes == source.bytes && metadata.mode() & 0o7777 == MODE && metadata.uid() == geteuid().as_raw() {
                return Ok(false);
            }
            metadata.modified().ok()
        }
        Found::Foreign(what) if what == "a folder" || !force => {
            let hint = if force { "" } else { "; move it away, or use --force" };
            return Err(Failure::refused(format!("{} is {what} and was left alone{hint}", place.path.display())));
        }
        Found::Foreign(_) | Found::Nothing => None,
    };
    let new = place.dir.join(UNFINISHED);
    remove_if_there(&new)?;
    let done = make(&new, &source.bytes, since).and_then(|()| fs::rename(&new, &place.path).map_err(|e| failed("rename to", &place.path, &e)));
    if done.is_err() {
        // Fails where it was not made.
        let _ = fs::remove_file(&new);
    }
    done?;
    File::open(&place.folder).and_then(|f| f.sync_all()).map_err(|e| failed("sync", &place.folder, &e))?;
    Ok(true)
}

/// Takes ours away; whether it was there.
pub fn remove(place: &Place) -> Outcome<bool> {
    if matches!(look(place)?, Found::Nothing) {
        return Ok(false);
    }
    let _lock = lock(place)?;
    match look(place)? {
        Found::Nothing => Ok(false),
        Found::Ours { .. } => {
            fs::remove_file(&place.path).map_err(|e| failed("remove", &place.path, &e))?;
            Ok(true)
        }
        Found::Foreign(what) => Err(Failure::refused(format!("{} is {what} and was left alone", place.path.display()))),
    }
}

/// Writes it beside its place, durable, with its mode, and tries whether it runs.
fn make(new: &Path, bytes: &[u8], since: Option<SystemTime>) -> Outcome<()> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(new)?;
        file.write_all(bytes)?;
        // Whatever the umask.
        file.set_permissions(Permissions::from_mode(MODE))?;
        if let Some(age) = since.and_then(|s| s.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            let time = TimeSpec::nanoseconds(i64::try_from(age.as_nanos()).unwrap_or(0));
            futimens(&file, &time, &time)?;
        }
        file.sync_all()
    };
    write().map_err(|e| failed("write", new, &e))?;
    try_it(new)
}

/// Runs it without arguments, which does nothing: it must end with 0, silently, as libvirt needs it to.
fn try_it(path: &Path) -> Outcome<()> {
    let wrong = |why: String| Failure::new(FAILED, format!("{} does not run here ({why}), so it was not installed", path.display()));
    let mut command = Command::new(path);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| wrong(format!("{e}; another architecture, or a file system mounted noexec?")))?;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| wrong(e.to_string()))? {
            break status;
        }
        if begin.elapsed() > TRY_LIMIT {
            // Both fail only where it ended just now.
            let _ = child.kill();
            let _ = child.wait();
            return Err(wrong(format!("it did not end within {} s", TRY_LIMIT.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut said = String::new();
    // It has ended; what it said is in the pipes.
    let _ = child.stdout.take().map(|p| p.take(200).read_to_string(&mut said));
    let _ = child.stderr.take().map(|p| p.take(200).read_to_string(&mut said));
    if status.success() && said.is_empty() { Ok(()) } else { Err(wrong(format!("{status} {}", said.trim()))) }
}

/// One `cairn hook` at a time.
fn lock(place: &Place) -> Outcome<Flock<std::os::fd::OwnedFd>> {
    let dir = nix::fcntl::open(&place.dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let dir = dir.map_err(|e| failed("open", &place.dir, &e.into()))?;
    Flock::lock(dir, FlockArg::LockExclusiveNonblock)
        .map_err(|(_, _)| Failure::new(BUSY, format!("another 'cairn hook' is at work in {}; try again", place.dir.display())))
}

fn remove_if_there(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path, &e)),
        _ => Ok(()),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Something else may have come into its place since it was looked at.
    OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn failed(what: &str, path: &Path, e: &io::Error) -> Failure {
    let hint = if e.kind() == ErrorKind::PermissionDenied { "; run it as root" } else { "" };
    Failure::new(FAILED, format!("cannot {what} {}: {e}{hint}", path.display()))
}
