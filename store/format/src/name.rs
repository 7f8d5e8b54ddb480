//! Names of objects: where each lies in a store, written and parsed in one place.

use crate::{FormatError, PackId, PackKind, SessionId};
use sha2::{Digest, Sha256};
use std::fmt;

/// A relative path of `/`-separated parts; only this module makes them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(String);

impl ObjectName {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The folder part.
    pub fn dir(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |p| p.0)
    }
    /// The part behind the last `/`.
    pub fn file(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |p| p.1)
    }
    /// `config/<n>.a` and `.b`, the same twice: nothing else tells what a store is.
    pub fn config(n: u32) -> [Self; 2] {
        ["a", "b"].map(|copy| Self(format!("config/{n:08}.{copy}")))
    }
    /// `keys/slot-<kid>`
    pub fn key_slot(kid: &str) -> Self {
        Self(format!("keys/slot-{kid}"))
    }
    /// `keys/ring-<n>.a` and `.b`, the same twice: without it nothing can be read.
    pub fn key_ring(n: u32) -> [Self; 2] {
        ["a", "b"].map(|copy| Self(format!("keys/ring-{n:08}.{copy}")))
    }
    /// Copies of a pack: one for data, `.a` and `.b` for metadata.
    pub fn pack(pack: &PackId) -> Vec<Self> {
        let base = format!("{}/{}-{:08}", pack_dir(pack), pack.session, pack.seq);
        match pack.kind {
            PackKind::Data => vec![Self(base)],
            PackKind::Meta => vec![Self(format!("{base}.a")), Self(format!("{base}.b"))],
        }
    }
    /// The pack that this is a copy of; `None` where it lies in another pack's folder: nobody looks for it there.
    pub fn as_pack(&self) -> Option<PackId> {
        let kind = if self.0.starts_with("d/") { PackKind::Data } else { PackKind::Meta };
        parse_pack(self.file(), kind).filter(|p| Self::pack(p).contains(self))
    }
    /// `x/<ym>/<sid>-<seq>`
    pub fn index(sid: &SessionId, seq: u32) -> Self {
        Self(format!("x/{}/{sid}-{seq:08}", sid.month()))
    }
    /// `c/<ym>/<sid>`
    pub fn register(sid: &SessionId) -> Self {
        Self(format!("c/{}/{sid}", sid.month()))
    }
    /// `r/<ym>/<sid>`, the same bytes again, written after the register: it decides nothing.
    pub fn register_copy(sid: &SessionId) -> Self {
        Self(format!("r/{}/{sid}", sid.month()))
    }
    /// `p/<ym>/<sid>-<n>`
    pub fn point_log(sid: &SessionId, n: u32) -> Self {
        Self(format!("p/{}/{sid}-{n:08}", sid.month()))
    }
    /// `v/<ym>/<sid>-<n>`
    pub fn evidence(sid: &SessionId, n: u32) -> Self {
        Self(format!("v/{}/{sid}-{n:08}", sid.month()))
    }
    /// `f/<ym>/<sid>`
    pub fn tombstone(sid: &SessionId) -> Self {
        Self(format!("f/{}/{sid}", sid.month()))
    }
    /// `gc/session-<sid>`
    pub fn session(sid: &SessionId) -> Self {
        Self(format!("gc/session-{sid}"))
    }
    /// `gc/beat-<sid>-<n>`
    pub fn beat(sid: &SessionId, n: u32) -> Self {
        Self(format!("gc/beat-{sid}-{n:08}"))
    }
    /// `gc/condemned-<round>`
    pub fn condemned(round: u64) -> Self {
        Self(format!("gc/condemned-{round:08}"))
    }
    /// `gc/pardon-<round>`
    pub fn pardon(round: u64) -> Self {
        Self(format!("gc/pardon-{round:08}"))
    }
    /// `gc/done-<round>`
    pub fn done(round: u64) -> Self {
        Self(format!("gc/done-{round:08}"))
    }
    /// `b/<report>`: one file a finding.
    pub fn report(random: &[u8; 16]) -> Self {
        Self(format!("b/{}", crate::ids::to_hex(random)))
    }
    /// `trash/<round>/<file>` of a pack's copy.
    pub fn trashed(round: &str, copy: &Self) -> Option<Self> {
        let plain = !round.is_empty() && round.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain.then(|| Self(format!("trash/{round}/{}", copy.file())))
    }
    /// An object of a listed folder; `None` where the file's name has characters that none of ours has (probes, temporary files).
    pub fn listed(dir: &str, file: &str) -> Option<Self> {
        let ours = !file.is_empty() && !file.starts_with('.') && file.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
        ours.then(|| Self(format!("{dir}/{file}")))
    }
}

/// Folder of a pack: 256 of them by the first byte of SHA-256(session, seq little-endian), so none grows too large.
fn pack_dir(pack: &PackId) -> String {
    let mut hash = Sha256::new();
    hash.update(pack.session.0);
    hash.update(pack.seq.to_le_bytes());
    let root = if pack.kind == PackKind::Data { 'd' } else { 'm' };
    format!("{root}/{:02x}", hash.finalize()[0])
}

/// `<sid>` of a file name that is nothing else (registers, tombstones). As it is written, in lower case: an object has one name.
pub fn parse_session(file: &str) -> Result<SessionId, FormatError> {
    let sid: SessionId = file.parse()?;
    if sid.to_string() == file { Ok(sid) } else { Err(FormatError::invalid("session id", "a name has it in lower case")) }
}

/// `<sid>-<number>` (index files, point logs, beats).
pub fn parse_numbered(file: &str) -> Option<(SessionId, u32)> {
    let (sid, n) = file.split_once('-')?;
    Some((parse_session(sid).ok()?, u32::try_from(parse_number(n)?).ok()?))
}

/// A pack by the file name of any of its copies.
pub fn parse_pack(file: &str, kind: PackKind) -> Option<PackId> {
    let base = match kind {
        PackKind::Data => file,
        PackKind::Meta => file.strip_suffix(".a").or_else(|| file.strip_suffix(".b"))?,
    };
    let (session, seq) = parse_numbered(base)?;
    Some(PackId { session, seq, kind })
}

/// `<prefix><number>` (`condemned-`).
pub fn parse_round(file: &str, prefix: &str) -> Option<u64> {
    parse_number(file.strip_prefix(prefix)?)
}

/// A number as all names have it: eight digits, more only where it takes more, no sign.
fn parse_number(text: &str) -> Option<u64> {
    let n = text.parse().ok()?;
    (format!("{n:08}") == text).then_some(n)
}

/// `<prefix><number>.a` or `.b` (`config/`, `ring-`).
pub fn parse_copy(file: &str, prefix: &str) -> Option<u64> {
    let number = file.strip_suffix(".a").or_else(|| file.strip_suffix(".b"))?;
    parse_round(number, prefix)
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        let sid = SessionId::new(1_795_219_200_000, [3; 10]);
        assert_eq!(ObjectName::register(&sid).dir(), "c/2026-11");
        assert_eq!(parse_session(ObjectName::register(&sid).file()).expect("own"), sid);
        assert_eq!(parse_numbered(ObjectName::point_log(&sid, 7).file()), Some((sid, 7)));
        assert_eq!(parse_round(ObjectName::condemned(12).file(), "condemned-"), Some(12));
        let meta = PackId { session: sid, seq: 1, kind: PackKind::Meta };
        assert_eq!(ObjectName::pack(&meta).len(), 2);
        assert!(ObjectName::pack(&meta).iter().all(|n| parse_pack(n.file(), PackKind::Meta) == Some(meta)));
        assert_eq!(parse_pack(ObjectName::pack(&meta)[0].file(), PackKind::Data), None);
        assert_eq!(ObjectName::pack(&meta)[1].as_pack(), Some(meta));
        assert_eq!(ObjectName::listed("m/zz", ObjectName::pack(&meta)[1].file()).expect("a name").as_pack(), None);
        assert!(ObjectName::listed("c", ".nfs0001").is_none() && ObjectName::listed("c", "a/b").is_none());
    }

    #[test]
    fn an_object_has_one_name() {
        let sid = SessionId([0xab; 16]);
        assert!(parse_session(&sid.to_string()).is_ok() && parse_session(&sid.to_string().to_uppercase()).is_err());
        let upper = sid.to_string().to_uppercase();
        for file in [format!("{sid}-7"), format!("{sid}-+0000007"), format!("{sid}-000000007"), format!("{upper}-00000007"), format!("{sid}-4294967296")] {
            assert_eq!(parse_numbered(&file), None, "{file}");
        }
        for number in ["12", "+00000012", "+0000012", "000000012", ""] {
            assert_eq!(parse_round(&format!("condemned-{number}"), "condemned-"), None, "{number}");
            assert_eq!(parse_copy(&format!("{number}.a"), ""), None, "{number}");
        }
        for round in [0, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(parse_round(ObjectName::pardon(round).file(), "pardon-"), Some(round));
        }
    }
}
