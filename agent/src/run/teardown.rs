//! Taking a run away: domain, processes, images, sockets, record; in this order, each step idempotent, so that it may be called again after any
//! crash.
//!
//! What it must not do: remove a domain or a file that the run did not make.

use super::{
    folder::{RunFolder, RunSockets, failed},
    keep::libvirt,
    layers, log,
    processes::{self, Role},
    record::{Layer, Record},
};
use crate::failure::{FAILED, Failure, Outcome};
use cairn_hypervisor::{Domain, host::HostError};
use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

/// Device and inode of a file.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Whether a file is the one recorded; one of unknown identity is if it is empty, as we made it. None where there is none.
fn is_made_here(path: &Path, inode: Option<(u64, u64)>) -> io::Result<Option<bool>> {
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    Ok(Some(match inode {
        Some(inode) => inode == (found.dev(), found.ino()),
        None => found.is_file() && found.len() == 0,
    }))
}

/// Removes a file that is the one recorded; one of unknown identity only if it is empty, as we made it.
pub fn remove_ours(path: &Path, inode: Option<(u64, u64)>) -> io::Result<()> {
    match is_made_here(path, inode)? {
        None => Ok(()),
        Some(true) => fs::remove_file(path),
        Some(false) => Err(io::Error::other("it is not the file that this run made; it was left alone")),
    }
}

/// Everything.
pub fn all(folder: &RunFolder, record: &Record) -> Outcome<()> {
    let mut record = record.clone();
    let is_foreign = domain(folder, &mut record)?;
    processes(&record)?;
    images(&record)?;
    // One that has the run's UUID and none of its disks is the machine itself, brought back otherwise: with these very variables.
    if !is_foreign {
        variables(&record)?;
    }
    RunSockets::of(&record.id).remove()?;
    folder.remove(&record.id)
}

/// T1: the domain, if it is the run's; what its snapshots laid over the images is recorded before. Whether there is one that is not.
fn domain(folder: &RunFolder, record: &mut Record) -> Outcome<bool> {
    let host = super::connect(record.connect.as_deref())?;
    let domain = match host.domain(&record.uuid) {
        Err(HostError::NoDomain { .. }) => return Ok(false),
        result => result?,
    };
    let Some(layers) = owned(&domain, record)? else {
        log::say(format!("domain {} has none of this run's disks; it was left alone", record.uuid));
        return Ok(true);
    };
    let new: Vec<Layer> = layers.into_iter().filter(|layer| layers::goes(record, layer) && !record.layers.contains(layer)).collect();
    if !new.is_empty() {
        record.layers.extend(new);
        folder.save(record)?;
    }
    if domain.is_running().map_err(|e| libvirt(&e))?
        && let Err(e) = domain.destroy()
        && !e.is_not_running()
        && !e.is_no_domain()
    {
        return Err(libvirt(&e));
    }
    match domain.undefine_whole() {
        Err(e) if !e.is_no_domain() => Err(libvirt(&e)),
        _ => Ok(false),
    }
}

/// What snapshots laid over the run's images, of a domain that is the run's; none of one that is not.
pub fn owned(domain: &Domain, record: &Record) -> Outcome<Option<Vec<Layer>>> {
    let layers = layers::of(domain, record)?;
    Ok(if layers.is_empty() && !is_ours(domain, record)? { None } else { Some(layers) })
}

/// A domain that has an image or a socket of the run, now or at its next start, be it below a snapshot.
pub fn is_ours(domain: &Domain, record: &Record) -> Outcome<bool> {
    let texts = [domain.xml_live().map_err(|e| libvirt(&e))?, domain.xml_inactive().map_err(|e| libvirt(&e))?];
    Ok(texts.iter().any(|text| names_run(text, record)))
}

/// An image of the run, or where one was: a file of that name that somebody else made is theirs, and so is a domain that has it.
pub fn is_image(record: &Record, path: &Path) -> bool {
    let made = record.disks.iter().flat_map(|d| [Some((&d.overlay, d.inode)), d.copy.as_ref().map(|c| (&c.path, c.inode))]).flatten();
    // What cannot be looked at is nobody else's for certain.
    made.into_iter().any(|(image, inode)| image == path && is_made_here(image, inode).is_ok_and(|is| is != Some(false)))
}

/// Any attribute of the XML that is an image of the run, or lies in its sockets' folder.
fn names_run(xml: &str, record: &Record) -> bool {
    let sockets = RunSockets::of(&record.id).dir;
    attributes(xml).iter().any(|value| is_image(record, Path::new(value)) || Path::new(value).starts_with(&sockets))
}

fn attributes(xml: &str) -> Vec<String> {
    cairn_hypervisor::run::xml::attribute_values(xml).unwrap_or_default()
}

/// T2: storage daemon and server, whoever started them. The caller has the lock, so no supervisor starts them again.
pub fn processes(record: &Record) -> Outcome<()> {
    for role in [Role::Daemon, Role::Server] {
        for process in processes::find(&record.id, record.owner).into_iter().filter(|p| p.role == role) {
            if !process.kill() {
                return Err(Failure::new(FAILED, format!("process {} of the run does not end; does its store hang?", process.pid)));
            }
        }
    }
    Ok(())
}

/// T3: snapshots' files, overlays, unfinished copies.
fn images(record: &Record) -> Outcome<()> {
    for layer in &record.layers {
        if let Err(e) = remove_ours(&layer.path, Some(layer.inode)) {
            log::say(format!("{} could not be removed: {e}", layer.path.display()));
        }
    }
    for disk in &record.disks {
        remove_unless_theirs(&disk.overlay, disk.inode)?;
        if let Some(copy) = &disk.copy {
            remove_unless_theirs(&copy.path, copy.inode)?;
        }
    }
    Ok(())
}

/// One that is another file now has been replaced by somebody, and is theirs: it stays, and keeps nothing else from going.
fn remove_unless_theirs(path: &Path, inode: Option<(u64, u64)>) -> Outcome<()> {
    let remove = || match is_made_here(path, inode)? {
        Some(false) => {
            log::say(format!("{} is not the file that this run made; it was left alone", path.display()));
            Ok(())
        }
        Some(true) => fs::remove_file(path),
        None => Ok(()),
    };
    remove().map_err(|e| failed("remove", path, &e))
}

/// T3: the firmware's variables. libvirt removes them with the definition, if it came to that. Of a run that died while it was made their inode is not known.
fn variables(record: &Record) -> Outcome<()> {
    let Some(path) = &record.nvram else { return Ok(()) };
    match record.nvram_inode {
        Some(inode) => remove_unless_theirs(path, Some(inode)),
        None => match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, &e)),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_the_runs_by_its_images_and_sockets() {
        let text = r#"{"version":1,"id":"0123","name":"r","uuid":"u","connect":null,"store":"/s","key":"none","state_dir":"/v","point":"p","point_name":"w",
            "created_unix_ms":1,"via":"daemon","network":"none","nvram":null,"owner":null,"state":"ready",
            "disks":[{"target":"vda","size_bytes":4096,"overlay":"/i/it's-vda.qcow2","inode":[1,2]}]}"#;
        let record: Record = serde_json::from_str(text).expect("a record");
        let domain = |source: &str| format!("<domain><devices><disk><source file='/i/snap'/><backingStore>{source}</backingStore></disk></devices></domain>");
        assert!(names_run(&domain("<source file='/i/it&apos;s-vda.qcow2'/>"), &record), "below a snapshot");
        let socket = RunSockets::of("0123").server();
        assert!(names_run(&domain(&format!("<host transport='unix' socket='{}'/>", socket.display())), &record));
        assert!(!names_run(&domain("<source file='/i/it&apos;s-vda.qcow2.old'/>"), &record) && !names_run("<domain", &record));
    }

    #[test]
    fn a_file_that_another_made_in_the_place_of_an_image_is_theirs() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (overlay, inode) = (dir.path().join("r-vda.qcow2"), identity(dir.path()).expect("there"));
        let text = format!(
            r#"{{"version":1,"id":"0123","name":"r","uuid":"u","connect":null,"store":"/s","key":"none","state_dir":"/v","point":"p","point_name":"w",
            "created_unix_ms":1,"via":"daemon","network":"none","nvram":null,"owner":null,"state":"ready",
            "disks":[{{"target":"vda","size_bytes":4096,"overlay":{overlay:?},"inode":[{},{}]}}]}}"#,
            inode.0, inode.1
        );
        let mut record: Record = serde_json::from_str(&text).expect("a record");
        let xml = format!("<domain><devices><disk><source file='{}'/></disk></devices></domain>", overlay.display());
        assert!(names_run(&xml, &record), "nobody made another");
        fs::write(&overlay, "somebody's").expect("writes");
        assert!(!names_run(&xml, &record), "a machine that was restored to the same place");
        record.disks[0].inode = Some(identity(&overlay).expect("there"));
        assert!(names_run(&xml, &record));
    }

    #[test]
    fn only_files_of_the_run_are_removed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.qcow2");
        remove_ours(&path, None).expect("nothing there");
        fs::write(&path, "somebody's").expect("writes");
        assert!(remove_ours(&path, None).is_err(), "not empty, so not as we made it");
        let inode = identity(&path).expect("there");
        assert!(remove_ours(&path, Some((inode.0, inode.1 + 1))).is_err(), "another file");
        remove_ours(&path, Some(inode)).expect("ours");
        fs::write(&path, "").expect("writes");
        remove_ours(&path, None).expect("empty");
        assert!(!path.exists());
    }
}
