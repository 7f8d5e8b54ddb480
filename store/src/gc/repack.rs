//! Moving the live frames of thinly used packs together, so that the old packs can go; and healing: moving what still is good out of packs that
//! were reported, and what has another copy somewhere to where its place says it is.
//!
//! A session of its own: B1, B2, B5, B6, whose register holds a list of moves instead of a point. Frames are copied as they are, sealed, with the
//! row of their key: neither data keys nor decompression are needed. A frame whose checksum does not hold stays where it is, and its pack with it.

use super::{GcOptions, GcReport, mark::Spare, round::Marked, rounds::Doomed, subtree::Subtrees};
use crate::{
    Result, StoreError,
    crypto::SealedFrame,
    damage::{read_or_skip, read_reports},
    pack::PackStream,
    session::{Registered, abort, commit},
    store::Inner,
};
use cairn_store_format::{
    Location, ObjectName, PackId, PackKind,
    gc::{SessionKind, encode_relocations},
    limits::PACK_BYTES_MAX,
    map::Ref,
    pack::{FRAME_HEADER_BYTES, FrameHeader, FrameKind, KEY_ROW_NONE, KeyRow, Slot},
    register::{self, Body, DiskTable, RegisterKind, Seen},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Moves out of thin packs, and as many for healing, of one list: it is one frame of at most 16 MiB, 58 bytes a move.
const MOVES_MAX: usize = 130_000;

/// Moves frames if it is worth it; whether anything was moved.
pub(super) fn repack(
    store: &Arc<Inner>,
    marked: &Marked<'_>,
    options: &GcOptions,
    report: &mut GcReport,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<bool> {
    let mut thin = thin_packs(store, marked, options)?;
    report.would_repack = thin.len() as u64;
    let displaced = &marked.marker.displaced;
    if options.dry_run || (thin.is_empty() && displaced.is_empty()) {
        return Ok(false);
    }
    let session = Registered::new(store, SessionKind::Repack, Vec::new())?; // B1
    let doomed = Doomed::of(store, &store.platform.list("gc")?)?; // B2
    thin.retain(|p| !doomed.contains(&p.pack));
    let moved = stand_ins(store, &doomed, displaced, check).and_then(|displaced| move_frames(store, &session, &thin, &displaced, report, check));
    if !matches!(moved, Ok(true) | Err(StoreError::Fenced { .. })) {
        abort(store, &session.id);
    }
    moved
}

/// B3 to B5a of healing: places that are bad or gone, and copies that may be put in their stead.
pub(super) fn stand_ins(
    store: &Inner,
    doomed: &Doomed,
    displaced: &HashMap<Location, Spare>,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<(Location, Spare)>> {
    let mut out: Vec<(Location, Spare)> = displaced.iter().map(|(at, copy)| (*at, copy.clone())).collect();
    if out.is_empty() {
        return Ok(out);
    }
    out.sort_unstable_by_key(|(at, _)| (at.pack, at.offset));
    out.truncate(MOVES_MAX);
    let mut subtrees = Subtrees::new(store, doomed)?;
    let mut kept = Vec::with_capacity(out.len());
    for (at, copy) in out {
        if subtrees.may_stand_in(&copy, check)? {
            kept.push((at, copy));
        }
    }
    Ok(kept)
}

/// A pack and its frames that are in use, in the order they lie in.
pub(super) struct Thin {
    pack: PackId,
    live: Vec<Slot>,
    live_bytes: u64,
}

fn thin_packs(store: &Inner, marked: &Marked<'_>, options: &GcOptions) -> Result<Vec<Thin>> {
    let mut out = Vec::new();
    let reported: HashSet<PackId> = read_reports(store)?.iter().map(|(_, r)| r.at.pack).collect();
    if options.repack_below_percent == 0 && reported.is_empty() {
        return Ok(out);
    }
    for pack in marked.packs.iter().filter(|p| marked.marker.marks(p) && marked.decided.contains(&p.session)) {
        let info = match store.packs.info(pack) {
            Ok(info) => info,
            // Damaged packs are left to scrub and healing.
            Err(e) if e.is_damage() || e.is_bad_media() => continue,
            Err(e) => return Err(e),
        };
        let at = |s: &Slot| Location { pack: *pack, offset: s.offset, stored_len: s.stored_len };
        // Of a bad frame the checksum may hold and the seal not: another copy, if there is one, is moved instead.
        let used = |s: &&Slot| marked.marker.marks_place(pack, s.offset) && !marked.marker.bad.contains(&at(s));
        let mut live: Vec<Slot> = info.footer.slots.iter().filter(used).copied().collect();
        // Of the frames, not of the file: what a small pack needs besides them would make it thin for ever.
        let bytes = |slots: &[Slot]| -> u64 { slots.iter().map(|s| FRAME_HEADER_BYTES as u64 + u64::from(s.stored_len)).sum() };
        let live_bytes = bytes(&live);
        // Lists stay where their registers say: nothing else would lead to a list that was moved itself.
        live.retain(|s| s.kind != FrameKind::Relocation);
        if live.is_empty() {
            continue;
        }
        if reported.contains(pack) || live_bytes * 100 < bytes(&info.footer.slots) * options.repack_below_percent {
            live.sort_unstable_by_key(|s| s.offset);
            out.push(Thin { pack: *pack, live, live_bytes });
        }
    }
    // Those that free most for least come first, in case not all fit one list; neighbours in time stay neighbours.
    out.sort_by_key(|t| (t.live_bytes, t.pack));
    let mut moves = 0;
    out.retain(|t| {
        moves += t.live.len();
        moves <= MOVES_MAX
    });
    out.sort_by_key(|t| t.pack);
    Ok(out)
}

pub(super) fn move_frames(
    store: &Arc<Inner>,
    session: &Registered,
    thin: &[Thin],
    displaced: &[(Location, Spare)],
    report: &mut GcReport,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<bool> {
    let index = store.clone();
    let mut stream =
        PackStream::new(store.platform.clone(), store.keys.clone(), session.id, Box::new(move |p| index.index.add_or_warn(std::slice::from_ref(p))));
    let mut moves: Vec<(Location, Location)> = Vec::new();
    for t in thin {
        check()?;
        copy_pack(store, t, &mut stream, &mut moves)?;
    }
    for (at, copy) in displaced {
        check()?;
        if let Some(to) = copy_frame(store, copy, &mut stream)? {
            report.healed_frames += 1;
            moves.push((*at, to));
        }
    }
    if moves.is_empty() {
        return Ok(false);
    }
    let list = stream.put_plain(FrameKind::Relocation, &encode_relocations(&moves), false)?;
    stream.finish()?; // B5
    check()?;
    commit(store, &session.id, &sealed_register(store, session, list)?)?; // B6
    report.moved_frames += moves.len() as u64;
    report.moved_bytes += moves.iter().map(|(from, _)| u64::from(from.stored_len)).sum::<u64>();
    Ok(true)
}

pub(crate) fn sealed_register(store: &Inner, session: &Registered, list: Ref) -> Result<Vec<u8>> {
    let kind = RegisterKind::Relocation;
    let body = Body { parents: Vec::new(), seen: Seen::default(), disks: DiskTable::Inline(Vec::new()), manifest: Some(list) }.encode()?;
    let sealed = store.keys.seal_small(&*store.platform, &register::aad(&session.id, kind, 2), &body);
    Ok(register::encode(&session.id, kind, &[], &sealed)?)
}

fn copy_pack(store: &Inner, thin: &Thin, stream: &mut PackStream, moves: &mut Vec<(Location, Location)>) -> Result<()> {
    let rows: Vec<Arc<KeyRow>> = store.packs.info(&thin.pack)?.footer.key_rows.iter().cloned().map(Arc::new).collect();
    let (mut copies, mut in_parts) = (Vec::new(), Vec::new());
    for name in ObjectName::pack(&thin.pack) {
        match read_or_skip(&*store.platform, &name, PACK_BYTES_MAX)? {
            Some(bytes) => copies.push(bytes),
            // A bad sector costs the frames on it and no others.
            None => in_parts.push(name),
        }
    }
    for slot in &thin.live {
        let at = Location { pack: thin.pack, offset: slot.offset, stored_len: slot.stored_len };
        let mut frame = copies.iter().find_map(|bytes| whole_frame(bytes, slot, &rows));
        for name in &in_parts {
            if frame.is_none() {
                frame = frame_alone(store, name, slot, &rows)?;
            }
        }
        let Some(frame) = frame else {
            tracing::warn!("{} at {}: the frame is damaged and is not moved", thin.pack, slot.offset);
            continue;
        };
        let to = match thin.pack.kind {
            PackKind::Data => stream.put_chunk(&frame)?.0,
            PackKind::Meta => stream.put_meta(&frame)?,
        };
        moves.push((at, to));
    }
    Ok(())
}

/// One frame from where a good copy of it lies.
fn copy_frame(store: &Inner, spare: &Spare, stream: &mut PackStream) -> Result<Option<Location>> {
    let (copy, names) = (&spare.frame, spare.names());
    let info = match spare.info(store) {
        Ok(info) => info,
        Err(e) if e.is_damage() || e.is_bad_media() => return Ok(None),
        Err(e) => return Err(e),
    };
    let rows: Vec<Arc<KeyRow>> = info.footer.key_rows.iter().cloned().map(Arc::new).collect();
    let Some(slot) = info.footer.slots.iter().find(|s| s.id == copy.id && s.offset == copy.at.offset) else { return Ok(None) };
    for name in &names {
        if let Some(frame) = frame_alone(store, name, slot, &rows)? {
            let to = match copy.at.pack.kind {
                PackKind::Data => stream.put_chunk(&frame)?.0,
                PackKind::Meta => stream.put_meta(&frame)?,
            };
            return Ok(Some(to));
        }
    }
    Ok(None)
}

/// The same from a file of which only this frame is read; one that the disk does not give is not whole.
fn frame_alone(store: &Inner, name: &ObjectName, slot: &Slot, rows: &[Arc<KeyRow>]) -> Result<Option<SealedFrame>> {
    let bytes = match store.platform.read_at(name, slot.offset.into(), FRAME_HEADER_BYTES + slot.stored_len as usize) {
        Err(e) if e.is_bad_media() => None,
        other => other?,
    };
    Ok(bytes.and_then(|bytes| whole_frame(&bytes, &Slot { offset: 0, ..*slot }, rows)))
}

/// The frame that a slot names, if it lies there whole.
fn whole_frame(pack: &[u8], slot: &Slot, rows: &[Arc<KeyRow>]) -> Option<SealedFrame> {
    let start = slot.offset as usize;
    let body = start + FRAME_HEADER_BYTES;
    let header = FrameHeader::decode(pack.get(start..body)?).ok()?;
    let stored = pack.get(body..body + slot.stored_len as usize)?;
    let same = (header.id, header.kind, header.level, header.stored_len) == (slot.id, slot.kind, slot.level, slot.stored_len);
    if !same || header.check_stored(stored).is_err() {
        return None;
    }
    let row = match header.key_row {
        KEY_ROW_NONE => None,
        n => Some(rows.get(usize::from(n))?.clone()),
    };
    let FrameHeader { id, kind, level, codec, codec_level, crc, .. } = header;
    Some(SealedFrame { id, kind, level, codec, codec_level, stored: stored.to_vec(), crc, row })
}
