//! Sweep: what an earlier run left behind goes, under the domain's lock (step 9 of docs/capture.md). No local state is needed.

use std::path::Path;

use super::checkpoints;
use super::cleanup;
use super::error::CaptureError;
use super::names::{BitmapName, Role};
use super::options::Tracker;
use super::plan::{PointCatalog, PointStatus};
use crate::domain::Domain;

/// Removes stale exports, jobs, scratch and frozen copies of ours, and bitmaps and checkpoints of points of this store that can never be a base again. Those
/// of other stores stay, and so do those of a store that does not answer: unreachable is not "not committed". Without the monitor bitmaps stay that
/// no checkpoint goes with.
///
/// # Errors
/// [`CaptureError`].
pub fn run(domain: &Domain, tracker: Tracker, store8: [u8; 4], scratch_folder: &Path, catalog: &dyn PointCatalog) -> Result<(), CaptureError> {
    let stale = |checkpoint: &checkpoints::Checkpoint| checkpoints::is_stale(checkpoint.name, store8, catalog);
    if tracker == Tracker::Checkpoints {
        return checkpoints::clean_up(domain, scratch_folder, &stale);
    }
    cleanup::run(domain, scratch_folder, &|_, name| is_stale(name, store8, catalog))?;
    Ok(checkpoints::remove_all(domain, &stale)?)
}

pub(super) fn is_stale(name: &BitmapName, store8: [u8; 4], catalog: &dyn PointCatalog) -> bool {
    match name.role {
        // Under the lock no backup runs, so no frozen copy is in use, whichever store's it was.
        Role::Export => true,
        Role::Disk(_) if name.store8 != store8 => false,
        Role::Disk(_) => match catalog.status(name.session) {
            PointStatus::NotCommitted => true,
            // A later point may go on from it; a damaged one, too, once it is healed.
            PointStatus::Forgotten => catalog.later(name).is_none(),
            // A damaged point may be healed, and its bitmap then be a base again.
            PointStatus::Usable { .. } | PointStatus::Damaged | PointStatus::Unreachable => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Later, Says};
    use super::*;

    #[test]
    fn only_what_can_never_be_a_base_goes() {
        let disk = BitmapName { store8: [1; 4], session: [2; 16], role: Role::Disk(0) };
        assert!(is_stale(&disk, [1; 4], &Says(PointStatus::NotCommitted, None)));
        assert!(!is_stale(&disk, [1; 4], &Says(PointStatus::Unreachable, None)));
        assert!(!is_stale(&disk, [1; 4], &Says(PointStatus::Usable { order: 0 }, None)));
        assert!(!is_stale(&disk, [9; 4], &Says(PointStatus::NotCommitted, None)), "another store's");
        let later = Later { session: [3; 16], ordinal: 0, status: PointStatus::Damaged };
        assert!(is_stale(&disk, [1; 4], &Says(PointStatus::Forgotten, None)));
        assert!(!is_stale(&disk, [1; 4], &Says(PointStatus::Forgotten, Some(later))), "a later point goes on from it");
        assert!(is_stale(&BitmapName { role: Role::Export, ..disk }, [9; 4], &Says(PointStatus::Unreachable, None)));
    }
}
