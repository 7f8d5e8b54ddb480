//! What a point says of its domain besides the disks.

use super::{
    capture::Mode,
    chain,
    files::Belongings,
    saved::{PART_ACTIVE_XML, PART_INACTIVE_XML, SavedSnapshot},
};
use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::Domain;
use cairn_store::Part;

/// What is asked of libvirt before the point in time: nothing of it may delay a frozen guest.
pub struct DomainFacts {
    /// Name.
    pub name: String,
    /// UUID.
    pub uuid: String,
    /// Starts with the host.
    pub autostart: bool,
    /// Has a definition.
    pub persistent: bool,
    /// Of the daemon.
    pub libvirt_version: u32,
    /// Of its QEMU.
    pub qemu_version: u32,
    /// XML.
    pub parts: Vec<Part>,
    /// Files of the host that belong to it.
    pub belongings: Belongings,
    /// What libvirt lists.
    pub snapshots: Vec<SavedSnapshot>,
    /// What could not be told.
    pub warnings: Vec<String>,
}

impl DomainFacts {
    /// Asks. A domain that is off has no XML of a running instance.
    pub fn read(domain: &Domain, mode: Mode) -> Outcome<Self> {
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
        let persistent = domain.is_persistent().map_err(|e| fail(&e))?;
        let (libvirt_version, qemu_version) = domain.versions().map_err(|e| fail(&e))?;
        let (uuid, live) = (domain.uuid().map_err(|e| fail(&e))?, domain.xml_live().map_err(|e| fail(&e))?);
        let belongings = Belongings::read(&live, &uuid);
        let mut parts = Vec::new();
        if mode == Mode::Live {
            parts.push(Part { name: PART_ACTIVE_XML.into(), bytes: live.into_bytes(), secret: true });
        }
        parts.push(Part { name: PART_INACTIVE_XML.into(), bytes: domain.xml_inactive().map_err(|e| fail(&e))?.into_bytes(), secret: true });
        let (snapshots, warnings) = snapshots(domain);
        Ok(Self {
            name: domain.name().map_err(|e| fail(&e))?,
            uuid,
            autostart: domain.autostart().map_err(|e| fail(&e))?,
            persistent,
            libvirt_version,
            qemu_version,
            parts,
            belongings,
            snapshots,
            warnings,
        })
    }
}

/// The list is for information: what cannot be told of it fails no backup.
fn snapshots(domain: &Domain) -> (Vec<SavedSnapshot>, Vec<String>) {
    match domain.snapshots() {
        Ok((list, count)) => {
            let more = (count > list.len()).then(|| format!("the domain has {count} snapshots, and only {} of them are listed in the point", list.len()));
            let saved = |s: cairn_hypervisor::snapshots::Snapshot| SavedSnapshot {
                name: s.name,
                created: s.created_unix_s,
                state: s.state,
                parent: s.parent,
                external: s.external,
            };
            (list.into_iter().map(saved).collect(), more.into_iter().collect())
        }
        Err(e) => (Vec::new(), vec![format!("the list of the domain's snapshots is not in the point: {}", chain(&e))]),
    }
}
