//! Garbage collection without locks: docs/gc.md, whose labels (G1..G8) stand in the code.
//!
//! Order of one collection: rounds that others left open are closed -> a round -> old trash is purged -> frames of thinly used and of damaged packs
//! are moved -> a second round if anything was moved -> records, index files, reports and trash that nothing needs any more are removed. Must not:
//! delete a pack otherwise than by G8 of a decided round.

mod living;
mod mark;
mod reindex;
mod repack;
mod round;
mod rounds;
mod settle;
mod subtree;
mod tidy;
mod twins;

#[cfg(test)]
mod readers;
#[cfg(test)]
mod tests;

pub(crate) use rounds::Doomed;

use crate::{
    Progress, Result,
    damage::Bad,
    point::{self, PointSet, registers},
    store::{Inner, Store},
};
use cairn_store_format::{PackId, SessionId};
use std::collections::HashSet;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// Copies of registers that one collection makes: a store of an older version has none, and each is a synced file.
const REGISTER_COPIES_MAX: usize = 2000;

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Say what would go, change nothing.
    pub dry_run: bool,
    /// A session or collection without a sign of life for so long, by this host's own observations, is taken for dead.
    pub dead_after_ms: u64,
    /// Longest wait for backups that began before.
    pub wait_ms_max: u64,
    /// Time between two looks while waiting.
    pub poll_ms: u64,
    /// Packs of backups that ended without a point are kept so long, so that the next backup finds them.
    pub resume_grace_ms: u64,
    /// Discarded packs stay in the trash so long.
    pub trash_keep_ms: u64,
    /// Packs of which less than so many percent are in use are rewritten; 0: none.
    pub repack_below_percent: u64,
    /// Go on although live points refer to what is nowhere to be found.
    pub accept_loss: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            dry_run: false,
            dead_after_ms: DAY_MS,
            wait_ms_max: 120 * MINUTE_MS,
            poll_ms: 2000,
            resume_grace_ms: DAY_MS,
            trash_keep_ms: 3 * DAY_MS,
            repack_below_percent: 50,
            accept_loss: false,
        }
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct GcReport {
    /// Packs found.
    pub packs: u64,
    /// Candidates of all rounds of this collection.
    pub condemned: u64,
    /// Candidates that were referred to after all.
    pub pardoned: u64,
    /// Packs discarded.
    pub deleted_packs: u64,
    /// Their bytes, all copies; on local storage they lie in the trash until it is purged.
    pub freed_bytes: u64,
    /// Bytes that a dry run found to be free.
    pub would_free_bytes: u64,
    /// Frames moved out of thinly used packs.
    pub moved_frames: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Packs that could be rewritten (dry run).
    pub would_repack: u64,
    /// Frames that were bad or gone at their place and have a good copy there again.
    pub healed_frames: u64,
    /// Registers that were lost and put back from their copies.
    pub registers_put_back: u64,
    /// Packs kept for interrupted backups.
    pub kept_for_resume: u64,
    /// Sessions that were shut out.
    pub fenced: Vec<String>,
    /// Rounds of other collections that were closed.
    pub settled_rounds: u64,
    /// Records, index files, reports and temporary files removed.
    pub tidied: u64,
    /// Files removed from the trash.
    pub purged_files: u64,
    /// Their bytes.
    pub purged_bytes: u64,
    /// Points that refer to what is lost (with `accept_loss`).
    pub damaged_points: Vec<SessionId>,
}

impl Store {
    /// Frees what no point refers to. Safe beside backups, restores and other collections on any host.
    pub fn collect(&self, options: &GcOptions, progress: &Progress) -> Result<GcReport> {
        let store = &*self.inner;
        round::deleting(store)?;
        let mut report = GcReport::default();
        let mut check = || progress.check();
        let points = PointSet::load_logs_from_storage(store)?;
        if !options.accept_loss {
            points.none_is_missing()?;
        }
        if !options.dry_run {
            store.platform.check_fresh()?;
            with_room(store, options, &mut report, |report| {
                point::finish_forgets(store, &points)?;
                report.registers_put_back += registers::put_back(store, &points.forgotten().copied().collect())?;
                settle::settle(store, options, report)
            })?;
        }
        let bad = Bad::load(store)?;
        let marked = with_room(store, options, &mut report, |report| round::run(store, &bad, options, report, &mut check))?;
        if !options.dry_run {
            // Before anything is moved, which takes room: on a full disk the trash may be all that can make some.
            tidy::purge_trash(store, options, &marked.marker.needed_in_trash(), &mut report)?;
        }
        let moved = match repack::repack(&self.inner, &marked, options, &mut report, &mut check) {
            Err(e) if e.is_no_space() => {
                tracing::warn!("{e}; nothing was moved out of thinly used or damaged packs, the next collection with more room does it");
                false
            }
            other => other?,
        };
        let marked = if moved { round::run(store, &bad, options, &mut report, &mut check)? } else { marked };
        if !options.dry_run {
            tidy::tidy(store, &marked, options, &mut report)?;
            // Those of `points`: what was forgotten meanwhile has a copy too many.
            registers::make_copies(store, round::deleting(store)?, &points.forgotten().copied().collect(), REGISTER_COPIES_MAX)?;
        }
        Ok(report)
    }
}

/// A step that writes a little. On a full disk old trash goes before it is given up: what a collection frees is behind steps that need some room.
fn with_room<T>(store: &Inner, options: &GcOptions, report: &mut GcReport, mut step: impl FnMut(&mut GcReport) -> Result<T>) -> Result<T> {
    match step(report) {
        Err(e) if e.is_no_space() && !options.dry_run => {
            let before = report.purged_files;
            tidy::purge_trash(store, options, &needed_in_trash(store)?, report)?;
            if report.purged_files == before {
                return Err(e);
            }
            tracing::warn!("{e}; {} files were purged from the trash, trying again", report.purged_files - before);
            step(report)
        }
        other => other,
    }
}

/// Packs that frames were moved out of whose new places are bad by reports that hold: where no walk has looked yet, these may hold the only good copies.
fn needed_in_trash(store: &Inner) -> Result<HashSet<PackId>> {
    store.refresh_relocations()?;
    let bad = Bad::load(store)?;
    let moves = store.relocations.known();
    Ok(moves.keys().filter(|from| store.relocations.ends(from).iter().any(|end| bad.contains(end))).map(|from| from.pack).collect())
}
