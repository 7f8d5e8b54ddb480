//! The 16 bytes every object starts with.

use crate::{
    FormatError,
    wire::{Put, Reader},
};

/// Length of an encoded header, bytes.
pub const HEADER_BYTES: usize = 16;
/// Version of all objects that this code writes.
pub const VERSION: u16 = 1;
/// Incompatible feature bits this code knows: a set bit outside means "do not touch".
pub const INCOMPAT_KNOWN: u32 = 0;
const MAGIC: [u8; 4] = *b"CRN1";

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ObjectKind {
    /// `d/`
    DataPack = 1,
    /// `m/`
    MetaPack = 2,
    /// `x/`
    Index = 3,
    /// `c/`
    Register = 4,
    /// `p/`
    PointLog = 5,
    /// `f/`
    Tombstone = 6,
    /// `gc/session-`
    Session = 7,
    /// `gc/beat-`
    Beat = 8,
    /// `config/`
    Config = 9,
    /// `keys/` slots
    KeySlot = 10,
    /// `keys/ring-`
    KeyRing = 11,
    /// `gc/condemned-`
    Condemned = 12,
    /// `gc/pardon-`
    Pardon = 13,
    /// `gc/done-`
    Done = 14,
    /// `b/`
    Report = 15,
    /// `v/`
    Evidence = 16,
}

/// Writes the header. Layout: magic 4, kind u8, reserved u8 (0), version u16, incompatible bits u32, read-compatible bits u32.
pub fn put_header(out: &mut Vec<u8>, kind: ObjectKind) {
    out.put(&MAGIC);
    out.put_u8(kind as u8);
    out.put_u8(0);
    out.put_u16(VERSION);
    out.put_u32(INCOMPAT_KNOWN);
    out.put_u32(0);
}

/// Checks that a header of `kind` stands here. Read-compatible bits are free for later versions.
pub fn check_header(what: &'static str, r: &mut Reader<'_>, kind: ObjectKind) -> Result<(), FormatError> {
    if r.array::<4>()? != MAGIC || r.u8()? != kind as u8 {
        return Err(FormatError::Magic { what });
    }
    let _reserved = r.u8()?;
    let version = r.u16()?;
    if version != VERSION {
        return Err(FormatError::Version { what, found: version.into(), known: VERSION.into() });
    }
    let incompat = r.u32()?;
    if incompat & !INCOMPAT_KNOWN != 0 {
        return Err(FormatError::Version { what, found: incompat.into(), known: INCOMPAT_KNOWN.into() });
    }
    let _compat = r.u32()?;
    Ok(())
}
