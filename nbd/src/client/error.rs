//! What can go wrong between us and a server.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::codec::CodecError;

/// An error number of the protocol (values of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerErrno(pub u32);

impl ServerErrno {
    /// The server is going away; the connection is closed after it.
    pub const SHUTDOWN: Self = Self(108);
}

impl fmt::Display for ServerErrno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "EPERM",
            5 => "EIO",
            12 => "ENOMEM",
            22 => "EINVAL",
            28 => "ENOSPC",
            75 => "EOVERFLOW",
            95 => "ENOTSUP",
            108 => "ESHUTDOWN",
            other => return write!(f, "errno {other}"),
        };
        f.write_str(name)
    }
}

/// Errors of the client. After every kind but [`NbdError::Server`], [`NbdError::OutOfRange`], [`NbdError::Unaligned`],
/// [`NbdError::Unsupported`] and [`NbdError::UnknownContext`] the connection is closed.
#[derive(Debug, Error)]
pub enum NbdError {
    /// No connection.
    #[error("cannot connect to {address}; check that the server runs and that this user may open its socket")]
    Connect {
        /// Server.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Connecting, the handshake or a reply took too long.
    #[error("{server}: no answer to {what} within {limit:?}; the server is stalled or at its connection limit")]
    Timeout {
        /// Server and export.
        server: String,
        /// What was waited for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The stream failed or ended.
    #[error("{server}: the connection broke during {what}")]
    Stream {
        /// Server and export.
        server: String,
        /// What was done.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server's bytes are not the protocol's.
    #[error("{server}: malformed reply to {what}")]
    Malformed {
        /// Server and export.
        server: String,
        /// What was asked.
        what: String,
        /// What is wrong.
        source: CodecError,
    },
    /// The server's bytes are well-formed but not an answer to what was asked.
    #[error("{server}: reply to {what} breaks the protocol: {problem}")]
    Violation {
        /// Server and export.
        server: String,
        /// What was asked.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// The server cannot do the fixed newstyle handshake.
    #[error("{server}: the server speaks only the old NBD handshake, which cannot name exports; use a newer server")]
    OldStyle {
        /// Server.
        server: String,
    },
    /// TLS is demanded.
    #[error("{server}: the server demands TLS, which this client does not offer; use a unix socket or a server without it")]
    TlsRequired {
        /// Server.
        server: String,
    },
    /// No such export.
    #[error("{server}: there is no export of that name; `nbdinfo --list` shows what there is")]
    NoSuchExport {
        /// Server and export.
        server: String,
    },
    /// An option was refused.
    #[error("{server}: the server refused {option} (reply {code:#x}): {message:?}")]
    Refused {
        /// Server and export.
        server: String,
        /// Option's name.
        option: &'static str,
        /// Reply type.
        code: u32,
        /// The server's words, a stranger's.
        message: String,
    },
    /// Structured replies are needed and not to be had.
    #[error("{server}: the server has no structured replies, so it cannot tell block status; read without a map or use another server")]
    NoStructuredReplies {
        /// Server and export.
        server: String,
    },
    /// A meta context is not to be had.
    #[error("{server}: the export has no meta context {context:?}")]
    ContextMissing {
        /// Server and export.
        server: String,
        /// Asked for.
        context: String,
    },
    /// The context was not negotiated on this connection.
    #[error("{server}: the meta context {context:?} was not asked for when connecting")]
    UnknownContext {
        /// Server and export.
        server: String,
        /// Asked for.
        context: String,
    },
    /// The server answered with an error; the connection stays usable.
    #[error("{server}: {what} failed with {errno} {message:?}")]
    Server {
        /// Server and export.
        server: String,
        /// What was asked.
        what: String,
        /// Error number.
        errno: ServerErrno,
        /// The server's words, a stranger's.
        message: String,
    },
    /// Beyond the export's end.
    #[error("{server}: {what} lies beyond the end of the export ({size_bytes} bytes)")]
    OutOfRange {
        /// Server and export.
        server: String,
        /// What was asked.
        what: String,
        /// Size of the export.
        size_bytes: u64,
    },
    /// Not a multiple of the export's minimum block size.
    #[error("{server}: {what} is not aligned to the export's block size of {block_bytes} bytes")]
    Unaligned {
        /// Server and export.
        server: String,
        /// What was asked.
        what: String,
        /// Minimum block size.
        block_bytes: u32,
    },
    /// The export does not offer the command.
    #[error("{server}: the export does not offer {command}")]
    Unsupported {
        /// Server and export.
        server: String,
        /// Command's name.
        command: &'static str,
    },
    /// An earlier error closed this connection.
    #[error("{server}: this connection was closed after an earlier error; open a new one")]
    Poisoned {
        /// Server and export.
        server: String,
    },
}
