//! What keeps a server from starting, and how a connection ends.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use crate::codec::CodecError;

/// Why a server cannot start.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A limit that contradicts another one.
    #[error("the limit {name} is {found}, it must be {rule}")]
    Limit {
        /// The field of [`super::Limits`].
        name: &'static str,
        /// Its value.
        found: u64,
        /// What it must keep.
        rule: &'static str,
    },
    /// An export's name is taken or too long.
    #[error("export name {name:?}: {problem}")]
    ExportName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Somebody listens there.
    #[error("another server listens on {}; stop it or choose another path", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something else than a socket has the name.
    #[error("{} exists and is no socket; remove it or choose another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A step of making the unix socket failed.
    #[error("cannot {step} the socket {}", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// TCP cannot be listened on.
    #[error("cannot listen on {address}")]
    Tcp {
        /// Address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Without TLS everybody who reaches the port could read the disks.
    #[error("{address} is no loopback address: it needs TLS with client certificates")]
    PlainTcp {
        /// Address.
        address: SocketAddr,
    },
    /// A certificate or key cannot be used.
    #[error("TLS: {}: {problem}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// How a connection ended other than in good order. Display is what the server's log says.
#[derive(Debug, Error)]
pub(super) enum End {
    #[error("{what} took longer than {limit:?}")]
    Slow { what: &'static str, limit: Duration },
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the client broke the protocol: {0}")]
    Malformed(#[from] CodecError),
    #[error("the client {0}")]
    Violation(&'static str),
    #[error("reading failed in the middle of a reply that has no room for an error")]
    FailedMidReply,
}

impl End {
    /// The client went away between two messages, which is no news.
    pub(super) fn is_farewell(&self) -> bool {
        matches!(self, Self::Broken(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
    }
}
