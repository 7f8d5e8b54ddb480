//! One pack, every byte of it: header, frames, footer, trailer, and the whole against the index file.

use super::{Finding, Indexed, Scrub, footer_sha256};
use crate::{Result, StoreError, damage::whole_pack, pack::footer_of, resolve::decompressor};
use cairn_store_format::{
    Location, ObjectName, PackId,
    limits::PACK_BYTES_MAX,
    pack::{FRAME_HEADER_BYTES, FrameHeader, PACK_HEADER_BYTES, Slot, decode_pack_header},
};
use sha2::{Digest, Sha256};
use zstd::bulk::Decompressor;

/// What was seen of a pack, all copies.
#[derive(Default)]
pub(super) struct Checked {
    pub(super) bytes: u64,
    pub(super) frames: u64,
    pub(super) findings: Vec<Finding>,
}

/// What a thread of the scrub uses again for every pack.
pub(super) struct Worker {
    zstd: Decompressor<'static>,
    pack: Vec<u8>,
}

impl Worker {
    pub(super) fn new() -> Self {
        Self { zstd: decompressor(), pack: Vec::new() }
    }
}

impl Scrub<'_> {
    pub(super) fn pack(&self, worker: &mut Worker, pack: &PackId, indexed: Option<&Indexed>) -> Result<Checked> {
        let mut out = Checked::default();
        let names = ObjectName::pack(pack);
        let mut there = 0;
        for name in &names {
            match self.platform.read_into(name, PACK_BYTES_MAX, &mut worker.pack) {
                Ok(true) => {}
                Ok(false) => continue,
                // A disk that gives no bytes is damage like any other; the scrub goes on. Whoever may not read it, or cannot for want of memory, of file
                // handles or of a server that answers, has learnt nothing about the pack: a report would have others store again what is whole.
                Err(e) if e.is_damage() || e.is_bad_media() => {
                    self.check_there()?;
                    there += 1;
                    self.in_parts(&mut worker.zstd, pack, name, &e, &mut out)?;
                    continue;
                }
                Err(e) => return Err(e),
            }
            there += 1;
            out.bytes += worker.pack.len() as u64;
            self.copy(&mut worker.zstd, pack, name, &mut worker.pack, indexed, &mut out)?;
        }
        // None at all: a collection took it after it was listed, or the storage went away. One of two: the other was lost.
        if there == 0 {
            self.check_there()?;
        }
        if there > 0 && there < names.len() && self.platform.size(&names[0])?.is_some() != self.platform.size(&names[1])?.is_some() {
            self.finding(&mut out, &names[0], &whole_pack(*pack), None, "one of its two copies is missing");
        }
        Ok(out)
    }

    fn copy(
        &self,
        zstd: &mut Decompressor<'static>,
        pack: &PackId,
        name: &ObjectName,
        bytes: &mut [u8],
        indexed: Option<&Indexed>,
        out: &mut Checked,
    ) -> Result<()> {
        let before = out.findings.len();
        let whole = whole_pack(*pack);
        // With keys every frame proves itself and no byte lies outside of frames, header and footer: then the index file's footer is enough to
        // tell the pack from another one, and a hash over all of it would be a third of this scrub's work. Opening frames spoils `bytes`.
        let same = self.keyed.is_some() || indexed.is_none_or(|i| Sha256::digest(&*bytes)[..] == i.sha256);
        match decode_pack_header(bytes, pack.kind) {
            Ok((_, id)) if id == *pack => {}
            Ok((_, id)) => self.finding(out, name, &whole, Some(0), &format!("it is pack {id} under another's name")),
            Err(e) => self.finding(out, name, &whole, Some(0), &e.to_string()),
        }
        match footer_of(bytes) {
            Ok((footer, end)) => {
                let same = same && (self.keyed.is_none() || indexed.is_none_or(|i| footer_sha256(&footer) == i.footer_sha256));
                let mut slots: Vec<&Slot> = footer.slots.iter().collect();
                slots.sort_unstable_by_key(|s| s.offset);
                let mut at = PACK_HEADER_BYTES;
                for slot in slots {
                    out.frames += 1;
                    let place = Location { pack: *pack, offset: slot.offset, stored_len: slot.stored_len };
                    if slot.offset as usize != at {
                        self.finding(out, name, &whole, Some(at as u64), "there is a gap between frames");
                    }
                    at = slot.offset as usize + FRAME_HEADER_BYTES + slot.stored_len as usize;
                    if let Some(why) = self.frame(zstd, name, bytes, slot, &place)? {
                        self.finding(out, name, &place, Some(slot.offset.into()), &why);
                    }
                }
                if at != end {
                    self.finding(out, name, &whole, Some(at as u64), "there is a gap before the footer");
                }
                if before == out.findings.len() && !same {
                    self.finding(out, name, &whole, None, "it is not the pack that its index file names");
                }
            }
            Err(why) => {
                self.finding(out, name, &whole, None, &why);
                // An index file may have the footer: then it tells which frames are whole.
                let rescued = self.keyed.and_then(|store| store.packs.info(pack).ok());
                for slot in rescued.iter().flat_map(|info| &info.footer.slots) {
                    out.frames += 1;
                    let place = Location { pack: *pack, offset: slot.offset, stored_len: slot.stored_len };
                    if let Some(why) = self.frame(zstd, name, bytes, slot, &place)? {
                        self.finding(out, name, &place, Some(slot.offset.into()), &why);
                    }
                }
            }
        }
        Ok(())
    }

    /// A file that the disk does not give as a whole: a bad sector costs the frames on it and no others, and these are what is reported, so that backups
    /// store them again. Which frames there are its footer tells, or an index file.
    fn in_parts(&self, zstd: &mut Decompressor<'static>, pack: &PackId, name: &ObjectName, e: &StoreError, out: &mut Checked) -> Result<()> {
        let before = out.findings.len();
        let info = self.keyed.filter(|_| e.is_bad_media()).and_then(|store| store.packs.info(pack).ok());
        for slot in info.iter().flat_map(|info| &info.footer.slots) {
            out.frames += 1;
            let place = Location { pack: *pack, offset: slot.offset, stored_len: slot.stored_len };
            let why = match self.platform.read_at(name, slot.offset.into(), FRAME_HEADER_BYTES + slot.stored_len as usize) {
                Ok(Some(mut bytes)) => {
                    out.bytes += bytes.len() as u64;
                    self.frame(zstd, name, &mut bytes, &Slot { offset: 0, ..*slot }, &place)?
                }
                Ok(None) => Some("it reaches beyond the pack's end".into()),
                Err(e) if e.is_bad_media() => Some(e.to_string()),
                Err(e) => return Err(e),
            };
            if let Some(why) = why {
                self.finding(out, name, &place, Some(slot.offset.into()), &why);
            }
        }
        // What cannot be read lies between the frames, or nothing tells where they are.
        if before == out.findings.len() {
            self.finding(out, name, &whole_pack(*pack), None, &e.to_string());
        }
        Ok(())
    }

    fn frame(&self, zstd: &mut Decompressor<'static>, name: &ObjectName, pack: &mut [u8], slot: &Slot, place: &Location) -> Result<Option<String>> {
        let start = slot.offset as usize;
        let Some(bytes) = pack.get_mut(start..start + FRAME_HEADER_BYTES + slot.stored_len as usize) else {
            return Ok(Some("it reaches beyond the pack's end".into()));
        };
        let header = match FrameHeader::decode(&bytes[..FRAME_HEADER_BYTES]) {
            Ok(h) => h,
            Err(e) => return Ok(Some(e.to_string())),
        };
        if (header.id, header.kind, header.level, header.stored_len) != (slot.id, slot.kind, slot.level, slot.stored_len) {
            return Ok(Some("another frame lies where the footer says".into()));
        }
        let Some(store) = self.keyed else {
            return Ok(header.check_stored(&bytes[FRAME_HEADER_BYTES..]).err().map(|e| e.to_string()));
        };
        match store.packs.open(name, &store.keys, zstd, place, (slot.id, slot.kind, slot.level), bytes) {
            Ok(_) => Ok(None),
            Err(StoreError::Damaged { why, .. }) => Ok(Some(why)),
            Err(e) => Err(e),
        }
    }

    fn finding(&self, out: &mut Checked, name: &ObjectName, at: &Location, offset: Option<u64>, why: &str) {
        self.report(at, why);
        out.findings.push(Finding { object: name.to_string(), offset, why: why.into() });
    }
}
