//! Payloads of `gc/`, `f/` and `b/` objects, all inside [`crate::small`]: session records, tombstones, lists of packs, reports, relocations.

use crate::{
    FormatError, Location, PackId, SessionId,
    tlv::{Tlv, TlvWriter},
    wire::Reader,
};
use std::collections::BTreeSet;

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SessionKind {
    /// Writes a point.
    Backup = 1,
    /// Moves frames.
    Repack = 2,
    /// Reads points and pins them.
    Read = 3,
}

/// `gc/session-<sid>`: a session's sign that it exists, durable before it looks at anything (B1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// Its kind.
    pub kind: SessionKind,
    /// Host name.
    pub host: String,
    /// Started, Unix milliseconds.
    pub started_unix_ms: u64,
    /// Points it pins (readers).
    pub pins: Vec<SessionId>,
    /// The process that runs it, as its host names it; empty where unknown. Another process of that host can tell whether it is gone.
    pub process: String,
}

/// Names of processes, bytes.
const PROCESS_BYTES_MAX: usize = 255;

impl SessionRecord {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.bytes(1, &[self.kind as u8]).text(2, &self.host).u64(3, self.started_unix_ms).text(5, &self.process);
        for p in &self.pins {
            w.bytes(4, &p.0);
        }
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "session record";
        let t = Tlv::parse(WHAT, bytes)?;
        let kind = match t.array::<1>(1)?[0] {
            1 => SessionKind::Backup,
            2 => SessionKind::Repack,
            3 => SessionKind::Read,
            _ => return Err(FormatError::invalid(WHAT, "unknown kind")),
        };
        let pins = t.all(4).map(|v| crate::tlv::exact(WHAT, v).map(SessionId)).collect::<Result<_, _>>()?;
        let process = t.get(5).map_or(Ok(String::new()), |v| crate::tlv::text(WHAT, v, PROCESS_BYTES_MAX))?;
        Ok(Self { kind, host: t.text(2, 255)?, started_unix_ms: t.u64(3)?, pins, process })
    }
}

fn encode_packs<'a>(packs: impl IntoIterator<Item = &'a PackId>) -> Vec<u8> {
    let mut out = Vec::new();
    packs.into_iter().for_each(|p| p.encode(&mut out));
    out
}

fn decode_packs(bytes: &[u8]) -> Result<Vec<PackId>, FormatError> {
    let mut r = Reader::new("pack list", bytes);
    let mut out = Vec::with_capacity(bytes.len() / PackId::BYTES);
    while r.left() > 0 {
        out.push(PackId::decode(&mut r)?);
    }
    Ok(out)
}

/// `gc/condemned-<round>` (G4): packs that nothing new may come to depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condemned {
    /// Host of the collection.
    pub host: String,
    /// Its process, as in [`SessionRecord::process`].
    pub process: String,
    /// When it was published, Unix milliseconds.
    pub time_unix_ms: u64,
    /// The candidates.
    pub packs: Vec<PackId>,
}

impl Condemned {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.text(1, &self.host).text(2, &self.process).u64(3, self.time_unix_ms).bytes(4, &encode_packs(&self.packs));
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let t = Tlv::parse("condemned list", bytes)?;
        Ok(Self { host: t.text(1, 255)?, process: t.text(2, PROCESS_BYTES_MAX)?, time_unix_ms: t.u64(3)?, packs: decode_packs(t.need(4)?)? })
    }
}

/// `gc/pardon-<round>` (G7): the register that decides a round. Created once, never removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pardon {
    /// SHA-256 of the `condemned-<round>` object that it decides. Once that is retired its name is free again; another list under it is not decided
    /// by this.
    pub list_sha256: [u8; 32],
    /// Which candidates stay.
    pub spared: Spared,
}

/// Candidates of a round that are not deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spared {
    /// The round is given up: nothing of it is deleted.
    All,
    /// These are referenced after all; the others are deleted.
    Packs(BTreeSet<PackId>),
}

impl Pardon {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        match &self.spared {
            Spared::All => w.bytes(1, &[1]),
            Spared::Packs(packs) => w.bytes(1, &[0]).bytes(2, &encode_packs(packs)),
        };
        w.bytes(3, &self.list_sha256);
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "pardon";
        let t = Tlv::parse(WHAT, bytes)?;
        let spared = match t.array(1)? {
            [0] => Spared::Packs(decode_packs(t.need(2)?)?.into_iter().collect()),
            [1] => Spared::All,
            _ => return Err(FormatError::invalid(WHAT, "unknown form")),
        };
        Ok(Self { list_sha256: t.array(3)?, spared })
    }
}

impl Spared {
    /// Whether a candidate stays.
    pub fn contains(&self, pack: &PackId) -> bool {
        match self {
            Self::All => true,
            Self::Packs(packs) => packs.contains(pack),
        }
    }
}

/// Payload of the last `gc/beat-<sid>-<n>` of a reader that is done; other beats are empty.
pub const BEAT_ENDED: &[u8] = b"ended";

/// A frame's move: old place, new place. The list is the plain content of a frame of kind `Relocation`.
pub fn encode_relocations(moves: &[(Location, Location)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(moves.len() * 2 * Location::BYTES);
    for (from, to) in moves {
        from.encode(&mut out);
        to.encode(&mut out);
    }
    out
}

/// Decodes a relocation list.
pub fn decode_relocations(bytes: &[u8]) -> Result<Vec<(Location, Location)>, FormatError> {
    let mut r = Reader::new("relocation list", bytes);
    let mut out = Vec::new();
    while r.left() > 0 {
        out.push((Location::decode(&mut r)?, Location::decode(&mut r)?));
    }
    Ok(out)
}

/// `b/<id>`: a frame or pack that was found bad.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Where.
    pub at: Location,
    /// What was wrong.
    pub text: String,
    /// Host that found it.
    pub host: String,
    /// When, Unix milliseconds.
    pub time_unix_ms: u64,
}

impl Report {
    /// TLV bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut at = Vec::new();
        self.at.encode(&mut at);
        let mut w = TlvWriter::new();
        w.bytes(1, &at).text(2, &self.text).text(3, &self.host).u64(4, self.time_unix_ms);
        w.finish()
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let t = Tlv::parse("report", bytes)?;
        let mut r = Reader::new("report", t.need(1)?);
        let at = Location::decode(&mut r)?;
        r.finish()?;
        Ok(Self { at, text: t.text(2, 4096)?, host: t.text(3, 255)?, time_unix_ms: t.u64(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PackKind;

    #[test]
    fn round_trips() {
        let s = SessionRecord { kind: SessionKind::Read, host: "h".into(), started_unix_ms: 1, pins: vec![SessionId([2; 16])], process: "p".into() };
        assert_eq!(SessionRecord::decode(&s.encode()).expect("own"), s);
        let packs = [PackId { session: SessionId([1; 16]), seq: 2, kind: PackKind::Data }; 3];
        assert_eq!(decode_packs(&encode_packs(&packs)).expect("own"), packs);
        assert!(decode_packs(&encode_packs(&packs)[1..]).is_err());
        let c = Condemned { host: "h".into(), process: "p".into(), time_unix_ms: 7, packs: packs.to_vec() };
        assert_eq!(Condemned::decode(&c.encode()).expect("own"), c);
        for spared in [Spared::All, Spared::Packs(packs.into_iter().collect()), Spared::Packs(BTreeSet::new())] {
            let p = Pardon { list_sha256: [7; 32], spared };
            assert_eq!(Pardon::decode(&p.encode()).expect("own"), p);
        }
        assert!(Spared::All.contains(&packs[0]) && !Spared::Packs(BTreeSet::new()).contains(&packs[0]));
        let at = Location { pack: packs[0], offset: 3, stored_len: 4 };
        assert_eq!(decode_relocations(&encode_relocations(&[(at, at)])).expect("own"), [(at, at)]);
        let r = Report { at, text: "seal".into(), host: "h".into(), time_unix_ms: 1 };
        assert_eq!(Report::decode(&r.encode()).expect("own"), r);
    }
}
