//! Where clients come from: unix sockets with a check of who connects, TCP with TLS, plain TCP on loopback only.
//!
//! Invariants: a unix socket never exists with more rights than 0600; a socket of another server is never taken away, nor at the end one that has
//! taken ours' place.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chown};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::error::ServerError;
use super::stream::Stream;
use super::tls::TlsIdentity;

/// Clients that wait to be accepted.
const BACKLOG: i32 = 128;
/// A TCP client that is silent for so long is probed.
const KEEPALIVE_IDLE_S: u32 = 60;
/// Between two probes of a silent TCP client.
const KEEPALIVE_INTERVAL_S: u32 = 15;
/// Probes without an answer after which it is gone.
const KEEPALIVE_PROBES: u32 = 4;

/// A unix socket to be made.
#[derive(Debug, Clone)]
pub struct UnixSocket {
    /// Where. Its folder should be private as well.
    pub path: PathBuf,
    /// User and group that get it, by number; only root can give it away.
    pub owner: Option<(u32, u32)>,
    /// Users that are served besides root, by number.
    pub allowed_uids: Vec<u32>,
}

/// Listens for clients.
pub struct Listener {
    kind: Kind,
}

enum Kind {
    Unix { listener: UnixListener, allowed_uids: Vec<u32>, _file: Option<SocketFile> },
    Tcp { listener: TcpListener, tls: Option<Arc<ServerConfig>> },
}

/// A client that may negotiate.
pub(super) struct Accepted {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// Who connected, for the log.
pub(super) enum Peer {
    Unix { uid: u32, pid: Option<i32> },
    Tcp(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid: Some(pid) } => write!(f, "process {pid} of user {uid}"),
            Self::Unix { uid, pid: None } => write!(f, "user {uid}"),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Listener {
    /// Makes a unix socket of mode 0600 and listens on it. A socket that a dead server left behind is replaced.
    ///
    /// # Errors
    /// A living server has the path, something else than a socket has it, or a step fails.
    pub fn unix(socket: &UnixSocket) -> Result<Self, ServerError> {
        let path = &socket.path;
        remove_stale(path)?;
        let failed = |step| move |source: io::Error| ServerError::Unix { path: path.clone(), step, source };
        let fd = bind(path).map_err(|e| failed("make")(e.into()))?;
        let file = SocketFile::of(path).map_err(failed("look at"))?;
        if let Some((uid, gid)) = socket.owner {
            chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(|e| failed("give away")(e.into()))?;
        }
        socket::listen(&fd, Backlog::new(BACKLOG).expect("a small number")).map_err(|e| failed("listen on")(e.into()))?;
        let listener = UnixListener::from_std(StdUnixListener::from(fd)).map_err(failed("listen on"))?;
        Ok(Self { kind: Kind::Unix { listener, allowed_uids: socket.allowed_uids.clone(), _file: Some(file) } })
    }

    /// A socket that somebody else made and listens on, such as a service manager that keeps it while the server comes back. Its rights are theirs
    /// to set; who connects is checked here all the same.
    ///
    /// # Errors
    /// It cannot be used without blocking.
    pub fn unix_given(listener: StdUnixListener, allowed_uids: Vec<u32>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { kind: Kind::Unix { listener: UnixListener::from_std(listener)?, allowed_uids, _file: None } })
    }

    /// TCP without TLS, for clients of this host.
    ///
    /// # Errors
    /// No loopback address, or it cannot be listened on.
    pub async fn tcp_loopback(address: SocketAddr) -> Result<Self, ServerError> {
        if !address.ip().is_loopback() {
            return Err(ServerError::PlainTcp { address });
        }
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Tcp { address, source })?;
        Ok(Self { kind: Kind::Tcp { listener, tls: None } })
    }

    /// TCP for clients with a certificate; they must start TLS before anything else.
    ///
    /// # Errors
    /// A certificate or key cannot be used, or the address cannot be listened on.
    pub async fn tcp_tls(address: SocketAddr, identity: &TlsIdentity) -> Result<Self, ServerError> {
        let tls = Some(identity.load()?);
        let listener = TcpListener::bind(address).await.map_err(|source| ServerError::Tcp { address, source })?;
        Ok(Self { kind: Kind::Tcp { listener, tls } })
    }

    /// Where a TCP listener listens: tells the port if 0 was asked for.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Unix { .. } => None,
            Kind::Tcp { listener, .. } => listener.local_addr().ok(),
        }
    }

    /// The next client; `None` for one that is not allowed.
    pub(super) async fn accept(&self) -> io::Result<Option<Accepted>> {
        match &self.kind {
            Kind::Unix { listener, allowed_uids, .. } => {
                let (stream, _) = listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let uid = credentials.uid();
                if uid != 0 && !allowed_uids.contains(&uid) {
                    tracing::warn!(uid, pid = credentials.pid(), "refused: only root and the users it was made for may use this socket");
                    return Ok(None);
                }
                Ok(Some(Accepted { stream: Stream::Unix(stream), peer: Peer::Unix { uid, pid: credentials.pid() }, tls: None }))
            }
            Kind::Tcp { listener, tls } => {
                let (stream, address) = listener.accept().await?;
                prepare(&stream)?;
                Ok(Some(Accepted { stream: Stream::Tcp(stream), peer: Peer::Tcp(address), tls: tls.clone() }))
            }
        }
    }
}

/// Small replies go out at once, and a client whose host has died is noticed in two minutes.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket::setsockopt(stream, sockopt::KeepAlive, &true)?;
    socket::setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE_S)?;
    socket::setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    socket::setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(())
}

fn bind(path: &Path) -> nix::Result<OwnedFd> {
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    // Linux makes the file with the rights of the descriptor: there is no moment at which others could connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd)
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let failed = |step| move |source| ServerError::Unix { path: path.to_owned(), step, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServerError::NoSocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed("remove")),
        Err(error) => Err(failed("look who listens on")(error)),
        Ok(_) => Err(ServerError::Taken { path: path.to_owned() }),
    }
}

/// The file of a socket of ours; goes with it.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}
