//! The commit register: the one object that makes a point exist.
//!
//! header 16 · session 16 · kind u8 · reserved 3 (0) · summary length u16 · body length u16 · sealed summary · sealed body · CRC32C u32;
//! at most 4 KiB in all. Associated data of both seals: the bytes before the lengths, then one byte (1 summary, 2 body).
//! The summary is what `list` needs; it is at most 512 bytes and never changes, so it may be cached for ever.

use crate::{
    FormatError, SessionId,
    error::at_most,
    header::{HEADER_BYTES, ObjectKind, check_header, put_header},
    ids::Location,
    limits::{
        DISK_BYTES_MAX, DISKS_MAX, HOST_BYTES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX, REGISTER_BYTES_MAX, SUMMARY_PLAIN_BYTES_MAX, SUMMARY_SEALED_BYTES_MAX,
        TAG_BYTES_MAX, TARGET_BYTES_MAX,
    },
    map::Ref,
    tlv::{Tlv, TlvWriter},
    wire::{Put, Reader, check_crc, put_crc},
};

const PREFIX_BYTES: usize = HEADER_BYTES + 16 + 4;
/// Disk tables up to this size stay in the register; larger ones go to a frame of their own.
pub const INLINE_DISKS_BYTES_MAX: usize = 2800;

/// What a session ended as. Exactly one register a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RegisterKind {
    /// A restore point.
    Manifest = 1,
    /// A repack or heal: frames moved.
    Relocation = 2,
    /// A GC shut the session out.
    Fence = 3,
    /// The session gave up.
    Abort = 4,
}

/// A register as decoded; its parts still have to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register<'a> {
    /// Its session.
    pub session: SessionId,
    /// What it is.
    pub kind: RegisterKind,
    /// Sealed [`Summary`]; empty in fences and aborts.
    pub summary: &'a [u8],
    /// Sealed [`Body`]; empty in fences and aborts.
    pub body: &'a [u8],
}

fn prefix(session: &SessionId, kind: RegisterKind) -> Vec<u8> {
    let mut out = Vec::with_capacity(PREFIX_BYTES);
    put_header(&mut out, ObjectKind::Register);
    out.put(&session.0);
    out.put(&[kind as u8, 0, 0, 0]);
    out
}

/// Associated data of a part's seal (`part`: 1 summary, 2 body).
pub fn aad(session: &SessionId, kind: RegisterKind, part: u8) -> Vec<u8> {
    let mut out = prefix(session, kind);
    out.push(part);
    out
}

/// Encodes a register around its sealed parts.
pub fn encode(session: &SessionId, kind: RegisterKind, summary: &[u8], body: &[u8]) -> Result<Vec<u8>, FormatError> {
    at_most("register summary", summary.len() as u64, SUMMARY_SEALED_BYTES_MAX as u64)?;
    let mut out = prefix(session, kind);
    at_most("register", (PREFIX_BYTES + 8 + summary.len() + body.len()) as u64, REGISTER_BYTES_MAX as u64)?;
    out.put_u16(u16::try_from(summary.len()).expect("checked above"));
    out.put_u16(u16::try_from(body.len()).expect("checked above"));
    out.put(summary);
    out.put(body);
    put_crc(&mut out);
    Ok(out)
}

/// Decodes a register.
pub fn decode(bytes: &[u8]) -> Result<Register<'_>, FormatError> {
    const WHAT: &str = "register";
    at_most(WHAT, bytes.len() as u64, REGISTER_BYTES_MAX as u64)?;
    let mut r = Reader::new(WHAT, check_crc(WHAT, bytes)?);
    check_header(WHAT, &mut r, ObjectKind::Register)?;
    let session = SessionId(r.array()?);
    let kind = match r.u8()? {
        1 => RegisterKind::Manifest,
        2 => RegisterKind::Relocation,
        3 => RegisterKind::Fence,
        4 => RegisterKind::Abort,
        _ => return Err(FormatError::invalid(WHAT, "unknown kind")),
    };
    let _reserved = r.array::<3>()?;
    let (summary_len, body_len) = (usize::from(r.u16()?), usize::from(r.u16()?));
    at_most("register summary", summary_len as u64, SUMMARY_SEALED_BYTES_MAX as u64)?;
    let (summary, body) = (r.bytes(summary_len)?, r.bytes(body_len)?);
    r.finish()?;
    Ok(Register { session, kind, summary, body })
}

/// What `list` shows of a point.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Domain or image.
    pub name: String,
    /// The point in time, Unix milliseconds by the host's clock.
    pub time_unix_ms: u64,
    /// Job duration, milliseconds.
    pub duration_ms: u64,
    /// Sum of the disks' sizes, bytes.
    pub size_bytes: u64,
    /// Read from the source, bytes.
    pub read_bytes: u64,
    /// Found changed, bytes.
    pub changed_bytes: u64,
    /// Newly stored, bytes.
    pub stored_bytes: u64,
    /// `application`, `filesystem`, `crash` or `none` (images).
    pub quiesce: String,
    /// Number of disks.
    pub disks: u64,
    /// Number of warnings in the manifest.
    pub warnings: u64,
    /// Tags given at the backup.
    pub tags: Vec<String>,
    /// Host that took it, at most 64 bytes; retention counts each host's points of a name apart.
    pub host: String,
}

impl Summary {
    /// TLV bytes; the caller seals them and learns from [`encode`] if they are too many.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        at_most("name", self.name.len() as u64, NAME_BYTES_MAX as u64)?;
        let mut w = TlvWriter::new();
        w.text(1, &self.name).u64(2, self.time_unix_ms).u64(3, self.duration_ms).u64(4, self.size_bytes);
        w.u64(5, self.read_bytes).u64(6, self.changed_bytes).u64(7, self.stored_bytes);
        w.text(8, &self.quiesce).u64(9, self.disks).u64(10, self.warnings);
        for tag in &self.tags {
            at_most("tag", tag.len() as u64, TAG_BYTES_MAX as u64)?;
            w.text(11, tag);
        }
        let without_host = w.finish();
        at_most("register summary", without_host.len() as u64, SUMMARY_PLAIN_BYTES_MAX as u64)?;
        let mut w = TlvWriter::new();
        w.text(12, cut_text(&self.host, HOST_BYTES_MAX));
        let host = w.finish();
        // A long name with many tags is worth more than the host's.
        let room = !self.host.is_empty() && without_host.len() + host.len() <= SUMMARY_PLAIN_BYTES_MAX;
        Ok(if room { [without_host, host].concat() } else { without_host })
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        at_most("register summary", bytes.len() as u64, SUMMARY_PLAIN_BYTES_MAX as u64)?;
        let t = Tlv::parse("register summary", bytes)?;
        Ok(Self {
            name: t.text(1, NAME_BYTES_MAX)?,
            time_unix_ms: t.u64(2)?,
            duration_ms: t.u64(3)?,
            size_bytes: t.u64(4)?,
            read_bytes: t.u64(5)?,
            changed_bytes: t.u64(6)?,
            stored_bytes: t.u64(7)?,
            quiesce: t.text(8, 32)?,
            disks: t.u64(9)?,
            warnings: t.u64_or(10, 0)?,
            tags: t.texts(11, TAG_BYTES_MAX)?,
            host: t.get(12).map_or(Ok(String::new()), |v| crate::tlv::text("register summary", v, HOST_BYTES_MAX))?,
        })
    }
}

/// How a disk was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DiskMode {
    /// Read whole, nothing to compare with.
    Full = 1,
    /// Only what the dirty bitmap named.
    Incremental = 2,
    /// Read whole, compared with the parent's map.
    Compare = 3,
}

/// A disk of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// `vda`, `disk0`; unique in its point.
    pub target: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Root of its tree; `None` where all is zero.
    pub root: Option<Ref>,
    /// Read from the source, bytes.
    pub read_bytes: u64,
    /// In chunks that differ from the parent's, bytes.
    pub changed_bytes: u64,
    /// Stored for it, bytes in packs.
    pub stored_bytes: u64,
    /// How it was read.
    pub mode: DiskMode,
    /// Why not incremental; empty where it was.
    pub reason: String,
}

impl DiskEntry {
    fn encode(&self) -> Result<Vec<u8>, FormatError> {
        at_most("disk target", self.target.len() as u64, TARGET_BYTES_MAX as u64)?;
        at_most("disk size", self.size_bytes, DISK_BYTES_MAX)?;
        let mut w = TlvWriter::new();
        w.text(1, &self.target).u64(2, self.size_bytes);
        if let Some(root) = &self.root {
            w.bytes(3, &encode_ref(root));
        }
        let mut counts = Vec::with_capacity(24);
        [self.read_bytes, self.changed_bytes, self.stored_bytes].iter().for_each(|v| counts.put_u64(*v));
        w.bytes(4, &counts).bytes(5, &[self.mode as u8]);
        if !self.reason.is_empty() {
            w.text(6, cut_text(&self.reason, REASON_BYTES_MAX));
        }
        Ok(w.finish())
    }
    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "disk entry";
        let t = Tlv::parse(WHAT, bytes)?;
        let counts: [u8; 24] = t.array(4)?;
        let mut c = Reader::new(WHAT, &counts);
        let mode = match t.array::<1>(5)? {
            [1] => DiskMode::Full,
            [2] => DiskMode::Incremental,
            [3] => DiskMode::Compare,
            _ => return Err(FormatError::invalid(WHAT, "unknown mode")),
        };
        let size_bytes = t.u64(2)?;
        at_most("disk size", size_bytes, DISK_BYTES_MAX)?;
        Ok(Self {
            target: t.text(1, TARGET_BYTES_MAX)?,
            size_bytes,
            root: t.get(3).map(decode_ref).transpose()?,
            read_bytes: c.u64()?,
            changed_bytes: c.u64()?,
            stored_bytes: c.u64()?,
            mode,
            reason: t.get(6).map_or(Ok(String::new()), |v| crate::tlv::text(WHAT, v, REASON_BYTES_MAX))?,
        })
    }
}

/// The longest start of `s` that is at most `limit` bytes and whole characters.
pub fn cut_text(s: &str, limit: usize) -> &str {
    let mut end = limit.min(s.len());
    while !s.is_char_boundary(end) {
        end -= 1;
    }
    &s[..end]
}

/// id 32, location.
pub fn encode_ref(r: &Ref) -> Vec<u8> {
    let mut out = r.id.0.to_vec();
    r.at.encode(&mut out);
    out
}

/// Reads what [`encode_ref`] wrote.
pub fn decode_ref(bytes: &[u8]) -> Result<Ref, FormatError> {
    let mut r = Reader::new("frame reference", bytes);
    let out = Ref { id: crate::Id(r.array()?), at: Location::decode(&mut r)? };
    r.finish()?;
    Ok(out)
}

/// Encodes a disk table (in the body, or as a frame).
pub fn encode_disks(disks: &[DiskEntry]) -> Result<Vec<u8>, FormatError> {
    at_most("disks", disks.len() as u64, DISKS_MAX as u64)?;
    let mut w = TlvWriter::new();
    for d in disks {
        w.bytes(1, &d.encode()?);
    }
    Ok(w.finish())
}

/// Decodes a disk table.
pub fn decode_disks(bytes: &[u8]) -> Result<Vec<DiskEntry>, FormatError> {
    let t = Tlv::parse("disk table", bytes)?;
    let disks: Vec<_> = t.all(1).map(DiskEntry::decode).collect::<Result<_, _>>()?;
    at_most("disks", disks.len() as u64, DISKS_MAX as u64)?;
    Ok(disks)
}

/// Where the disk table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskTable {
    /// In the register itself.
    Inline(Vec<DiskEntry>),
    /// In a frame of kind `DiskTable`.
    Frame(Ref),
}

/// A point whose tree this one's was built upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its session.
    pub session: SessionId,
    /// SHA-256 of its register.
    pub register_sha256: [u8; 32],
}

/// The registers that were known when the session chose its parent (B3): a store that hides or replays points is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// How many.
    pub count: u64,
    /// SHA-256 over their sorted session ids.
    pub hash: [u8; 32],
}

/// What a register says besides its summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Points whose trees this one's were built upon, newest first; usually one, several where disks were last saved at different times.
    pub parents: Vec<Parent>,
    /// Registers known at B3.
    pub seen: Seen,
    /// Disks (`Manifest`); empty for relocations.
    pub disks: DiskTable,
    /// Manifest frame, or relocation list frame.
    pub manifest: Option<Ref>,
}

impl Body {
    /// TLV bytes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut w = TlvWriter::new();
        for p in &self.parents {
            w.bytes(1, &[&p.session.0[..], &p.register_sha256].concat());
        }
        w.u64(2, self.seen.count).bytes(3, &self.seen.hash);
        match &self.disks {
            DiskTable::Inline(disks) => w.bytes(4, &encode_disks(disks)?),
            DiskTable::Frame(r) => w.bytes(5, &encode_ref(r)),
        };
        if let Some(r) = &self.manifest {
            w.bytes(6, &encode_ref(r));
        }
        Ok(w.finish())
    }
    /// Decodes TLV bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "register body";
        let t = Tlv::parse(WHAT, bytes)?;
        let parent = |v| {
            let mut r = Reader::new("parent", v);
            let out = Parent { session: SessionId(r.array()?), register_sha256: r.array()? };
            r.finish().map(|()| out)
        };
        Ok(Self {
            parents: t.all(1).map(parent).collect::<Result<_, _>>()?,
            seen: Seen { count: t.u64(2)?, hash: t.array(3)? },
            disks: match (t.get(4), t.get(5)) {
                (Some(v), None) => DiskTable::Inline(decode_disks(v)?),
                (None, Some(v)) => DiskTable::Frame(decode_ref(v)?),
                _ => return Err(FormatError::invalid(WHAT, "needs one disk table")),
            },
            manifest: t.get(6).map(decode_ref).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Id, PackId, PackKind};

    fn disk(n: u8) -> DiskEntry {
        let pack = PackId { session: SessionId([n; 16]), seq: 1, kind: PackKind::Meta };
        let root = Ref { id: Id([n; 32]), at: Location { pack, offset: 64, stored_len: 99 } };
        DiskEntry {
            target: format!("vd{n}"),
            size_bytes: 1 << 33,
            root: Some(root),
            read_bytes: 1,
            changed_bytes: 2,
            stored_bytes: 3,
            mode: DiskMode::Compare,
            reason: "bitmap is gone".into(),
        }
    }

    #[test]
    fn parts_round_trip() {
        let s = Summary { name: "büro-1".into(), time_unix_ms: 1, tags: vec!["gold".into()], quiesce: "crash".into(), disks: 2, ..Summary::default() };
        assert_eq!(Summary::decode(&s.encode().expect("small")).expect("own"), s);
        let b = Body {
            parents: vec![Parent { session: SessionId([1; 16]), register_sha256: [2; 32] }],
            seen: Seen { count: 3, hash: [4; 32] },
            disks: DiskTable::Inline(vec![disk(1), DiskEntry { root: None, reason: String::new(), ..disk(2) }]),
            manifest: disk(3).root,
        };
        assert_eq!(Body::decode(&b.encode().expect("small")).expect("own"), b);
    }

    #[test]
    fn register_refuses_flips_and_oversize() {
        let sid = SessionId([9; 16]);
        let bytes = encode(&sid, RegisterKind::Manifest, b"summary", b"body").expect("small");
        let r = decode(&bytes).expect("own");
        assert_eq!((r.session, r.kind, r.summary, r.body), (sid, RegisterKind::Manifest, &b"summary"[..], &b"body"[..]));
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x40;
            assert!(decode(&bad).is_err(), "byte {i}");
        }
        assert!(encode(&sid, RegisterKind::Manifest, &[0; 513], b"").is_err());
        assert!(encode(&sid, RegisterKind::Manifest, b"", &[0; 4090]).is_err());
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut_text("aä", 2), "a");
        assert_eq!(cut_text("aä", 3), "aä");
    }
}
