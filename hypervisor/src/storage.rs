//! Storage pools as places to restore to.
//!
//! Two kinds: pools whose volumes are files in a folder, where an image is made like any other file and the pool then looks again; and pools
//! whose volumes are block devices, which libvirt makes before they are written to. Pools without paths on this host (RBD, Gluster) are refused.

use std::path::PathBuf;

use thiserror::Error;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt_sys as sys;

use crate::edits::escape;
use crate::ffi::{LibvirtError, Named};
use crate::host::Host;
use crate::state_files::child;

/// Errors of pools.
#[derive(Debug, Error)]
pub enum StorageError {
    /// No such pool, or none that can be restored to.
    #[error("storage pool {name:?} cannot be restored to: {why}")]
    NoPool {
        /// What was asked for.
        name: String,
        /// Why not, and what to do.
        why: String,
    },
    /// libvirt's.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
}

/// What a pool's volumes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolKind {
    /// Files in this folder.
    Files(PathBuf),
    /// Block devices.
    Devices,
}

/// An active pool.
pub struct Pool {
    /// Name.
    pub name: String,
    /// What its volumes are.
    pub kind: PoolKind,
    /// Bytes that are free.
    pub available_bytes: u64,
    pool: StoragePool,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Host {
    /// A pool by name, active and of a kind that can be restored to.
    ///
    /// # Errors
    /// [`StorageError::NoPool`] with the remedy, libvirt's.
    pub fn pool(&self, name: &str) -> Result<Pool, StorageError> {
        let refused = |why: String| StorageError::NoPool { name: name.to_owned(), why };
        let pool = match self.connection().lookup_storage_pool_by_name(name).named("virStoragePoolLookupByName") {
            Err(error) if error.code == sys::VIR_ERR_NO_STORAGE_POOL => {
                return Err(refused("there is none of that name on this host; `virsh pool-list --all` shows what there is".to_owned()));
            }
            result => result?,
        };
        if !pool.is_active().named("virStoragePoolIsActive")? {
            return Err(refused(format!("it is not active; `virsh pool-start {name}` starts it")));
        }
        let kind = kind(&pool.xml_desc(0).named("virStoragePoolGetXMLDesc")?).map_err(refused)?;
        let available_bytes = pool.info().named("virStoragePoolGetInfo")?.available;
        Ok(Pool { name: name.to_owned(), kind, available_bytes, pool })
    }
}

impl Pool {
    /// Path of a volume, if there is one of that name.
    ///
    /// # Errors
    /// libvirt's.
    pub fn volume_path(&self, volume: &str) -> Result<Option<PathBuf>, LibvirtError> {
        match self.pool.lookup_storage_vol_by_name(volume).named("virStorageVolLookupByName") {
            Ok(found) => Ok(Some(PathBuf::from(found.path().named("virStorageVolGetPath")?))),
            Err(error) if error.code == sys::VIR_ERR_NO_STORAGE_VOL => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a raw volume of at least this size; gives its path.
    ///
    /// # Errors
    /// libvirt's; among them that the name is taken or the pool is full.
    pub fn create_volume(&self, volume: &str, size_bytes: u64) -> Result<PathBuf, LibvirtError> {
        let xml = format!("<volume><name>{}</name><capacity unit='bytes'>{size_bytes}</capacity></volume>", escape(volume));
        let made = StorageVol::create_xml(&self.pool, &xml, 0).named("virStorageVolCreateXML")?;
        Ok(PathBuf::from(made.path().named("virStorageVolGetPath")?))
    }

    /// Removes a volume with its content.
    ///
    /// # Errors
    /// libvirt's.
    pub fn delete_volume(&self, volume: &str) -> Result<(), LibvirtError> {
        let found = self.pool.lookup_storage_vol_by_name(volume).named("virStorageVolLookupByName")?;
        found.delete(0).named("virStorageVolDelete")
    }

    /// Lets libvirt see volumes that came without it.
    ///
    /// # Errors
    /// libvirt's.
    pub fn refresh(&self) -> Result<(), LibvirtError> {
        self.pool.refresh(0).named("virStoragePoolRefresh")
    }
}

fn kind(xml: &str) -> Result<PoolKind, String> {
    let document = roxmltree::Document::parse(xml).map_err(|_| "libvirt's description of it cannot be read".to_owned())?;
    let root = document.root_element();
    match root.attribute("type").unwrap_or_default() {
        "dir" | "fs" | "netfs" => {
            let path = child(root, "target").and_then(|target| child(target, "path")).and_then(|path| path.text());
            path.map(|path| PoolKind::Files(path.into())).ok_or_else(|| "it has no folder".to_owned())
        }
        "logical" | "zfs" => Ok(PoolKind::Devices),
        "disk" | "scsi" | "iscsi" | "iscsi-direct" | "mpath" => {
            Err("its volumes are parts of disks, which are not made by name; give the device with --disk TARGET=/dev/... --force".to_owned())
        }
        other => Err(format!("it is of type {other}, whose volumes have no path on this host; restore to a folder, a device or another pool")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_pools_are_told_apart() {
        assert_eq!(kind("<pool type='dir'><target><path>/i</path></target></pool>"), Ok(PoolKind::Files("/i".into())));
        assert_eq!(kind("<pool type='logical'><target><path>/dev/vg</path></target></pool>"), Ok(PoolKind::Devices));
        for (xml, word) in [("<pool type='rbd'/>", "rbd"), ("<pool type='disk'/>", "--disk"), ("<pool type='dir'/>", "folder"), ("<", "read")] {
            let why = kind(xml).expect_err(xml);
            assert!(why.contains(word), "{why}");
        }
    }
}
