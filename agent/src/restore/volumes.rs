//! Disks that go to volumes of storage pools: which, whether they are there, and making those that libvirt has to make.
//!
//! Invariants
//! - Choosing makes nothing. All that is missing is reported together with what else the domain lacks.
//! - A volume that was made for a restore that then failed is removed again; one that was there before never is.

use super::{Journal, Place, plan::RestorePlan};
use crate::{
    cli::Format,
    domain::chain,
    failure::{FAILED, Failure, Outcome},
};
use cairn_hypervisor::{
    Host,
    disks::{Source, parse_disks},
    needs::Problem,
    restore_map::NewVolume,
    storage::{Pool, PoolKind, StorageError},
};
use cairn_store::format::register::DiskEntry;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// What was asked for.
pub struct Wanted<'a> {
    pub disks: &'a [(String, Place)],
    pub pool: Option<&'a str>,
    pub has_dir: bool,
    pub rename: Option<&'a str>,
    /// Name that new volumes are called after.
    pub name: &'a str,
    pub format: Option<Format>,
    pub define: bool,
    /// XML of the saved domain, for disks that were volumes.
    pub xml: Option<&'a str>,
    pub connect: Option<&'a str>,
    pub journal: Option<&'a Journal>,
}

/// Where a disk goes in a pool.
#[derive(Debug, Clone)]
pub struct VolumePlace {
    /// Pool.
    pub pool: String,
    /// Volume.
    pub volume: String,
    /// Its path; `None`: it has to be made first, as a block device.
    pub path: Option<PathBuf>,
    /// It is there because an earlier try of this restore made it.
    pub ours: bool,
}

/// Volumes of one restore.
#[derive(Default)]
pub struct Volumes {
    pools: BTreeMap<String, Pool>,
    places: BTreeMap<String, VolumePlace>,
    /// Disks whose pool cannot be used; a problem tells why.
    pub unplaced: BTreeSet<String>,
    made: Vec<(String, String)>,
}

impl Volumes {
    /// Decides; nothing is made yet.
    pub fn choose(w: &Wanted<'_>, entries: &[DiskEntry], problems: &mut Vec<Problem>) -> Outcome<Self> {
        let saved = match w.xml.map(parse_disks) {
            Some(Ok(disks)) => disks,
            _ => Vec::new(),
        };
        let (mut out, mut host) = (Self::default(), None);
        for entry in entries {
            let saved = saved.iter().find(|d| d.target == entry.target);
            let given = w.disks.iter().find(|d| d.0 == entry.target).map(|d| &d.1);
            let (pool, volume, or_path) = match given {
                Some(Place::Path(_)) => continue,
                Some(Place::Volume { pool, volume, or_path }) => (pool.clone(), Some(volume.clone()), or_path.clone()),
                None if !w.define || w.has_dir => continue,
                None => match (w.pool, saved.map(|d| &d.source)) {
                    (Some(pool), _) => (pool.to_owned(), None, None),
                    (None, Some(Source::Volume { pool, volume })) => (pool.clone(), w.rename.is_none().then(|| volume.clone()), None),
                    _ => continue,
                },
            };
            if host.is_none() {
                match Host::open(w.connect) {
                    Ok(opened) => host = Some(opened),
                    // A path needs no libvirt.
                    Err(_) if or_path.is_some() => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            let Some(host) = &host else { continue };
            match out.pool(host, &pool) {
                Ok(()) => {}
                Err(StorageError::NoPool { .. }) if or_path.as_deref().and_then(std::path::Path::parent).is_some_and(std::path::Path::is_dir) => continue,
                Err(StorageError::NoPool { why, .. }) => {
                    problems.push(Problem { what: format!("pool {pool} for disk {}", entry.target), remedy: format!("{why}; or --pool ANOTHER, or --dir") });
                    out.unplaced.insert(entry.target.clone());
                    continue;
                }
                Err(e) => return Err(Failure::new(FAILED, chain(&e))),
            }
            let qcow2 = w.format.map_or_else(|| saved.is_some_and(|d| d.format == "qcow2"), |f| f == Format::Qcow2);
            out.place(w, entry, pool, volume, qcow2)?;
        }
        out.check_room(entries, problems);
        Ok(out)
    }

    fn pool(&mut self, host: &Host, name: &str) -> Result<(), StorageError> {
        if !self.pools.contains_key(name) {
            self.pools.insert(name.to_owned(), host.pool(name)?);
        }
        Ok(())
    }

    fn place(&mut self, w: &Wanted<'_>, entry: &DiskEntry, pool: String, volume: Option<String>, qcow2: bool) -> Outcome<()> {
        let found = &self.pools[&pool];
        let name = w.name.replace('/', "_");
        let (path, volume) = match &found.kind {
            PoolKind::Files(folder) => {
                let volume = volume.unwrap_or_else(|| format!("{name}-{}.{}", entry.target, if qcow2 { "qcow2" } else { "raw" }));
                (Some(folder.join(&volume)), volume)
            }
            PoolKind::Devices => {
                let volume = volume.unwrap_or_else(|| format!("{name}-{}", entry.target).replace(' ', "_"));
                (found.volume_path(&volume).map_err(|e| Failure::new(FAILED, chain(&e)))?, volume)
            }
        };
        let ours = w.journal.is_some_and(|j| j.has_made(&pool, &volume));
        self.places.insert(entry.target.clone(), VolumePlace { pool, volume, path, ours });
        Ok(())
    }

    /// Devices take their whole size at once; files take what they hold, and a full file system says so when it is.
    fn check_room(&self, entries: &[DiskEntry], problems: &mut Vec<Problem>) {
        for (name, pool) in self.pools.iter().filter(|(_, p)| p.kind == PoolKind::Devices) {
            let new = entries.iter().filter(|e| self.places.get(&e.target).is_some_and(|p| p.pool == *name && p.path.is_none()));
            let needed: u64 = new.map(|e| e.size_bytes).sum();
            if needed > pool.available_bytes {
                problems.push(Problem {
                    what: format!("pool {name} has {} free, and {} are needed", crate::output::bytes(pool.available_bytes), crate::output::bytes(needed)),
                    remedy: "make room, or choose another pool".into(),
                });
            }
        }
    }

    /// A disk's place in a pool, if it has one.
    pub fn of(&self, target: &str) -> Option<&VolumePlace> {
        self.places.get(target)
    }

    /// For the domain's XML.
    pub fn in_xml(&self) -> Vec<NewVolume> {
        self.places.iter().map(|(target, p)| NewVolume { target: target.clone(), pool: p.pool.clone(), volume: p.volume.clone() }).collect()
    }

    /// Makes what is missing and tells the plan where it is.
    pub fn make(&mut self, plan: &mut RestorePlan, journal: Option<&Journal>) -> Outcome<()> {
        for disk in &mut plan.disks {
            let Some(place) = self.places.get(&disk.entry.target).filter(|p| p.path.is_none()) else { continue };
            if let Some(journal) = journal {
                journal.will_make(&place.pool, &place.volume)?;
            }
            let made = self.pools[&place.pool].create_volume(&place.volume, disk.entry.size_bytes);
            disk.path = made.map_err(|e| Failure::new(FAILED, format!("cannot make volume {} in pool {}: {}", place.volume, place.pool, chain(&e))))?;
            self.made.push((place.pool.clone(), place.volume.clone()));
        }
        Ok(())
    }

    /// The disks are whole: volumes stay, and libvirt looks at its pools again. Gives what is to be said.
    pub fn keep(mut self) -> Vec<String> {
        self.made.clear();
        let refresh = |(name, pool): (&String, &Pool)| {
            let e = pool.refresh().err()?;
            Some(format!("pool {name} has the disk, but libvirt does not see it yet: {}; `virsh pool-refresh {name}`", chain(&e)))
        };
        self.pools.iter().filter(|(_, p)| p.kind != PoolKind::Devices).filter_map(refresh).collect()
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for (pool, volume) in &self.made {
            if let Err(e) = self.pools[pool].delete_volume(volume) {
                say!("cairn: warning: volume {volume} of pool {pool} was made for this restore and could not be removed again: {}", chain(&e));
            }
        }
    }
}
