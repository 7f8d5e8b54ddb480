//! The descriptions with which libvirt begins a backup job (its formatbackup and formatcheckpoint).

use std::path::Path;

use super::checkpoints;
use super::live::Names;
use super::options::Tracker;
use super::plan::Base;
use super::preflight::Chosen;
use crate::edits::escape;

/// A job, and the checkpoint that begins in the same moment.
pub(super) struct Job {
    pub(super) backup: String,
    pub(super) checkpoint: Option<String>,
}

impl Job {
    pub(super) fn new(chosen: &[Chosen], socket: &Path, names: Names, tracker: Tracker) -> Self {
        let checkpoint = match tracker {
            Tracker::Bitmaps => None,
            Tracker::Checkpoints => checkpoints::of_backup(&names.checkpoint().to_string(), chosen),
        };
        Self { backup: backup_xml(chosen, socket, tracker), checkpoint }
    }
}

/// Our disks with scratch images of ours, all others out. With checkpoints libvirt exports what changed as well.
fn backup_xml(chosen: &[Chosen], socket: &Path, tracker: Tracker) -> String {
    let mut xml = String::from("<domainbackup mode='pull'>\n");
    xml += &format!("  <server transport='unix' socket='{}'/>\n  <disks>\n", escape(&socket.to_string_lossy()));
    for chosen in chosen {
        let target = escape(&chosen.disk.target);
        let since = match (&chosen.base, tracker) {
            (Base::Bitmap { bitmap, .. }, Tracker::Checkpoints) => format!(" backupmode='incremental' incremental='{}'", escape(bitmap)),
            _ => String::new(),
        };
        xml += &format!("    <disk name='{target}' backup='yes' type='file' exportname='{target}'{since}>\n      <driver type='qcow2'/>\n");
        xml += &format!("      <scratch file='{}'/>\n    </disk>\n", escape(&chosen.scratch_image.to_string_lossy()));
    }
    xml += "  </disks>\n</domainbackup>\n";
    xml
}
