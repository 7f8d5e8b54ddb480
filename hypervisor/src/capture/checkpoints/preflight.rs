//! The disks of a capture, without a question to QEMU: what libvirt says of them, and the headers of their images.

use std::path::PathBuf;

use super::super::error::CaptureError;
use super::super::live::{LiveOptions, Names};
use super::super::plan::{Base, FullReason, PointCatalog};
use super::super::preflight::{Chosen, file_id, is_version_2, refuse_encrypted};
use super::bases;
use crate::disks::{Disk, Source};
use crate::domain::Domain;
use crate::qmp::nodes::ChainNode;

/// Every disk with its base.
pub(in crate::capture) fn choose(
    domain: &Domain,
    name: &str,
    disks: Vec<Disk>,
    options: &LiveOptions,
    catalog: &dyn PointCatalog,
) -> Result<Vec<Chosen>, CaptureError> {
    let checkpoint = Names { store8: options.store8, session: options.session }.checkpoint().to_string();
    let one = |(disk, ordinal)| chosen(domain, name, disk, ordinal, &checkpoint);
    let mut all = disks.into_iter().zip(0..).map(one).collect::<Result<Vec<_>, _>>()?;
    bases::choose(domain, &mut all, options.store8, catalog)?;
    Ok(all)
}

fn chosen(domain: &Domain, name: &str, disk: Disk, ordinal: u32, checkpoint: &str) -> Result<Chosen, CaptureError> {
    refuse_encrypted(name, &disk)?;
    let top = ChainNode {
        name: String::new(),
        driver: disk.format.clone(),
        filename: image_of(domain, &disk),
        read_only: false,
        size_bytes: domain.disk_bytes(&disk.target)?,
        bitmaps: Vec::new(),
    };
    let can_persist = can_have_one(&disk, &top.filename);
    let reason = if can_persist { FullReason::NoCheckpoint } else { FullReason::NoCheckpointPossible };
    Ok(Chosen {
        file_id: file_id(&top.filename),
        bitmap_name: if can_persist { checkpoint.to_owned() } else { String::new() },
        chain: vec![top],
        base: Base::None { reason, compare: None },
        can_persist,
        scratch_image: PathBuf::new(),
        disk,
        ordinal,
    })
}

/// libvirt refuses a backup with a checkpoint on a disk whose image cannot store a bitmap.
pub(in crate::capture) fn can_have_one(disk: &Disk, image: &str) -> bool {
    disk.format == "qcow2" && !is_version_2(image)
}

/// Path of the top image; empty for what is no file or device of this host.
pub(in crate::capture) fn image_of(domain: &Domain, disk: &Disk) -> String {
    match &disk.source {
        Source::File(path) | Source::Block(path) => path.clone(),
        Source::Volume { pool, volume } => domain.volume_path(pool, volume).map(|path| path.display().to_string()).unwrap_or_default(),
        _ => String::new(),
    }
}

/// From the job's begin on libvirt keeps others from a snapshot or a commit; until then an image may have become another one, on which the base's bitmap
/// recorded nothing. Images below the top one do not matter: guests write to none of them.
pub(in crate::capture) fn same_images(domain: &Domain, name: &str, before: &[Chosen]) -> Result<(), CaptureError> {
    let now = domain.disks()?;
    for chosen in before {
        let image = now.iter().find(|disk| disk.target == chosen.disk.target).map(|disk| image_of(domain, disk));
        if image.as_deref() != Some(&chosen.top().filename) || file_id(&chosen.top().filename) != chosen.file_id {
            return Err(CaptureError::Changed { domain: name.to_owned(), disk: chosen.disk.target.clone() });
        }
    }
    Ok(())
}
