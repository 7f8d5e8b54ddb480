//! What a guard takes away of a backup whose job is gone.

use super::config::GuardConfig;
use crate::capture::error::CaptureError;
use crate::capture::names::{BitmapName, CheckpointName, Role};
use crate::capture::options::Tracker;
use crate::capture::{checkpoints, cleanup};
use crate::domain::Domain;
use crate::qmp::nodes::{Bitmap, Nodes};

/// All of a backup that is not committed.
pub(super) fn undo(config: &GuardConfig, domain: &Domain) -> Result<(), CaptureError> {
    match config.tracker {
        Tracker::Bitmaps => cleanup::run(domain, &config.scratch_folder, &|_, name| is_of_this_backup(config, name)),
        Tracker::Checkpoints => checkpoints::undo(domain, &config.scratch_folder, checkpoint(config)),
    }
}

fn checkpoint(config: &GuardConfig) -> CheckpointName {
    CheckpointName { store8: config.store8, session: config.session }
}

fn is_of_this_backup(config: &GuardConfig, name: &BitmapName) -> bool {
    name.store8 == config.store8 && name.session == config.session
}

/// What the job would have done after its commit: its frozen copies go, and so do older bitmaps of this store on the nodes that it captured.
pub(super) fn finish_committed(config: &GuardConfig, domain: &Domain) -> Result<(), CaptureError> {
    if config.tracker == Tracker::Checkpoints {
        return checkpoints::finish(domain, &config.scratch_folder, checkpoint(config));
    }
    let is_new = |name: &BitmapName| is_of_this_backup(config, name) && matches!(name.role, Role::Disk(_));
    let nodes = Nodes::query(domain)?;
    let named = |bitmap: &Bitmap| bitmap.name.as_deref().unwrap_or_default().parse::<BitmapName>().ok();
    let captured: Vec<String> =
        nodes.bitmaps().filter(|(_, _, bitmap)| named(bitmap).is_some_and(|n| is_new(&n))).map(|(node, _, _)| node.to_owned()).collect();
    cleanup::run(domain, &config.scratch_folder, &|node, name| {
        let superseded = name.store8 == config.store8 && captured.iter().any(|c| c == node);
        !is_new(name) && (superseded || is_of_this_backup(config, name))
    })
}
