//! Bringing a domain back: its definition under its own name or another one, firmware variables, TPM state, boot files, autostart.
//!
//! Order: 1 refuse what cannot work (name taken, running, things that this host lacks) before a disk is written · 2 disks (the caller) ·
//! 3 other files · 4 define · 5 autostart · 6 start. If we die after 2, the disks are there and `restore --force` goes on; nothing that existed was
//! touched.

use super::{
    chain,
    files::{Context, Files},
    saved::{PART_ACTIVE_XML, PART_INACTIVE_XML, SavedDomain},
};
use crate::{
    cli,
    failure::{FAILED, Failure, Outcome},
    restore::{DiskPlan, Options, RestorePlan, Volumes, Work, refuse_problems},
};
use cairn_hypervisor::{
    Host,
    needs::Problem,
    restore_map,
    restore_xml::{self, NewDisk, Rewrite, Rewritten},
    state_files::Role,
};
use cairn_store::{Point, Store, format::manifest::Manifest};
use std::path::Path;

/// A domain that is about to be defined.
pub struct Recovery {
    host: Host,
    name: String,
    xml: String,
    files: Files,
    autostart: bool,
    force: bool,
    /// UUID of the saved domain, if it is this one and no copy.
    pub replaces: Option<String>,
    /// What the domain will lack, for people.
    pub missing: Vec<String>,
    /// What a copy has of its own where the original has something of the host's.
    pub own: Vec<String>,
    /// What was to be elsewhere, and is nowhere in the domain.
    pub unused_maps: Vec<String>,
}

impl Recovery {
    /// Checks that it can be defined and makes its XML. `problems`: what the host is known to lack already.
    pub fn prepare(
        work: Work<'_>,
        point: &Point,
        manifest: &Manifest,
        plan: &RestorePlan,
        volumes: &Volumes,
        o: &Options,
        problems: Vec<Problem>,
    ) -> Outcome<Self> {
        let saved = SavedDomain::of(manifest).ok_or_else(|| Failure::usage(format!("'{}' is no domain", point.summary.name)))?;
        let name = o.rename.clone().unwrap_or_else(|| saved.name.clone());
        let host = Host::open(work.common.connect.as_deref())?;
        refuse_taken(&host, &name, &saved, o)?;
        let xml = saved_xml(work.store, manifest)?.ok_or_else(|| Failure::new(crate::failure::DAMAGED, format!("point {} has no domain XML", point.id)))?;
        let unused_maps = o.mapping.unused(&xml).map_err(|e| Failure::new(FAILED, format!("the saved XML: {}", chain(&e))))?;
        let (Rewritten { xml, nvram, unshared }, lost_media) =
            new_xml(&xml, point, plan, volumes, o).map_err(|e| Failure::new(FAILED, format!("cannot make the domain's XML: {}", chain(&e))))?;
        let mut missing = missing(&saved, o.rename.is_some());
        missing.extend(unshared.left_out.iter().map(|kind| left_out(kind)));
        missing.extend(lost_media.iter().map(|(target, path)| format!("the medium {path} of drive {target} is not on this host: the drive is empty")));
        let lacking = host.problems(&xml, o.start)?;
        if o.ignore_missing {
            missing.extend(lacking.iter().map(ToString::to_string));
            refuse_problems(&problems)?;
        } else {
            let ignorable = !lacking.is_empty();
            refuse_problems(&[problems, lacking].concat()).map_err(|f| match ignorable {
                true => {
                    Failure::new(f.code, format!("{}\n--ignore-missing defines the domain without networks, firmware and devices that are not here", f.message))
                }
                false => f,
            })?;
        }
        let context = Context {
            store: work.store,
            manifest,
            saved: &saved,
            xml: &xml,
            nvram: nvram.as_deref(),
            rename: o.rename.as_deref(),
            mapping: &o.mapping,
            force: o.force,
            roles: &Role::ALL,
        };
        let files = Files::prepare(&context)?;
        let autostart = saved.autostart && o.rename.is_none();
        let replaces = o.rename.is_none().then(|| saved.uuid.clone());
        Ok(Self { host, name, xml, files, autostart, force: o.force, replaces, missing, own: unshared.own, unused_maps })
    }

    /// Defines it; returns its name, and what is to be said.
    pub fn finish(self, start: bool) -> Outcome<(String, Vec<String>)> {
        let warnings = self.files.write(&Role::ALL, self.force)?;
        let domain = self.host.define(&self.xml)?;
        let fail = |e: &dyn std::error::Error| Failure::new(FAILED, format!("domain {} is defined, but: {}", self.name, chain(e)));
        if self.autostart {
            domain.set_autostart(true).map_err(|e| fail(&e))?;
        }
        if start {
            domain.start().map_err(|e| fail(&e))?;
        }
        Ok((self.name, warnings))
    }
}

/// XML of the definition, with secrets; of the running instance where a transient domain had none. `None` where the point has neither.
pub fn saved_xml(store: &Store, manifest: &Manifest) -> Outcome<Option<String>> {
    let xml = match store.part(manifest, PART_INACTIVE_XML)? {
        Some(xml) => Some(xml),
        None => store.part(manifest, PART_ACTIVE_XML)?,
    };
    Ok(xml.and_then(|bytes| String::from_utf8(bytes).ok()))
}

fn left_out(kind: &str) -> String {
    format!("its {kind} is left out: a copy cannot share it with the original; `virsh edit` adds it where nothing else uses it")
}

/// Targets and paths of media that are not there.
type Media = Vec<(String, String)>;

/// The XML to define, the place of the firmware's variables, and media that are lost.
fn new_xml(saved: &str, point: &Point, plan: &RestorePlan, volumes: &Volumes, o: &Options) -> Result<(Rewritten, Media), restore_xml::RestoreXmlError> {
    let disk = |d: &DiskPlan| NewDisk {
        target: d.entry.target.clone(),
        path: d.path.display().to_string(),
        format: if d.format == cli::Format::Qcow2 { "qcow2".into() } else { "raw".into() },
        block_device: d.device,
    };
    let mapped = restore_map::remap(saved, &o.mapping)?;
    let mut new = restore_xml::rewrite(&mapped, &Rewrite { rename: o.rename.clone(), disks: plan.disks.iter().map(disk).collect() })?;
    let placed = restore_map::place_volumes(&new.xml, &volumes.in_xml())?;
    let (xml, lost_media) = restore_map::without_lost_media(&placed, |path| Path::new(path).exists())?;
    new.xml = if o.mark { restore_map::mark(&xml, &point.id.to_string())? } else { xml };
    Ok((new, lost_media))
}

/// What a point lacks of its domain: media that are never saved are no loss, disks that were left out are.
pub fn missing(saved: &SavedDomain, renamed: bool) -> Vec<String> {
    const NO_LOSS: [&str; 4] = ["CD-ROM", "floppy", "read-only", "no medium"];
    let then = if renamed { "the new domain does not have it" } else { "the domain refers to it as it did; it must be there before the domain can start" };
    let lost = saved.skipped.iter().filter(|s| !NO_LOSS.contains(&s.reason.as_str()));
    lost.map(|s| format!("disk {} is not in this point ({}): {then}", s.target, s.reason)).collect()
}

fn refuse_taken(host: &Host, name: &str, saved: &SavedDomain, o: &Options) -> Outcome<()> {
    use cairn_hypervisor::host::HostError;
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
    let mut probe = vec![name];
    if o.rename.is_none() {
        probe.push(&saved.uuid);
    }
    for key in probe {
        match host.domain(key) {
            Err(HostError::NoDomain { .. }) => {}
            Err(e) => return Err(e.into()),
            Ok(d) if d.is_running().map_err(|e| fail(&e))? => {
                return Err(Failure::refused(format!("domain {key} is running; shut it down first, or restore under another name with --as")));
            }
            Ok(d) if o.rename.is_none() => {
                let (uuid, found) = (d.uuid().map_err(|e| fail(&e))?, d.name().map_err(|e| fail(&e))?);
                refuse_other(&uuid, &found, saved)?;
                if !o.force {
                    return Err(Failure::refused(format!(
                        "domain {found} exists; nothing was written (choose another name with --as, or --force redefines it)"
                    )));
                }
            }
            Ok(_) => return Err(Failure::refused(format!("domain {key} exists; nothing was written (choose another name with --as)"))),
        }
    }
    Ok(())
}

/// libvirt redefines a domain only if name and UUID are both the saved ones; with one of them it fails, and by then disks were replaced.
fn refuse_other(uuid: &str, name: &str, saved: &SavedDomain) -> Outcome<()> {
    if uuid.eq_ignore_ascii_case(&saved.uuid) && name == saved.name {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "there is a domain {} with UUID {uuid} on this host, but the saved one is {} with UUID {}; nothing was written, and --force does not help \
         (remove the other one with `virsh undefine {uuid}` if it is not needed, or restore under another name with --as)",
        crate::output::shown(name),
        crate::output::shown(&saved.name),
        saved.uuid
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_saved_domain_itself_is_redefined() {
        let uuid = "1a2b3c4d-0000-4000-8000-000000000001";
        let saved: SavedDomain = serde_json::from_value(serde_json::json!({
            "kind": "domain", "uuid": uuid, "name": "web1", "autostart": false, "persistent": true, "libvirt_version": 9_000_000,
            "qemu_version": 7_002_000, "quiesce": {"level": "crash", "freeze_ms": 0, "frozen_filesystems": 0, "reason": null},
            "disks": [], "skipped": []
        }))
        .expect("a manifest's record");
        assert!(refuse_other(&uuid.to_uppercase(), "web1", &saved).is_ok());
        let other = "1a2b3c4d-0000-4000-8000-000000000002";
        let refused = refuse_other(other, "web1", &saved).expect_err("another machine of that name");
        assert_eq!(refused.code, crate::failure::REFUSED);
        assert!(refused.message.contains(other) && refused.message.contains("virsh undefine"), "{}", refused.message);
        assert!(refuse_other(uuid, "web1-old", &saved).is_err(), "it was renamed");
    }
}
