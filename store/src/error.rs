//! The store's error: a small kind that callers match (the command line maps it to exit codes) with what, why and the remedy.

use cairn_store_format::FormatError;
use std::fmt::Display;

/// Result of this crate.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What went wrong. Messages name the thing and, where there is one, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is no store here.
    #[error("no store at {at}: {why}")]
    NoStore {
        /// Path or URL.
        at: String,
        /// Detail.
        why: String,
    },
    /// A key is missing, wrong, or given where none belongs.
    #[error("{0}")]
    Key(String),
    /// A safety rule refuses.
    #[error("{0}")]
    Refused(String),
    /// No such point, disk or part.
    #[error("{0}")]
    NotFound(String),
    /// Bytes of the store are damaged or missing.
    #[error("damaged data in the store: {what}: {why}")]
    Damaged {
        /// Object or frame.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The storage is there and cannot read one object: what a disk with bad sectors answers. To readers it is damage; to a collection it is no loss,
    /// since the next try may read it.
    #[error("damaged data in the store: {name} cannot be read: {source}")]
    Unreadable {
        /// Object.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Another session or a GC decided this session's end.
    #[error("session {session} was shut out by a garbage collection while it ran (its host looked dead for too long); nothing is lost, run the backup again")]
    Fenced {
        /// The session.
        session: String,
    },
    /// Somebody else is at work; later it can be done.
    #[error("{0}")]
    Busy(String),
    /// Interrupted by the user.
    #[error("interrupted")]
    Interrupted,
    /// Reading the source or writing the target failed.
    #[error("{what}: {source}")]
    Block {
        /// Disk and place.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store's storage failed.
    #[error("store: cannot {op} {name}: {source}")]
    Storage {
        /// Verb.
        op: &'static str,
        /// Object.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The local cache failed.
    #[error("index cache {path}: {source} (it is only a cache: try again; if this stays, delete it)")]
    Index {
        /// Database file.
        path: String,
        /// Why.
        source: rusqlite::Error,
    },
    /// A value cannot be stored.
    #[error("{0}")]
    Format(#[from] FormatError),
    /// Anything that is the caller's mistake.
    #[error("{0}")]
    Usage(String),
}

impl StoreError {
    /// Shorthand for [`StoreError::Damaged`].
    pub fn damaged(what: impl Display, why: impl Display) -> Self {
        Self::Damaged { what: format!("{what}"), why: format!("{why}") }
    }
    /// Whether bytes of the store are not what they should be, or cannot be had from a storage that is there: those who read go on with the rest.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Unreadable { .. })
    }
    /// Whether the storage says that it cannot read this one object. It says the same of each object when it is gone as a whole: that is for
    /// the caller to find out.
    pub(crate) fn is_bad_media(&self) -> bool {
        // EIO of a disk; file systems and drivers that know more say that a checksum, a seal, a medium or the file system itself is bad. A folder, a
        // pipe or a socket in an object's place cannot be read either.
        const ERRORS: [i32; 9] =
            [libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::ENODATA, libc::EILSEQ, libc::EREMOTEIO, libc::EISDIR, libc::ESPIPE, libc::ENXIO];
        matches!(self, Self::Storage { op: "read" | "stat", source, .. } if source.raw_os_error().is_some_and(|code| ERRORS.contains(&code)))
    }
    /// Whether this process could not ask, for want of file handles or memory: that says nothing of the storage.
    pub fn is_own_limit(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if matches!(source.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)))
    }
    /// What [`StoreError::is_bad_media`] says, once it is known that the storage as a whole is there.
    pub(crate) fn unreadable(self) -> Self {
        match self {
            Self::Storage { name, source, .. } => Self::Unreadable { name, source },
            other => other,
        }
    }
    /// Whether the store's storage is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Storage { source, .. } if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)))
    }
}
