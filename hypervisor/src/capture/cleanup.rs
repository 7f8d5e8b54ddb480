//! The end of a capture, however it ended: step 8 of docs/capture.md.
//!
//! Everything is found by asking libvirt and QEMU, so that job, guard and sweep can all run it, again and again. Order: exports · abort the job
//! · wait until it is gone (the frozen bitmap is busy until then) · bitmaps · scratch. Every wait has a limit.

use std::path::Path;
use std::time::{Duration, Instant};

use super::error::CaptureError;
use super::names::BitmapName;
use super::scratch;
use crate::domain::Domain;
use crate::qmp::QmpError;
use crate::qmp::bitmaps::{BitmapAction, transaction};
use crate::qmp::exports;
use crate::qmp::nodes::Nodes;

/// How long an aborted job may take to end. QEMU needs milliseconds, but libvirt handles its events one by one, and a guest port that opens or
/// closes during a backup (an agent that restarts) holds that queue up for its 30 s job lock, each time (docs/capture.md).
pub const JOB_END_LIMIT: Duration = Duration::from_secs(75);
/// How long a bitmap may stay busy after its export and job are gone.
pub const BITMAP_FREE_LIMIT: Duration = Duration::from_secs(5);
/// Between two requests to abort.
const ABORT_INTERVAL: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// Name of the socket in every backup of ours; it tells our jobs from others'.
pub const SOCKET_NAME: &str = "cairn-backup.sock";

/// What is there of ours, besides bitmaps.
pub fn is_ours(backup_xml: &str) -> bool {
    backup_xml.contains(SOCKET_NAME)
}

/// Takes everything of ours away from a domain except the bitmaps that `keep` wants. A domain that no longer runs has only scratch.
///
/// # Errors
/// The first failure; whatever could still be done was done.
pub fn run(domain: &Domain, scratch_folder: &Path, remove: &dyn Fn(&str, &BitmapName) -> bool) -> Result<(), CaptureError> {
    let live = clean_qemu(domain, remove);
    // Scratch in use by a job that would not end must stay: QEMU would go on writing to a file without a name.
    if live.is_ok() {
        scratch::remove(scratch_folder)?;
    }
    live
}

fn clean_qemu(domain: &Domain, remove: &dyn Fn(&str, &BitmapName) -> bool) -> Result<(), CaptureError> {
    type Step<'a> = (&'a str, &'a dyn Fn() -> Result<(), CaptureError>);
    let steps: [Step<'_>; 3] =
        [("exports removed", &|| remove_exports(domain)), ("job ended", &|| end_job(domain)), ("bitmaps removed", &|| remove_bitmaps(domain, remove))];
    let mut first_error = None;
    for (done, step) in steps {
        if !domain.is_running()? {
            return Ok(());
        }
        match step() {
            Ok(()) => tracing::debug!("step: {done}"),
            Err(CaptureError::Qmp(error)) if error.is_not_running() => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "clean-up");
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn remove_exports(domain: &Domain) -> Result<(), CaptureError> {
    if exports::remove_ours(domain)? { Ok(()) } else { Err(CaptureError::Stuck { what: "an NBD export".to_owned(), limit: exports::REMOVE_LIMIT }) }
}

/// Aborts our backup job, if one runs, and waits until it is gone. A foreign job is left alone.
///
/// # Errors
/// [`CaptureError::Stuck`], libvirt's.
pub fn end_job(domain: &Domain) -> Result<(), CaptureError> {
    let start = Instant::now();
    let mut last_abort: Option<Instant> = None;
    while domain.backup_xml()?.is_some_and(|xml| is_ours(&xml)) {
        // Again and again: an abort that meets a job in its beginning is accepted and has no effect, when whoever began it was killed meanwhile.
        if last_abort.is_none_or(|at| at.elapsed() > ABORT_INTERVAL) {
            last_abort = Some(Instant::now());
            if let Err(error) = domain.abort_job() {
                // "no job is active" is what we want; anything else shows in the wait.
                tracing::debug!(%error, "abort");
            }
        }
        if start.elapsed() > JOB_END_LIMIT {
            return Err(CaptureError::Stuck { what: "the backup job".to_owned(), limit: JOB_END_LIMIT });
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Removes bitmaps of ours that `remove` names, on writable nodes, in one transaction.
///
/// # Errors
/// [`CaptureError::Stuck`] for a bitmap that stays busy, QEMU's.
pub fn remove_bitmaps(domain: &Domain, remove: &dyn Fn(&str, &BitmapName) -> bool) -> Result<(), CaptureError> {
    let start = Instant::now();
    loop {
        let nodes = Nodes::query(domain)?;
        let mut busy = None;
        let mut actions = Vec::new();
        for (node, read_only, bitmap) in nodes.bitmaps() {
            let text = bitmap.name.as_deref().unwrap_or_default();
            let Ok(name) = text.parse::<BitmapName>() else { continue };
            if read_only || !remove(node, &name) {
                continue;
            }
            if bitmap.busy {
                busy = Some(text.to_owned());
            }
            actions.push(BitmapAction::BlockDirtyBitmapRemove { node: node.to_owned(), name: text.to_owned() });
        }
        let Some(busy) = busy else {
            return match transaction(domain, &actions) {
                // Became busy or went away in between: look again.
                Err(QmpError::Refused { .. }) if start.elapsed() < BITMAP_FREE_LIMIT => {
                    std::thread::sleep(POLL);
                    continue;
                }
                result => Ok(result?),
            };
        };
        if start.elapsed() > BITMAP_FREE_LIMIT {
            return Err(CaptureError::Stuck { what: format!("use of the bitmap {busy}"), limit: BITMAP_FREE_LIMIT });
        }
        std::thread::sleep(POLL);
    }
}
