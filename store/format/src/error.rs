//! The one error of this crate: what was wrong with which object's bytes.

/// Why bytes were refused. `what` names the object or field, as `docs/format.md` does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The input ends before the field does.
    #[error("{what}: too short, needs {need} bytes and has {have}")]
    Short {
        /// Object or field.
        what: &'static str,
        /// Bytes needed from here.
        need: usize,
        /// Bytes left.
        have: usize,
    },
    /// Bytes follow where the object should have ended.
    #[error("{what}: {extra} bytes too many")]
    Trailing {
        /// Object.
        what: &'static str,
        /// Surplus bytes.
        extra: usize,
    },
    /// These bytes are something else.
    #[error("{what}: wrong magic or kind")]
    Magic {
        /// Object.
        what: &'static str,
    },
    /// Written by a newer, incompatible version.
    #[error("{what}: format {found} is not supported (this version reads {known}); use a newer cairn")]
    Version {
        /// Object.
        what: &'static str,
        /// Version or feature bits found.
        found: u64,
        /// What this code knows.
        known: u64,
    },
    /// A checksum does not match.
    #[error("{what}: checksum differs")]
    Checksum {
        /// Object or field.
        what: &'static str,
    },
    /// A value is beyond its limit.
    #[error("{what}: {value} is beyond the limit {limit}")]
    Limit {
        /// Field.
        what: &'static str,
        /// Value found.
        value: u64,
        /// Largest allowed.
        limit: u64,
    },
    /// Any other breach of the format.
    #[error("{what}: {why}")]
    Invalid {
        /// Object or field.
        what: &'static str,
        /// The rule that is broken.
        why: &'static str,
    },
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub const fn invalid(what: &'static str, why: &'static str) -> Self {
        Self::Invalid { what, why }
    }
}

/// `value <= limit`, or the error that says so.
pub(crate) fn at_most(what: &'static str, value: u64, limit: u64) -> Result<(), FormatError> {
    if value <= limit { Ok(()) } else { Err(FormatError::Limit { what, value, limit }) }
}
