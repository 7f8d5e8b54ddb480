//! Newtypes for everything that could be mistaken for another number or string.

use crate::{
    FormatError,
    error::at_most,
    limits::{FRAME_STORED_BYTES_MAX, PACK_BYTES_MAX},
    wire::{Put, Reader},
};
use std::{fmt, str::FromStr};

/// Content id of a frame: HMAC-SHA-256 (or SHA-256 in stores without encryption) over kind, level and plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// First eight bytes: the local index's key.
    pub const fn prefix(&self) -> u64 {
        let b = &self.0;
        u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }
        impl FromStr for $name {
            type Err = FormatError;
            fn from_str(s: &str) -> Result<Self, FormatError> {
                parse_hex(s).map(Self)
            }
        }
    };
}

hex_id! {
    /// The store's own id.
    StoreId
}
hex_id! {
    /// Shared by stores that copy packs raw among each other; part of every seal.
    FamilyId
}
hex_id! {
    /// A session, and the point it may commit: 48 bits of milliseconds, then random (UUIDv7 layout). The time is a convenience only.
    SessionId
}

impl SessionId {
    /// Builds an id from a time (Unix milliseconds) and random bytes.
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut b = [0; 16];
        b[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        b[6..].copy_from_slice(&random);
        b[6] = 0x70 | (b[6] & 0x0f);
        b[8] = 0x80 | (b[8] & 0x3f);
        Self(b)
    }
    /// The time inside, Unix milliseconds.
    pub fn unix_ms(&self) -> u64 {
        let b = &self.0;
        u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
    }
    /// `<ym>` of object names: the UTC month of the id's time, `YYYY-MM`.
    pub fn month(&self) -> String {
        let (year, month) = civil_month(self.unix_ms() / 86_400_000);
        format!("{year:04}-{month:02}")
    }
}

/// Year and month of a day count since 1970-01-01 (proleptic Gregorian, days >= 0).
fn civil_month(days: u64) -> (u64, u64) {
    // Years are taken to begin in March, so that the leap day is the last day and months follow one linear rule.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month)
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// What a pack holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PackKind {
    /// Chunks.
    Data = 1,
    /// Map nodes and manifest parts; stored twice.
    Meta = 2,
}

impl PackKind {
    /// From its byte.
    pub const fn from_u8(v: u8) -> Result<Self, FormatError> {
        match v {
            1 => Ok(Self::Data),
            2 => Ok(Self::Meta),
            _ => Err(FormatError::invalid("pack kind", "unknown")),
        }
    }
}

/// A pack: its session, its number there, its kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// Session that wrote it.
    pub session: SessionId,
    /// Counts from 0 over both kinds in one session.
    pub seq: u32,
    /// Data or metadata.
    pub kind: PackKind,
}

impl PackId {
    /// Bytes of [`PackId::encode`].
    pub const BYTES: usize = 21;
    /// session 16, seq u32, kind u8.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&self.session.0);
        out.put_u32(self.seq);
        out.put_u8(self.kind as u8);
    }
    /// Reads what `encode` wrote.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        Ok(Self { session: SessionId(r.array()?), seq: r.u32()?, kind: PackKind::from_u8(r.u8()?)? })
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = if self.kind == PackKind::Data { 'd' } else { 'm' };
        write!(f, "{dir}/{}-{}", self.session, self.seq)
    }
}
impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame's place (a *hint*: it may be outdated, the frame's header proves the id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// Offset of the frame header in it, bytes.
    pub offset: u32,
    /// Stored length after the frame header, bytes.
    pub stored_len: u32,
}

impl Location {
    /// Bytes of [`Location::encode`].
    pub const BYTES: usize = PackId::BYTES + 8;
    /// pack, offset u32, stored length u32.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.pack.encode(out);
        out.put_u32(self.offset);
        out.put_u32(self.stored_len);
    }
    /// Reads what `encode` wrote.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, FormatError> {
        let (pack, offset, stored_len) = (PackId::decode(r)?, r.u32()?, r.u32()?);
        Self { pack, offset, stored_len }.checked()
    }
    /// A place that a pack can have: readers allocate by it.
    pub fn checked(self) -> Result<Self, FormatError> {
        at_most("location", self.stored_len.into(), FRAME_STORED_BYTES_MAX as u64)?;
        at_most("location", self.offset.into(), PACK_BYTES_MAX as u64)?;
        Ok(self)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Lower-case hex of any bytes.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Exactly `N` bytes of lower- or upper-case hex.
pub fn parse_hex<const N: usize>(s: &str) -> Result<[u8; N], FormatError> {
    const WHAT: &str = "hexadecimal id";
    let b = s.as_bytes();
    if b.len() != 2 * N {
        return Err(FormatError::invalid(WHAT, "wrong length"));
    }
    let mut out = [0; N];
    for (o, pair) in out.iter_mut().zip(b.chunks_exact(2)) {
        let digit = |c: u8| (c as char).to_digit(16).ok_or(FormatError::invalid(WHAT, "not a hexadecimal digit"));
        *o = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).expect("two hexadecimal digits fit a byte");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ids_carry_their_month_and_version() {
        for (ms, month) in
            [(0, "1970-01"), (951_782_400_000, "2000-02"), (951_868_800_000, "2000-03"), (1_795_219_200_000, "2026-11"), (4_107_542_399_000, "2100-02")]
        {
            let id = SessionId::new(ms, [0xff; 10]);
            assert_eq!((id.unix_ms(), id.month().as_str()), (ms, month));
            assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (7, 2));
            assert_eq!(id.to_string().parse::<SessionId>().expect("own hex"), id);
        }
    }

    #[test]
    fn hex_is_checked() {
        assert!(parse_hex::<2>("zz00").is_err());
        assert!(parse_hex::<2>("000").is_err());
        assert_eq!(parse_hex::<2>("A0ff").expect("valid"), [0xa0, 0xff]);
    }
}
