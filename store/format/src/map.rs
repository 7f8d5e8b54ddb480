//! Nodes of a disk's hash tree.
//!
//! A node's plain bytes: canonical length u32 · canonical part · hints. Its id covers kind, level and the canonical part only, so equal
//! content has an equal id wherever its chunks lie.
//!
//! - region (level 0), canonical: runs u16, then a run: blocks u16, tag u8 (0 zero, 1 chunk), chunk id 32 where tag is 1.
//! - branch (level 1..=5), canonical: bitmap u64 of the children that are not all zero, their ids 32 in order.
//! - hints: packs u16, a [`PackId`] each; then for each id, in order: pack index u16, offset u32, stored length u32.
//!
//! Canonical rules (checked): zero runs are never adjacent, never last; runs fit the region; a region or branch that is all zero has no
//! node at all. So one content has one encoding.

use crate::{
    FormatError, Id, Location, PackId,
    error::at_most,
    limits::{BRANCH_FANOUT, CHUNK_BLOCKS_MAX, REGION_BLOCKS},
    wire::{Put, Reader},
};
use std::collections::HashMap;

/// An id and where its frame was when the node was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ref {
    /// Content id.
    pub id: Id,
    /// Hint.
    pub at: Location,
}

/// A run of a region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// So many zero blocks.
    Zero(u16),
    /// A chunk of so many blocks.
    Chunk(u16, Ref),
}

impl Run {
    /// Length, blocks.
    pub const fn blocks(&self) -> usize {
        match self {
            Self::Zero(n) | Self::Chunk(n, _) => *n as usize,
        }
    }
}

/// A region's runs; the rest of the region is zero. Never empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Region(pub Vec<Run>);

/// A branch's children; `None` is all zero. Never all `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch(pub [Option<Ref>; BRANCH_FANOUT]);

/// Canonical part of a region: what its id is made of.
pub fn region_canonical(region: &Region) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + region.0.len() * 35);
    out.put_u16(u16::try_from(region.0.len()).expect("at most REGION_BLOCKS runs"));
    for run in &region.0 {
        match run {
            Run::Zero(n) => {
                out.put_u16(*n);
                out.put_u8(0);
            }
            Run::Chunk(n, r) => {
                out.put_u16(*n);
                out.put_u8(1);
                out.put(&r.id.0);
            }
        }
    }
    out
}

/// Canonical part of a branch.
pub fn branch_canonical(branch: &Branch) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + 32 * BRANCH_FANOUT);
    let present = branch.0.iter().enumerate().filter(|(_, c)| c.is_some()).fold(0u64, |m, (i, _)| m | 1 << i);
    out.put_u64(present);
    branch.0.iter().flatten().for_each(|r| out.put(&r.id.0));
    out
}

/// Plain bytes of a node: canonical part with its hints behind it.
pub fn with_hints<'a>(canonical: &[u8], refs: impl Iterator<Item = &'a Ref> + Clone) -> Vec<u8> {
    let mut packs: Vec<PackId> = Vec::new();
    let mut number: HashMap<PackId, u16> = HashMap::new();
    for r in refs.clone() {
        number.entry(r.at.pack).or_insert_with(|| {
            packs.push(r.at.pack);
            u16::try_from(packs.len() - 1).expect("at most REGION_BLOCKS refs")
        });
    }
    let mut out = Vec::with_capacity(canonical.len() + 8 + packs.len() * PackId::BYTES + packs.len() * 10);
    out.put_u32(u32::try_from(canonical.len()).expect("a node is some 40 KiB at most"));
    out.put(canonical);
    out.put_u16(u16::try_from(packs.len()).expect("at most REGION_BLOCKS refs"));
    packs.iter().for_each(|p| p.encode(&mut out));
    for r in refs {
        out.put_u16(number[&r.at.pack]);
        out.put_u32(r.at.offset);
        out.put_u32(r.at.stored_len);
    }
    out
}

impl Region {
    /// The chunks, in order.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> + Clone {
        self.0.iter().filter_map(|r| match r {
            Run::Chunk(_, r) => Some(r),
            Run::Zero(_) => None,
        })
    }
    /// Plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        with_hints(&region_canonical(self), self.refs())
    }
    /// Decodes plain bytes and checks the canonical rules.
    pub fn decode(plain: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "region node";
        let (canonical, hints) = split_node(plain)?;
        let mut r = Reader::new(WHAT, canonical);
        let count = usize::from(r.u16()?);
        at_most(WHAT, count as u64, REGION_BLOCKS as u64)?;
        let mut raw = Vec::with_capacity(count);
        let mut blocks = 0;
        for _ in 0..count {
            let (len, tag) = (r.u16()?, r.u8()?);
            let id = match tag {
                0 => None,
                1 => Some(Id(r.array()?)),
                _ => return Err(FormatError::invalid(WHAT, "unknown run tag")),
            };
            check_run(len, id.as_ref(), raw.last().map(|(_, id): &(u16, Option<Id>)| id.is_none()))?;
            blocks += usize::from(len);
            raw.push((len, id));
        }
        r.finish()?;
        if blocks > REGION_BLOCKS || raw.last().is_none_or(|(_, id)| id.is_none()) {
            return Err(FormatError::invalid(WHAT, "runs do not fit the region or do not end with a chunk"));
        }
        let mut at = Hints::decode(hints, raw.iter().filter(|x| x.1.is_some()).count())?.into_iter();
        let run = |(len, id): (u16, Option<Id>)| match id {
            None => Run::Zero(len),
            Some(id) => Run::Chunk(len, Ref { id, at: at.next().expect("one hint a chunk was decoded") }),
        };
        Ok(Self(raw.into_iter().map(run).collect()))
    }
}

fn check_run(len: u16, id: Option<&Id>, after_zero: Option<bool>) -> Result<(), FormatError> {
    const WHAT: &str = "region node";
    if len == 0 {
        return Err(FormatError::invalid(WHAT, "empty run"));
    }
    match id {
        None if after_zero == Some(true) => Err(FormatError::invalid(WHAT, "adjacent zero runs")),
        Some(_) if usize::from(len) > CHUNK_BLOCKS_MAX => Err(FormatError::Limit { what: WHAT, value: len.into(), limit: CHUNK_BLOCKS_MAX as u64 }),
        _ => Ok(()),
    }
}

impl Branch {
    /// The children that are not zero, in order.
    pub fn refs(&self) -> impl Iterator<Item = &Ref> + Clone {
        self.0.iter().flatten()
    }
    /// Plain bytes.
    pub fn encode(&self) -> Vec<u8> {
        with_hints(&branch_canonical(self), self.refs())
    }
    /// Decodes plain bytes.
    pub fn decode(plain: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "branch node";
        let (canonical, hints) = split_node(plain)?;
        let mut r = Reader::new(WHAT, canonical);
        let present = r.u64()?;
        if present == 0 {
            return Err(FormatError::invalid(WHAT, "no children"));
        }
        let ids: Vec<Id> = (0..present.count_ones()).map(|_| r.array().map(Id)).collect::<Result<_, _>>()?;
        r.finish()?;
        let at = Hints::decode(hints, ids.len())?;
        let mut refs = ids.into_iter().zip(at).map(|(id, at)| Ref { id, at });
        let mut out = [None; BRANCH_FANOUT];
        for (i, child) in out.iter_mut().enumerate() {
            if present >> i & 1 == 1 {
                *child = refs.next();
            }
        }
        Ok(Self(out))
    }
}

/// Splits a node's plain bytes into canonical part and hints.
pub fn split_node(plain: &[u8]) -> Result<(&[u8], &[u8]), FormatError> {
    let mut r = Reader::new("map node", plain);
    let len = r.u32()? as usize;
    Ok((r.bytes(len)?, r.rest()))
}

struct Hints;

impl Hints {
    fn decode(bytes: &[u8], count: usize) -> Result<Vec<Location>, FormatError> {
        const WHAT: &str = "node hints";
        let mut r = Reader::new(WHAT, bytes);
        let packs = usize::from(r.u16()?);
        at_most(WHAT, packs as u64, count as u64)?;
        let packs: Vec<PackId> = (0..packs).map(|_| PackId::decode(&mut r)).collect::<Result<_, _>>()?;
        let mut out = Vec::with_capacity(count);
        for _ in 0..count {
            let pack = *packs.get(usize::from(r.u16()?)).ok_or(FormatError::invalid(WHAT, "no such pack"))?;
            out.push(Location { pack, offset: r.u32()?, stored_len: r.u32()? }.checked()?);
        }
        r.finish()?;
        Ok(out)
    }
}

/// Level of the root of a disk of `size_bytes`: 0 up to one region, then the smallest that spans it.
pub fn root_level(size_bytes: u64) -> Result<u8, FormatError> {
    (0..=crate::limits::BRANCH_LEVEL_MAX).find(|&level| size_bytes <= span_bytes(level)).ok_or(FormatError::Limit {
        what: "disk size",
        value: size_bytes,
        limit: crate::limits::DISK_BYTES_MAX,
    })
}

/// Bytes that a node of `level` spans: 4 MiB, 256 MiB, 16 GiB, 1 TiB, 64 TiB, 4 PiB.
pub const fn span_bytes(level: u8) -> u64 {
    crate::limits::REGION_BYTES << (6 * level as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PackKind, SessionId};

    fn r(n: u8) -> Ref {
        let pack = PackId { session: SessionId([n; 16]), seq: n.into(), kind: PackKind::Data };
        Ref { id: Id([n; 32]), at: Location { pack, offset: 100 + u32::from(n), stored_len: 10 } }
    }

    #[test]
    fn region_round_trips_and_keeps_its_rules() {
        let good = Region(vec![Run::Zero(3), Run::Chunk(32, r(1)), Run::Chunk(8, r(2)), Run::Zero(1), Run::Chunk(1, r(1))]);
        assert_eq!(Region::decode(&good.encode()).expect("own"), good);
        for bad in [
            vec![],
            vec![Run::Zero(3)],
            vec![Run::Chunk(8, r(1)), Run::Zero(1)],
            vec![Run::Zero(1), Run::Zero(1), Run::Chunk(1, r(1))],
            vec![Run::Chunk(0, r(1))],
            vec![Run::Zero(1024), Run::Chunk(1, r(1))],
            vec![Run::Chunk(129, r(1))],
        ] {
            assert!(Region::decode(&Region(bad.clone()).encode()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hints_are_not_part_of_the_canonical_bytes() {
        let a = Region(vec![Run::Chunk(8, r(1))]);
        let moved = Ref { at: r(2).at, ..r(1) };
        let b = Region(vec![Run::Chunk(8, moved)]);
        assert_eq!(region_canonical(&a), region_canonical(&b));
        assert_ne!(a.encode(), b.encode());
    }

    #[test]
    fn branch_round_trips() {
        let mut c = [None; BRANCH_FANOUT];
        (c[0], c[63], c[5]) = (Some(r(1)), Some(r(2)), Some(r(1)));
        let good = Branch(c);
        assert_eq!(Branch::decode(&good.encode()).expect("own"), good);
        assert!(Branch::decode(&Branch([None; BRANCH_FANOUT]).encode()).is_err());
    }

    #[test]
    fn levels_span_what_the_page_says() {
        for (size, level) in [(0, 0), (1, 0), (4 << 20, 0), ((4 << 20) + 1, 1), (256 << 20, 1), (16 << 30, 2), (1 << 40, 3), (64 << 40, 4), (4 << 50, 5)] {
            assert_eq!(root_level(size), Ok(level), "{size}");
        }
        assert!(root_level((4 << 50) + 1).is_err());
    }
}
