//! Pure codecs of the store's objects: bytes in, values out, no I/O, no keys, no clock.
//!
//! Invariants:
//! - Little-endian everywhere; every length is checked against the input and a named limit ([`limits`]) before it is believed.
//! - Decoding never panics and allocates no more than the input's length (or a limit) allows.
//! - What encodes also decodes to the same value; maps have exactly one encoding ([`map`]), since their bytes are hashed.
//!
//! Must not: seal, hash with a key, compress, or know where an object is stored. `docs/format.md` is the same text byte for byte.

pub mod boot_proof;
pub mod config;
mod error;
pub mod gc;
pub mod header;
pub mod ids;
pub mod index;
pub mod keys;
pub mod limits;
pub mod manifest;
pub mod map;
pub mod name;
pub mod pack;
pub mod point_log;
pub mod register;
pub mod small;
pub mod tlv;
pub mod wire;

pub use error::FormatError;
pub use ids::{FamilyId, Id, Location, PackId, PackKind, SessionId, StoreId};
pub use name::ObjectName;
