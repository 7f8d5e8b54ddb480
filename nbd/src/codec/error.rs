//! What can be wrong with bytes.

use thiserror::Error;

/// A violation of the wire format. Display names the field and both values.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// A magic number is another one.
    #[error("{field} is {found:#x}, expected {expected:#x}")]
    Magic {
        /// Field name.
        field: &'static str,
        /// What came.
        found: u64,
        /// What must come.
        expected: u64,
    },
    /// Fewer bytes than the field needs.
    #[error("{field} is cut short: {found} bytes, at least {needed} needed")]
    Short {
        /// Field name.
        field: &'static str,
        /// Bytes there.
        found: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// More bytes than the field has.
    #[error("{field} has {extra} bytes too many")]
    Trailing {
        /// Field name.
        field: &'static str,
        /// Bytes left over.
        extra: usize,
    },
    /// A length above its limit.
    #[error("{field} is {found}, the limit is {limit}")]
    TooLarge {
        /// Field name.
        field: &'static str,
        /// What was claimed.
        found: u64,
        /// What is accepted.
        limit: u64,
    },
    /// A value the protocol forbids.
    #[error("{field} has the forbidden value {found}")]
    Forbidden {
        /// Field name.
        field: &'static str,
        /// What came.
        found: u64,
    },
    /// A name that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// Field name.
        field: &'static str,
    },
}
