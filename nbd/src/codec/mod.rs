//! The wire format, as pure functions from and to bytes.
//!
//! Invariants: big-endian throughout; no function reads past the slice it got; every length is compared with a limit of [`limits`] before
//! anything is allocated for it. It must not do I/O and must not know which side of the wire it serves.

pub mod error;
pub mod handshake;
pub mod limits;
pub mod transmission;
pub mod wire;

pub use error::CodecError;
