//! One round of garbage collection: G1 to G8.
//!
//! Publish -> wait for all who might not have seen it -> look again -> delete. Each step stands alone in its function; the order of the calls in
//! [`run`] is the protocol.

use super::{
    GcOptions, GcReport,
    living::{self, Seen},
    mark::Marker,
    rounds::{self, Listed},
};
use crate::{
    Result, StoreError,
    damage::Bad,
    platform::{Created, Deleting, Durability},
    point::{
        Point, log_forgets,
        registers::{self, CachedReader, Decided, list_months},
        remembered,
    },
    store::Inner,
};
use cairn_store_format::{
    ObjectName, PackId, SessionId,
    gc::{Condemned, Pardon, Spared},
    header::ObjectKind,
    limits::SMALL_BYTES_MAX,
    map::Ref,
    name::parse_session,
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeSet, HashSet},
    fmt::Display,
};

/// Numbers that other collections may take while this one looks for a free one.
const PUBLISH_TRIES_MAX: u32 = 100;

/// Beyond all rounds that a store will see.
const ROUND_END: u64 = 1 << 48;

/// What a round leaves for those that repack, tidy and count.
pub(crate) struct Marked<'a> {
    /// K of G2, without what the round deleted.
    pub(crate) packs: BTreeSet<PackId>,
    pub(crate) marker: Marker<'a>,
    /// Sessions that had a register at G7.
    pub(crate) decided: HashSet<SessionId>,
}

/// All registers, read: what is live, what was moved, what is decided.
pub(super) struct Committed {
    points: Vec<Point>,
    lists: Vec<Ref>,
    decided: HashSet<SessionId>,
    /// Those of `decided` that were fenced or gave up.
    closed: HashSet<SessionId>,
}

/// Runs a round; `check` is asked often whether to stop.
pub(crate) fn run<'a>(store: &'a Inner, bad: &'a Bad, options: &GcOptions, report: &mut GcReport, check: &mut dyn FnMut() -> Result<()>) -> Result<Marked<'a>> {
    if !options.dry_run {
        fence_the_dead(store, options, report)?;
    }
    let (tombstones, forgotten) = forgotten(store, options)?; // G1
    let mut packs = list_packs(store)?; // G2
    let committed = committed(store, &HashSet::new(), &forgotten, options)?; // G3
    store.refresh_relocations()?;
    store.refresh_index()?;
    let mut marker = Marker::new(store, packs.iter().copied(), bad, tombstones);
    let kept = kept(store, &packs, &committed, options)?;
    mark(&mut marker, &committed, &|m, p| m.marks(p) || kept.contains(&p.session), check)?;
    alarm(&marker, options)?;
    report.damaged_points.extend(marker.damaged_points.iter().copied());
    report.damaged_points.sort_unstable();
    report.damaged_points.dedup();
    let candidates = candidates(&packs, &marker, &kept, &committed.decided, report); // G4
    report.packs = packs.len() as u64;
    report.condemned += candidates.len() as u64;
    if options.dry_run || candidates.is_empty() {
        report.would_free_bytes = sizes(store, &candidates)?;
        return Ok(Marked { packs, marker, decided: committed.decided });
    }
    let (round, condemned) = publish(store, &candidates)?;
    let older = undecided(store, &packs)?; // G5
    let pardon = living::wait_for(store, older, options, check) // G6
        .and_then(|fenced| {
            report.fenced.extend(fenced);
            look_again(store, &mut marker, committed, &forgotten, &candidates, options, check) // G7
        });
    let (pardon, decided) = match pardon {
        Ok(p) => p,
        Err(e) => {
            // Given up: what was condemned is spared, so that no backup has to avoid it any longer.
            let _ = decide(store, round, &condemned, Spared::All).and_then(|s| finish(store, round, &candidates, &s, report));
            return Err(e);
        }
    };
    let spared = decide(store, round, &condemned, pardon)?;
    finish(store, round, &candidates, &spared, report)?; // G8
    packs.retain(|p| !candidates.contains(p) || spared.contains(p));
    Ok(Marked { packs, marker, decided })
}

/// G0: sessions whose process is gone or that were silent too long are fenced before packs are looked at, so that their packs can go in this round. So are
/// points that were given up and that have neither register nor record: G5 waits for those that left packs, but only where there is a candidate.
fn fence_the_dead(store: &Inner, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    let there = decided_or_remembered(store)?;
    let mut undecided: BTreeSet<SessionId> = list_months(store, "f")?.iter().filter_map(|n| parse_session(n.file()).ok()).collect();
    undecided.retain(|id| !there.contains(id));
    for s in living::sessions(store, &store.platform.list("gc")?)? {
        undecided.remove(&s.id);
        if !s.is_reader() && !there.contains(&s.id) && s.is_dead(store, options)? {
            living::fence(store, &s)?;
            report.fenced.push(s.describe());
        }
    }
    if undecided.is_empty() {
        return Ok(());
    }
    let buried = tombstones(store)?;
    for s in undecided.into_iter().filter(|id| buried.contains(id)).map(Seen::without_record) {
        living::fence(store, &s)?;
        report.fenced.push(s.describe());
    }
    Ok(())
}

/// Sessions that nobody needs to wait for: those with a register, and points that this host remembers and that are hidden. A fence in such a point's place
/// would end all hope that its register is put back. Its packs stay, since it has no register; a tombstone gives it up.
fn decided_or_remembered(store: &Inner) -> Result<HashSet<SessionId>> {
    let mut out = living::decided(store)?;
    for id in remembered(store) {
        if !out.contains(&id) && store.platform.size(&ObjectName::tombstone(&id))?.is_none() {
            out.insert(id);
        }
    }
    Ok(out)
}

/// G1: the tombstones, and F: these, then less the pins that are alive. Fixed for the round.
fn forgotten(store: &Inner, options: &GcOptions) -> Result<(HashSet<SessionId>, HashSet<SessionId>)> {
    let tombstones = tombstones(store)?;
    let mut forgotten = tombstones.clone();
    for pinned in living::pinned(store, options)? {
        forgotten.remove(&pinned);
    }
    Ok((tombstones, forgotten))
}

/// Points that were forgotten: by a tombstone that opens under its name, or where it is damaged by the point's log. A file that only has the name
/// of a tombstone hides a point from lists; nothing is deleted on its word.
pub(super) fn tombstones(store: &Inner) -> Result<HashSet<SessionId>> {
    let mut reader = CachedReader::new(store, true);
    let mut out = HashSet::new();
    for name in list_months(store, "f")? {
        let Ok(id) = parse_session(name.file()) else { continue };
        let opened = reader.read(&name, SMALL_BYTES_MAX, |bytes| store.keys.open_object(&name, ObjectKind::Tombstone, &id.0, 0, bytes));
        match opened {
            Ok(Some(_)) => drop(out.insert(id)),
            Ok(None) => {}
            Err(e) if rounds::is_unreadable(store, &e)? => {
                if log_forgets(store, &id)? {
                    out.insert(id);
                } else {
                    tracing::warn!(
                        "{e}; the point's data is kept, since its log does not forget it. Move {name} out of the store: the point is there again, and can be forgotten anew"
                    );
                }
            }
            Err(e) => return Err(e),
        }
    }
    reader.keep();
    Ok(out)
}

/// G2: K, all packs by any of their copies.
pub(super) fn list_packs(store: &Inner) -> Result<BTreeSet<PackId>> {
    let mut out = BTreeSet::new();
    for root in ["d", "m"] {
        out.extend(list_months(store, root)?.iter().filter_map(ObjectName::as_pack));
    }
    Ok(out)
}

/// Registers that are not in `known`, from a fresh list, as they lie in the store now; those of F are decided, and no more.
pub(super) fn committed(store: &Inner, known: &HashSet<SessionId>, forgotten: &HashSet<SessionId>, options: &GcOptions) -> Result<Committed> {
    let mut out = Committed { points: Vec::new(), lists: Vec::new(), decided: HashSet::new(), closed: HashSet::new() };
    let mut reader = CachedReader::new(store, false);
    if let Some(name) = registers::misplaced(store)?.filter(|_| !options.accept_loss) {
        // Its packs would be taken for those of a session that nobody decided.
        return Err(StoreError::damaged(&name, "it lies in another object's folder; nothing was deleted. Move it to where its name belongs"));
    }
    let (all, copies) = registers::list_with_copies(store)?;
    for (id, name) in all {
        out.decided.insert(id);
        // What is forgotten needs no reading, and hinders nobody if it cannot be read.
        if known.contains(&id) || forgotten.contains(&id) {
            continue;
        }
        match reader.register(&id, &name) {
            Ok(Decided::Point(p)) => out.points.push(*p),
            Ok(Decided::Relocation(list)) => out.lists.push(list),
            Ok(Decided::Closed) if copies.contains(&id) && !options.accept_loss => {
                let copy = ObjectName::register_copy(&id);
                return Err(StoreError::damaged(
                    &name,
                    format_args!(
                        "a fence or abort stands where a point's register was, as its copy {copy} tells; nothing was deleted. Move {name} out of the store and collect \
                         again, which puts the register back; 'cairn forget --force {id}' gives the point up"
                    ),
                ));
            }
            Ok(Decided::Closed) => drop(out.closed.insert(id)),
            Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) if options.accept_loss => tracing::warn!("{e}; taken for lost"),
            Err(StoreError::Damaged { what, why }) => return Err(given_up_by_force(&what, &why, &id)),
            Err(e) if e.is_bad_media() => {
                store.check_there()?;
                return Err(given_up_by_force(&name, &e, &id));
            }
            Err(e) => return Err(e),
        }
    }
    reader.keep();
    Ok(out)
}

/// A register that tells nothing, and the way on.
fn given_up_by_force(what: &dyn Display, why: &dyn Display, id: &SessionId) -> StoreError {
    StoreError::damaged(what, format_args!("{why}; nothing was deleted. 'cairn forget --force {id}' gives this point up, then collections go on"))
}

/// G3: marks what live points refer to, and the lists of moves that are still needed.
pub(super) fn mark(
    marker: &mut Marker<'_>,
    committed: &Committed,
    stays: &dyn Fn(&Marker<'_>, &PackId) -> bool,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    // Nodes are visited once: what is missing must be noticed on behalf of a living point before a pinned, forgotten one excuses it.
    let (pinned, living): (Vec<&Point>, Vec<&Point>) = committed.points.iter().partition(|p| marker.is_tombstoned(p));
    for p in living.into_iter().chain(pinned) {
        check()?;
        marker.point(p)?;
    }
    marker.lists(&committed.lists, stays)
}

/// Something live is nowhere to be found: nothing may be deleted on the word of maps that are not whole.
fn alarm(marker: &Marker<'_>, options: &GcOptions) -> Result<()> {
    if marker.lost.is_empty() || options.accept_loss {
        return Ok(());
    }
    let (lost, points): (Vec<_>, Vec<_>) =
        (marker.lost.iter().take(5).cloned().collect(), marker.damaged_points.iter().take(5).map(ToString::to_string).collect());
    Err(StoreError::damaged(
        format_args!("at least {} live points ({})", marker.damaged_points.len(), points.join(", ")),
        format_args!(
            "{}; nothing was deleted. Run 'cairn verify --all' and a new backup of what is damaged, which stores it again; forget the points, or go on with --accept-loss",
            lost.join("; ")
        ),
    ))
}

/// Sessions whose packs stay, marked or not: undecided ones, and those that ended without a point a short while ago. Asked once a round: lists of moves
/// stay with the packs that they moved something out of.
fn kept(store: &Inner, packs: &BTreeSet<PackId>, committed: &Committed, options: &GcOptions) -> Result<HashSet<SessionId>> {
    let mut out = HashSet::new();
    for session in packs.iter().map(|p| p.session).collect::<BTreeSet<_>>() {
        if !committed.decided.contains(&session) || committed.closed.contains(&session) && is_young_orphan(store, &session, options)? {
            out.insert(session);
        }
    }
    Ok(out)
}

/// G4, first half: K less what is marked, less the packs of sessions that keep them.
fn candidates(
    packs: &BTreeSet<PackId>,
    marker: &Marker<'_>,
    kept: &HashSet<SessionId>,
    decided: &HashSet<SessionId>,
    report: &mut GcReport,
) -> HashSet<PackId> {
    let (kept, candidates): (Vec<PackId>, Vec<PackId>) = packs.iter().filter(|p| !marker.marks(p)).partition(|p| kept.contains(&p.session));
    report.kept_for_resume += kept.iter().filter(|p| decided.contains(&p.session)).count() as u64;
    candidates.into_iter().collect()
}

/// An interrupted backup finds its packs again for a while.
fn is_young_orphan(store: &Inner, id: &SessionId, options: &GcOptions) -> Result<bool> {
    if options.resume_grace_ms == 0 {
        return Ok(false);
    }
    let seen_ms = store.index.unchanged_ms(&format!("orphan-{id}"), 0, &store.platform.boot(), store.platform.monotonic_ms())?;
    Ok(seen_ms < options.resume_grace_ms)
}

fn sizes(store: &Inner, packs: &HashSet<PackId>) -> Result<u64> {
    let mut sum = 0;
    for name in packs.iter().collect::<BTreeSet<_>>().into_iter().flat_map(ObjectName::pack) {
        sum += store.platform.size(&name)?.unwrap_or(0);
    }
    Ok(sum)
}

/// G4, second half: condemned-N, durable, under a number that no round had.
fn publish(store: &Inner, candidates: &HashSet<PackId>) -> Result<(u64, Listed)> {
    let platform = &*store.platform;
    platform.check_fresh()?;
    let mut packs: Vec<PackId> = candidates.iter().copied().collect();
    packs.sort_unstable();
    let list = Condemned { host: store.host.clone(), process: platform.process(), time_unix_ms: platform.now_unix_ms(), packs };
    for _ in 0..PUBLISH_TRIES_MAX {
        // A number that no round can have come to is a stray file's; behind it there would soon be none left.
        let round = rounds::stages(&platform.list("gc")?).keys().filter(|n| **n < ROUND_END).max().map_or(1, |n| n + 1);
        let bytes = store.keys.small_object(platform, ObjectKind::Condemned, &[0; 16], round, &list.encode())?;
        if platform.create(&ObjectName::condemned(round), &bytes, Durability::Now)? == Created::New {
            let sha256 = Sha256::digest(&bytes).into();
            return Ok((round, Listed { list, sha256 }));
        }
    }
    Err(StoreError::Busy("other collections take every round before this one can; try again".into()))
}

/// G5: fresh list of sessions; those that write and are not decided. Packs whose session has no record count as one that has.
fn undecided(store: &Inner, packs: &BTreeSet<PackId>) -> Result<Vec<Seen>> {
    let mut out: Vec<Seen> = living::sessions(store, &store.platform.list("gc")?)?.into_iter().filter(|s| !s.is_reader()).collect();
    let known: HashSet<SessionId> = out.iter().map(|s| s.id).collect();
    let without: BTreeSet<SessionId> = packs.iter().map(|p| p.session).filter(|s| !known.contains(s)).collect();
    out.extend(without.into_iter().map(Seen::without_record));
    let there = decided_or_remembered(store)?;
    out.retain(|s| !there.contains(&s.id));
    Ok(out)
}

/// G7: fresh list of registers; candidates that what was committed meanwhile refers to are spared. The forgotten set is that of G1.
pub(super) fn look_again(
    store: &Inner,
    marker: &mut Marker<'_>,
    before: Committed,
    forgotten: &HashSet<SessionId>,
    candidates: &HashSet<PackId>,
    options: &GcOptions,
    check: &mut dyn FnMut() -> Result<()>,
) -> Result<(Spared, HashSet<SessionId>)> {
    let mut new = committed(store, &before.decided, forgotten, options)?;
    if !new.lists.is_empty() {
        store.refresh_relocations()?;
        marker.renew_moves();
        new.lists.iter().try_for_each(|list| marker.moved_nodes(list))?;
    }
    if marker.excused && !new.points.is_empty() {
        return Err(StoreError::Busy(
            "a reader holds a forgotten point that is damaged, and points were made meanwhile that may share the damage; nothing was deleted, try again".into(),
        ));
    }
    // What is new may need a list that nothing needed before.
    new.lists.extend(before.lists);
    mark(marker, &new, &|m, p| m.marks(p) || !candidates.contains(p), check)?;
    alarm(marker, options)?;
    Ok((Spared::Packs(candidates.iter().filter(|p| marker.marks(p)).copied().collect()), new.decided))
}

/// The register of the round: ours, or what another collection decided before.
pub(crate) fn decide(store: &Inner, round: u64, condemned: &Listed, spared: Spared) -> Result<Spared> {
    store.platform.check_fresh()?;
    let name = ObjectName::pardon(round);
    let pardon = Pardon { list_sha256: condemned.sha256, spared };
    let bytes = store.keys.small_object(&*store.platform, ObjectKind::Pardon, &[0; 16], round, &pardon.encode())?;
    if store.platform.create(&name, &bytes, Durability::Now)? == Created::New {
        return Ok(pardon.spared);
    }
    rounds::spared_of(store, round, condemned)?.ok_or_else(|| StoreError::damaged(&name, "it exists and cannot be opened"))
}

/// G8: any collection may do this for a decided round. Order: 1 discard what is not spared · 2 done-N. If we die between: the next one goes on.
pub(crate) fn finish(store: &Inner, round: u64, candidates: &HashSet<PackId>, spared: &Spared, report: &mut GcReport) -> Result<()> {
    let deleting = deleting(store)?;
    let mut doomed: Vec<&PackId> = candidates.iter().filter(|p| !spared.contains(p)).collect();
    doomed.sort_unstable();
    for pack in &doomed {
        for name in ObjectName::pack(pack) {
            let size = store.platform.size(&name)?.unwrap_or(0);
            if deleting.discard(&name, round)? {
                report.freed_bytes += size;
            }
        }
        report.deleted_packs += 1;
    }
    report.pardoned += (candidates.len() - doomed.len()) as u64;
    let bytes = store.keys.small_object(&*store.platform, ObjectKind::Done, &[0; 16], round, b"")?;
    store.platform.create(&ObjectName::done(round), &bytes, Durability::Now).map(drop)
}

/// The right to delete, or the reason why there is none.
pub(crate) fn deleting(store: &Inner) -> Result<&dyn Deleting> {
    store.platform.check_fresh()?;
    store.platform.deleting().ok_or_else(|| {
        StoreError::Refused(format!("{} may not be deleted from with these credentials; run this where the right to delete is", store.platform.location()))
    })
}
