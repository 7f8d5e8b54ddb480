//! What a collection leaves behind is cleared away once nothing can need it: retired rounds, records of decided sessions, index files and reports
//! of packs that are gone, evidence of forgotten points, old temporary files, old trash.
//!
//! Invariants:
//! - condemned-N goes only after done-N exists and no index file names what the round deleted; pardon-N never goes. Where condemned-N or pardon-N cannot
//!   be read, done-N must open: it says that nobody deletes by this round any more.
//! - A session's record goes only after its register exists (writers), or after it ended or died (readers).

use super::{
    GcOptions, GcReport, living, reindex,
    round::{Marked, deleting, tombstones},
    rounds, twins,
};
use crate::{
    Result, StoreError,
    damage::{read_or_skip, read_reports},
    platform::{Created, Deleting, Durability, random_bytes},
    point::registers::list_months,
    store::Inner,
};
use cairn_store_format::{
    ObjectName, PackId, PackKind, SessionId,
    index::{self, IndexedPack},
    limits::LIST_BYTES_MAX,
    name::{parse_numbered, parse_pack, parse_round},
};
use std::collections::{BTreeSet, HashSet};

/// Index files that a collection writes anew take numbers from here on; sessions count from 0.
const REWRITTEN_SEQ_MIN: u32 = 50_000_000;
/// Sequence numbers have eight digits.
const SEQ_END: u32 = 100_000_000;
/// Packs of one rewritten index file: their footers must fit it.
const PACKS_PER_FILE: usize = 16;

/// See the module.
pub(super) fn tidy(store: &Inner, marked: &Marked<'_>, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    let deleting = deleting(store)?;
    retire_rounds(store, deleting, report)?;
    index_files(store, deleting, marked, report)?;
    twins::mend(store, deleting, report)?;
    reindex::replace_damaged(store, deleting, &marked.decided, report)?;
    records(store, deleting, options, report)?;
    reports(store, deleting, marked, report)?;
    evidence(store, deleting, report)?;
    temporaries(store, deleting, options, report)?;
    purge_trash(store, options, &marked.marker.needed_in_trash(), report)
}

/// A round that is done and whose list or pardon cannot be read is retired as well: all its deletes are finished, so what it took is what index files name
/// and is not there.
fn retire_rounds(store: &Inner, deleting: &dyn Deleting, report: &mut GcReport) -> Result<()> {
    for (n, stage) in rounds::stages(&store.platform.list("gc")?) {
        if !stage.done {
            continue;
        }
        if stage.condemned {
            let sessions: BTreeSet<SessionId> = match rounds::taken(store, n) {
                Ok(Some(gone)) => gone.iter().map(|p| p.session).collect(),
                Ok(None) => continue,
                Err(e) if e.is_damage() || e.is_bad_media() || matches!(e, StoreError::Format(_)) => {
                    store.check_there()?;
                    if !rounds::is_done(store, n)? {
                        // A file name alone is no proof that nobody will delete by this round any more.
                        tracing::warn!("{e}; round {n} cannot be cleared away, since {} cannot be read either", ObjectName::done(n));
                        continue;
                    }
                    tracing::warn!("{e}; the round is done, and is cleared away by what is there");
                    list_months(store, "x")?.iter().filter_map(|name| parse_numbered(name.file())).map(|(session, _)| session).collect()
                }
                Err(e) => return Err(e),
            };
            for session in &sessions {
                forget_in_index(store, deleting, session, report)?;
            }
            report.tidied += u64::from(deleting.delete(&ObjectName::condemned(n))?);
        }
        report.tidied += u64::from(deleting.delete(&ObjectName::done(n))?);
    }
    Ok(())
}

/// Index files of a session name only packs that exist. Order: 1 what is still there in a new file, durable · 2 old files deleted. If we die
/// between: some packs are named twice.
fn forget_in_index(store: &Inner, deleting: &dyn Deleting, session: &SessionId, report: &mut GcReport) -> Result<()> {
    let dir = ObjectName::index(session, 0);
    let (mut old, mut kept): (Vec<ObjectName>, Vec<IndexedPack>) = (Vec::new(), Vec::new());
    for name in store.platform.list(dir.dir())?.into_iter().filter(|n| parse_numbered(n.file()).is_some_and(|(s, _)| s == *session)) {
        let Some(bytes) = read_or_skip(&*store.platform, &name, LIST_BYTES_MAX)? else { continue };
        // A damaged file names nothing to anybody; `reindex` replaces it.
        let Ok((_, packs)) = index::decode(&bytes) else { continue };
        let mut there = Vec::new();
        let all = packs.len();
        for p in packs {
            if store.pack_exists(&p.pack)? {
                there.push(p);
            }
        }
        if there.len() < all {
            old.push(name);
            kept.extend(there);
        }
    }
    write_index(store, session, &kept)?;
    for name in &old {
        report.tidied += u64::from(deleting.delete(name)?);
    }
    Ok(())
}

/// New index files for packs of a session, durable.
pub(super) fn write_index(store: &Inner, session: &SessionId, packs: &[IndexedPack]) -> Result<()> {
    for packs in packs.chunks(PACKS_PER_FILE) {
        let bytes = index::encode(session, packs);
        while store.platform.create(&ObjectName::index(session, new_seq(store)), &bytes, Durability::Now)? == Created::Exists {}
    }
    Ok(())
}

/// Index files of decided sessions that have no pack left: a power loss brought one back, or it came after its packs were collected. Sessions that
/// were waited for have packs that G2 did not see: each pack is asked for before a file goes.
fn index_files(store: &Inner, deleting: &dyn Deleting, marked: &Marked<'_>, report: &mut GcReport) -> Result<()> {
    let with_packs: HashSet<SessionId> = marked.packs.iter().map(|p| p.session).collect();
    for name in list_months(store, "x")? {
        if parse_numbered(name.file()).is_some_and(|(s, _)| marked.decided.contains(&s) && !with_packs.contains(&s)) {
            let Some(bytes) = read_or_skip(&*store.platform, &name, LIST_BYTES_MAX)? else { continue };
            let Ok((_, packs)) = index::decode(&bytes) else { continue };
            let mut any = false;
            for p in &packs {
                any |= store.pack_exists(&p.pack)?;
            }
            if !any {
                report.tidied += u64::from(deleting.delete(&name)?);
            }
        }
    }
    Ok(())
}

fn new_seq(store: &Inner) -> u32 {
    REWRITTEN_SEQ_MIN + u32::from_le_bytes(random_bytes(&*store.platform)) % (SEQ_END - REWRITTEN_SEQ_MIN)
}

fn records(store: &Inner, deleting: &dyn Deleting, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    let names = store.platform.list("gc")?;
    let decided = living::decided(store)?;
    let mut alive: BTreeSet<SessionId> = BTreeSet::new();
    for s in living::sessions(store, &names)? {
        let over = if s.is_reader() { s.has_ended(store)? || s.is_dead(store, options)? } else { decided.contains(&s.id) };
        if over {
            report.tidied += u64::from(deleting.delete(&ObjectName::session(&s.id))?);
        } else {
            alive.insert(s.id);
        }
    }
    for name in &names {
        let beat = name.file().strip_prefix("beat-").and_then(parse_numbered);
        if beat.is_some_and(|(s, _)| !alive.contains(&s)) {
            report.tidied += u64::from(deleting.delete(name)?);
        }
    }
    Ok(())
}

/// Reports about packs that are gone and that nothing refers to.
fn reports(store: &Inner, deleting: &dyn Deleting, marked: &Marked<'_>, report: &mut GcReport) -> Result<()> {
    for (name, r) in read_reports(store)? {
        if !marked.packs.contains(&r.at.pack) && !marked.marker.marks(&r.at.pack) && !store.pack_exists(&r.at.pack)? {
            // Lost and healed: an index file that goes on naming it would be a finding for ever.
            forget_in_index(store, deleting, &r.at.pack.session, report)?;
            report.tidied += u64::from(deleting.delete(&name)?);
        }
    }
    Ok(())
}

/// Evidence of boot proofs goes with its point: a tombstone is irrevocable, if it is one. What belongs to no point that is known stays, like its log.
fn evidence(store: &Inner, deleting: &dyn Deleting, report: &mut GcReport) -> Result<()> {
    let names = list_months(store, "v")?;
    if names.is_empty() {
        return Ok(());
    }
    let buried = tombstones(store)?;
    for name in &names {
        if parse_numbered(name.file()).is_some_and(|(point, _)| buried.contains(&point)) {
            report.tidied += u64::from(deleting.delete(name)?);
        }
    }
    Ok(())
}

fn temporaries(store: &Inner, deleting: &dyn Deleting, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    let mut dirs: Vec<String> = ["gc", "b", "config", "keys"].map(String::from).to_vec();
    // The outer folders too: on NFS a listing of months leaves its probe there when it is killed.
    for root in ["d", "m", "x", "c", "r", "p", "f", "v", "trash"] {
        dirs.push(root.into());
        dirs.extend(store.platform.list_dirs(root)?.into_iter().map(|d| format!("{root}/{d}")));
    }
    for dir in dirs {
        report.tidied += deleting.delete_temporaries(&dir, options.dead_after_ms)?;
    }
    Ok(())
}

/// Discarded packs go when they are old enough, except for `needed`: what healing has not yet taken out of them is nowhere else.
pub(super) fn purge_trash(store: &Inner, options: &GcOptions, needed: &HashSet<PackId>, report: &mut GcReport) -> Result<()> {
    let deleting = deleting(store)?;
    for round in store.platform.list_dirs("trash")? {
        let dir = format!("trash/{round}");
        let Some(modified_ms) = deleting.dir_modified_unix_ms(&dir)? else { continue };
        // Folders that are not ours are left alone.
        if parse_round(&round, "").is_none() || store.platform.now_unix_ms().saturating_sub(modified_ms) < options.trash_keep_ms {
            continue;
        }
        for name in store.platform.list(&dir)? {
            if [PackKind::Data, PackKind::Meta].iter().any(|kind| parse_pack(name.file(), *kind).is_some_and(|pack| needed.contains(&pack))) {
                tracing::warn!("{name} stays: it holds the only good copy of something that is in use");
                continue;
            }
            let size = store.platform.size(&name)?.unwrap_or(0);
            if deleting.delete(&name)? {
                report.purged_files += 1;
                report.purged_bytes += size;
            }
        }
        deleting.delete_empty_dir(&dir)?;
    }
    Ok(())
}
