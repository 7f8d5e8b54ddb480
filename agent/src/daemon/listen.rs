//! The daemon's socket: handed over by systemd (sd_listen_fds(3)), or our own.
//!
//! Invariants
//! - Our own is 0600 from its first moment: it is made in a folder that is closed to others, beside its place, and renamed.
//! - One that somebody listens at is left alone, a dead one's is replaced. What systemd made, systemd removes.
//! - Commands look where the configuration says: where systemd hands over a socket at another path, the daemon answers at both, and says so.

use crate::{
    config::SOCKET_BYTES_MAX,
    failure::{FAILED, Failure, Outcome, REFUSED},
    run::folder::failed,
};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt},
    unistd::geteuid,
};
use std::{
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

/// Root's.
const SYSTEM_SOCKET: &str = "/run/cairn/api.sock";
/// A socket that is not in its place yet; the path with it is two bytes longer than that of the folder.
const APART: &str = "s";

/// Where a daemon of this user listens unless told otherwise.
pub fn socket_default() -> PathBuf {
    let base = std::env::var_os("XDG_RUNTIME_DIR").filter(|v| !geteuid().is_root() && !v.is_empty());
    base.map_or_else(|| PathBuf::from(SYSTEM_SOCKET), |base| PathBuf::from(base).join("cairn/api.sock"))
}

/// A socket that is listened at.
#[derive(Debug)]
pub struct Listening {
    /// It does not block.
    pub listener: UnixListener,
    /// Our own file, by device and inode.
    ours: Option<(PathBuf, u64, u64)>,
}

/// What is listened at, and what is wrong with it.
#[derive(Debug)]
pub struct Sockets {
    /// At least one.
    pub all: Vec<Listening>,
    /// Why commands do not find the daemon where they look.
    pub problem: Option<String>,
}

/// The socket that was handed over, and our own at `path` where that is another one. To be called once.
pub fn start(path: &Path) -> Outcome<Sockets> {
    let Some(listener) = handed_over()? else { return Ok(Sockets { all: vec![Listening::own(path)?], problem: None }) };
    listener.set_nonblocking(true).map_err(|e| Failure::new(FAILED, format!("the socket that was handed over: {e}")))?;
    // An abstract one has no path.
    let at = listener.local_addr().ok().and_then(|a| a.as_pathname().map(Path::to_owned)).unwrap_or_default();
    let handed = Listening { listener, ours: None };
    if is_same(&at, path) {
        return Ok(Sockets { all: vec![handed], problem: None });
    }
    let (handed_at, wanted) = (at.display(), path.display());
    let remedy = "let ListenStream= of cairn.socket ('systemctl edit cairn.socket') and daemon.socket of the configuration name the same path";
    match Listening::own(path) {
        Ok(own) => {
            tracing::warn!("systemd listens at {handed_at}, and commands look at {wanted}: the daemon answers at both; {remedy}");
            Ok(Sockets { all: vec![handed, own], problem: None })
        }
        Err(f) => {
            let problem = format!("systemd listens at {handed_at}, but commands look at {wanted}, where the daemon cannot answer ({}); {remedy}", f.message);
            Ok(Sockets { all: vec![handed], problem: Some(problem) })
        }
    }
}

/// Whether two paths lead to one socket, as `/var/run` and `/run` do.
fn is_same(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()));
    a == b || matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

impl Listening {
    /// Our own at `path`.
    pub fn own(path: &Path) -> Outcome<Self> {
        let bytes = path.as_os_str().len();
        if bytes > SOCKET_BYTES_MAX {
            return Err(Failure::usage(format!("{}: the path of a socket has at most {SOCKET_BYTES_MAX} bytes, this one has {bytes}", path.display())));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| Failure::usage(format!("{}: no path of a socket", path.display())))?;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(|e| failed("create", parent, &e))?;
        if is_listened_at(path) {
            return Err(Failure::new(REFUSED, format!("another process listens at {}; end it, or give another --socket", path.display())));
        }
        if fs::symlink_metadata(path).is_ok_and(|m| !std::os::unix::fs::FileTypeExt::is_socket(&m.file_type())) {
            return Err(Failure::refused(format!("{} is there and is no socket; remove it, or give another --socket", path.display())));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let apart = path.with_file_name(format!(".{name}.{}", std::process::id()));
        remove_apart(&apart).map_err(|e| failed("remove", &apart, &e))?;
        let bound = bind_apart(&apart, path);
        // What stays is removed by the next process of this number.
        let _ = remove_apart(&apart);
        let listener = bound.map_err(|e| failed("listen at", path, &e))?;
        let meta = fs::symlink_metadata(path).map_err(|e| failed("look at", path, &e))?;
        Ok(Self { listener, ours: Some((path.to_owned(), meta.dev(), meta.ino())) })
    }
}

/// A socket that nobody has seen before it is in its place, with the mode that it is to have.
fn bind_apart(apart: &Path, path: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new().mode(0o700).create(apart)?;
    let new = apart.join(APART);
    let listener = UnixListener::bind(&new)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

/// A folder that one was made in.
fn remove_apart(apart: &Path) -> io::Result<()> {
    let is_there = |result: io::Result<()>| match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    is_there(fs::remove_file(apart.join(APART)))?;
    is_there(fs::remove_dir(apart))
}

/// Device and inode of what is at a path.
pub fn id_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether anybody listens, without waiting for one that does not answer any more.
fn is_listened_at(path: &Path) -> bool {
    let Ok(address) = UnixAddr::new(path) else { return false };
    let Ok(probe) = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None) else { return false };
    // EAGAIN: so many wait already that there is no room.
    matches!(connect(probe.as_raw_fd(), &address), Ok(()) | Err(Errno::EAGAIN))
}

/// Removes a socket of our own, unless another one is in its place.
pub struct Remover(Option<(PathBuf, u64, u64)>);

impl Listening {
    /// The listener, and what removes its file when it is dropped.
    pub fn parts(self) -> (UnixListener, Remover) {
        (self.listener, Remover(self.ours))
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        if let Some((path, dev, ino)) = &self.0
            && fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (*dev, *ino))
        {
            // The next daemon replaces what stays.
            let _ = fs::remove_file(path);
        }
    }
}

/// What systemd handed over, if it did.
fn handed_over() -> Outcome<Option<UnixListener>> {
    let fail = |why: String| Failure::usage(format!("LISTEN_FDS: {why}; the unit of the socket needs one ListenStream= with a path"));
    let mut fds = sd_notify::listen_fds().map_err(|e| fail(e.to_string()))?;
    let Some(fd) = fds.next() else { return Ok(None) };
    if fds.next().is_some() {
        return Err(fail("more than one socket was handed over".into()));
    }
    // SAFETY: by the protocol the descriptor was opened for us alone, and this, its only taking, happens once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match getsockopt(&fd, sockopt::AcceptConn) {
        Ok(true) => {}
        Ok(false) => return Err(fail("what was handed over does not listen".into())),
        Err(e) => return Err(fail(format!("what was handed over is no socket: {e}"))),
    }
    let listener = UnixListener::from(fd);
    listener.local_addr().map_err(|e| fail(format!("what was handed over is no unix socket: {e}")))?;
    Ok(Some(listener))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_listener_that_takes_nobody_is_seen_at_once() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("s");
        assert!(!is_listened_at(&path), "nothing is there");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("makes");
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("an address")).expect("binds");
        assert!(!is_listened_at(&path), "nobody listens");
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("a number")).expect("listens");
        let _first = UnixStream::connect(&path).expect("the one that has room");
        for _ in 0..3 {
            assert!(is_listened_at(&path), "full, and there all the same");
        }
        drop(listener);
        assert!(!is_listened_at(&path), "dead");
    }
}
