//! How a command fails: an exit code, a kind for scripts, a message for people. The codes are a contract (docs/command-line.md).

use cairn_store::StoreError;

/// Failed.
pub const FAILED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// Done, with warnings.
pub const WARNINGS: u8 = 3;
/// No such store.
pub const NO_STORE: u8 = 10;
/// Busy, try again.
pub const BUSY: u8 = 11;
/// Wrong key.
pub const WRONG_KEY: u8 = 12;
/// Refused by a safety rule.
pub const REFUSED: u8 = 13;
/// Damaged data met.
pub const DAMAGED: u8 = 14;
/// No such point, domain, disk or source.
pub const NOT_FOUND: u8 = 15;
/// Interrupted.
pub const INTERRUPTED: u8 = 130;

/// Result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// What happened, to what, why, and what to do.
    pub message: String,
}

impl Failure {
    /// With a code of this module.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
    /// Wrong usage.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }
    /// Refused by a safety rule.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(REFUSED, message)
    }
    /// No such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }
    /// The code's name in JSON.
    pub fn kind(&self) -> &'static str {
        match self.code {
            USAGE => "usage",
            NO_STORE => "no-store",
            BUSY => "busy",
            WRONG_KEY => "wrong-key",
            REFUSED => "refused",
            DAMAGED => "damaged",
            NOT_FOUND => "not-found",
            INTERRUPTED => "interrupted",
            _ => "failed",
        }
    }
    /// On stderr, as text or as a JSON object.
    pub fn print(&self, json: bool) {
        if json {
            say!("{}", serde_json::json!({"error": {"code": self.code, "kind": self.kind(), "message": self.message}}));
        } else {
            say!("cairn: {}", self.message);
        }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let code = match &e {
            StoreError::NoStore { .. } => NO_STORE,
            StoreError::Key(_) => WRONG_KEY,
            StoreError::Refused(_) => REFUSED,
            StoreError::NotFound(_) => NOT_FOUND,
            StoreError::Damaged { .. } | StoreError::Unreadable { .. } | StoreError::Format(_) => DAMAGED,
            StoreError::Usage(_) => USAGE,
            StoreError::Busy(_) => BUSY,
            StoreError::Interrupted => INTERRUPTED,
            _ => FAILED,
        };
        Self::new(code, format!("{e}{}", remedy(&e)))
    }
}

/// What to do where the storage refuses; empty where the message says it.
fn remedy(e: &StoreError) -> &'static str {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match e {
        e if e.is_no_space() => "; the store's disk is full: free space there and run this again, nothing already in the store is lost",
        e if e.is_own_limit() => {
            "; that is this process's or this host's own limit, and says nothing of the store: raise it (open files: ulimit -n, or LimitNOFILE= of a unit), or \
             run this when less else is at work"
        }
        StoreError::Storage { source, .. } if source.kind() == PermissionDenied => {
            "; run this as the user who owns the store, or mend owner and mode of what is named: all of a store belongs to one user"
        }
        StoreError::Storage { source, .. } if source.kind() == ReadOnlyFilesystem => {
            "; the store's file system takes no writes: look into the kernel's log (dmesg) for why, and mount it for writing"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_table() {
        let io = |code| std::io::Error::from_raw_os_error(code);
        let full = Failure::from(StoreError::Storage { op: "write", name: "d/00/x".into(), source: io(28) });
        assert_eq!(full.code, FAILED);
        assert!(full.message.contains("full"));
        for (number, word) in [(13, "who owns the store"), (30, "dmesg"), (24, "ulimit -n"), (12, "own limit")] {
            let refused = Failure::from(StoreError::Storage { op: "list", name: "c/2026-11".into(), source: io(number) });
            assert!(refused.code == FAILED && refused.message.contains(word), "{}", refused.message);
        }
        for (e, code) in [
            (StoreError::NoStore { at: "/x".into(), why: "y".into() }, NO_STORE),
            (StoreError::Key("k".into()), WRONG_KEY),
            (StoreError::damaged("a", "b"), DAMAGED),
            (StoreError::NotFound("p".into()), NOT_FOUND),
            (StoreError::Interrupted, INTERRUPTED),
        ] {
            assert_eq!(Failure::from(e).code, code);
        }
    }
}
