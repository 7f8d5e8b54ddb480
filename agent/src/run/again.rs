//! A run whose domain somebody has undefined: it is defined again from what libvirt had of it, when somebody asks for it.
//!
//! Invariants
//! - What is defined names, for each disk, the image that holds all that the guest wrote. That is the overlay until `Pivoted` is recorded: before that
//!   the guest does not go on (docs/run.md, K8 and K9), so the overlay has every write also where the definition that is gone named the copy.
//! - Nobody's wish to be rid of a domain is undone unasked: `cairn keep` and `cairn run --resume` define it again, the supervisor does not.
//!
//! What it must not do: change the record.

use super::{
    backing,
    folder::RunFolder,
    keep::libvirt,
    record::{Phase, Record},
};
use crate::{
    domain::chain,
    failure::{FAILED, Failure, NOT_FOUND, Outcome},
    output::shown,
};
use cairn_hypervisor::{
    Domain, Host,
    host::HostError,
    restore_xml::RestoreXmlError,
    run::xml::{disk_now, moved_disk, with_backing},
};

/// Records what the next start of the domain will use.
pub fn remember(folder: &RunFolder, domain: &Domain) -> Outcome<()> {
    folder.save_definition(&domain.xml_inactive().map_err(|e| libvirt(&e))?)
}

/// What is said of a run without a domain.
pub fn gone(record: &Record) -> Failure {
    let name = shown(&record.name);
    Failure::new(
        NOT_FOUND,
        format!(
            "domain {name} was undefined: 'cairn run --resume {name}' defines it again and starts it, 'cairn keep {name}' defines it again and keeps it, 'cairn \
             discard {name}' removes what is left"
        ),
    )
}

/// The run's domain; defined again if it is gone, and whether that was done.
pub fn find(host: &Host, folder: &RunFolder, record: &Record) -> Outcome<(Domain, bool)> {
    match host.domain(&record.uuid) {
        Err(HostError::NoDomain { .. }) => {}
        result => return Ok((result?, false)),
    }
    let xml = folder.definition()?.ok_or_else(|| {
        Failure::new(
            NOT_FOUND,
            format!(
                "libvirt has no domain of run '{0}' any more, and its definition is not recorded. What it wrote is in its images ({1}); 'cairn discard {0}' \
                 removes them",
                shown(&record.name),
                record.disks.iter().map(|d| d.overlay.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
        )
    })?;
    let below = backing::Below::of(host, record)?;
    let xml = placed(&xml, record, &below).map_err(|e| Failure::new(FAILED, format!("the recorded definition of {}: {}", shown(&record.name), chain(&e))))?;
    Ok((host.define(&xml)?, true))
}

/// The definition with each disk where the record says that it is.
fn placed(xml: &str, record: &Record, below: &backing::Below) -> Result<String, RestoreXmlError> {
    let mut xml = xml.to_owned();
    for disk in &record.disks {
        // Somebody took it out of the domain.
        let Some(now) = disk_now(&xml, &disk.target)? else { continue };
        let is_at = |path: &std::path::Path| now.path.as_deref() == path.to_str();
        match (&disk.phase, &disk.copy) {
            (Phase::Pivoted, Some(copy)) if is_at(&copy.path) && !now.has_backing => {}
            (Phase::Pivoted, Some(copy)) => xml = moved_disk(&xml, &disk.target, &copy.path.display().to_string(), &copy.format, false)?,
            _ if is_at(&disk.overlay) && now.has_backing != disk.filled => {}
            _ => {
                xml = moved_disk(&xml, &disk.target, &disk.overlay.display().to_string(), "qcow2", false)?;
                if !disk.filled {
                    xml = with_backing(&xml, &disk.target, &below.socket, below.reconnect_s)?;
                }
            }
        }
    }
    Ok(xml)
}

#[cfg(test)]
mod tests {
    use super::*;

    const XML: &str = "<domain type='qemu'><name>r</name><uuid>11111111-1111-4111-8111-111111111111</uuid><devices>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/i/r-vda.qcow2'/><backingStore type='network'>\
        <format type='raw'/><source protocol='nbd' name='vda'><host transport='unix' socket='/s'/></source></backingStore><target dev='vda' bus='virtio'/></disk>\
        <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/k/r-vdb.raw'/><target dev='vdb' bus='virtio'/></disk>\
        </devices></domain>";

    fn record(disks: &str) -> Record {
        let text = format!(
            r#"{{"version":1,"id":"0123","name":"r","uuid":"u","connect":null,"store":"/s","key":"none","state_dir":"/v","point":"p","point_name":"w",
            "created_unix_ms":1,"via":"daemon","network":"none","nvram":null,"owner":null,"state":"ready","disks":[{disks}]}}"#
        );
        serde_json::from_str(&text).expect("a record")
    }

    fn at(xml: &str, target: &str) -> (Option<String>, bool) {
        let now = disk_now(xml, target).expect("XML").expect("a disk");
        (now.path, now.has_backing)
    }

    #[test]
    fn a_domain_is_defined_again_where_its_writes_are() {
        let below = backing::Below { socket: "/run/x".into(), reconnect_s: None };
        let vda = |more: &str| format!(r#"{{"target":"vda","size_bytes":1,"overlay":"/i/r-vda.qcow2","inode":[1,2]{more}}}"#);
        let vdb = |more: &str| format!(r#"{{"target":"vdb","size_bytes":1,"overlay":"/i/r-vdb.qcow2","inode":[1,3]{more}}}"#);
        let copy = r#","copy":{"target":"vdb","path":"/k/r-vdb.raw","format":"raw","inode":[1,4]}"#;
        let pivoting = record(&format!("{},{}", vda(""), vdb(&format!(r#"{copy},"phase":{{"pivoting":{{"resume":true}}}}"#))));
        let xml = placed(XML, &pivoting, &below).expect("places");
        assert_eq!((at(&xml, "vda"), at(&xml, "vdb")), ((Some("/i/r-vda.qcow2".into()), true), (Some("/i/r-vdb.qcow2".into()), true)), "{xml}");
        let pivoted = record(&format!("{},{}", vda(r#","filled":true"#), vdb(&format!(r#"{copy},"phase":"pivoted""#))));
        let xml = placed(XML, &pivoted, &below).expect("places");
        assert_eq!((at(&xml, "vda"), at(&xml, "vdb")), ((Some("/i/r-vda.qcow2".into()), false), (Some("/k/r-vdb.raw".into()), false)), "{xml}");
        let detached = record(&vda("").replace("vda", "vdc"));
        assert_eq!(placed(XML, &detached, &below).expect("places"), XML);
    }
}
