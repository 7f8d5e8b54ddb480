//! A libvirt daemon: connection, versions, look-up of domains.
//!
//! Versions are those of the *daemon* and of its QEMU driver, not of the library this program was linked with.

use std::sync::Arc;

use thiserror::Error;
use virt::connect::Connect;
use virt_sys as sys;

use crate::domain::Domain;
use crate::ffi::{LibvirtError, Named};

/// Oldest libvirt daemon that is served, as major * 1,000,000 + minor * 1,000 + release.
pub const LIBVIRT_VERSION_MIN: u32 = 8_002_000;
/// Oldest QEMU that is served (block exports of bitmaps by node and name).
pub const QEMU_VERSION_MIN: u32 = 7_001_000;
/// First libvirt that can keep a guest that shuts down until its backup ends.
pub const LIBVIRT_PRESERVE_SHUTDOWN: u32 = 11_010_000;

/// First libvirt that can tell QEMU to wait for an NBD server that went away (`<reconnect>`).
pub const LIBVIRT_NBD_RECONNECT: u32 = 9_002_000;

/// Errors of a host.
#[derive(Debug, Error)]
pub enum HostError {
    /// No connection.
    #[error("cannot connect to libvirt at {uri}; is the daemon running, and may this user open its socket?")]
    Connect {
        /// The URI, or "the default URI".
        uri: String,
        /// Why.
        source: LibvirtError,
    },
    /// Nothing is said: a daemon that is stopped has its socket still, and the kernel lets callers in.
    #[error("libvirt's daemon does not answer within {limit_s} s; is it stopped, or overloaded? 'virsh list' would hang too")]
    Silent {
        /// How long it was waited for, seconds.
        limit_s: u64,
    },
    /// No such domain.
    #[error("there is no domain {name:?} on this host; `virsh list --all` shows what there is")]
    NoDomain {
        /// What was asked for.
        name: String,
    },
    /// Too old.
    #[error("{what} {found} is too old: {needed} or newer is needed")]
    TooOld {
        /// Program.
        what: &'static str,
        /// Its version.
        found: String,
        /// Oldest that is served.
        needed: String,
    },
    /// No such storage pool, or none that files can be put into.
    #[error("storage pool {name:?} cannot be used: {why}")]
    NoPool {
        /// What was asked for.
        name: String,
        /// Why not.
        why: String,
    },
    /// Another error of libvirt's.
    #[error(transparent)]
    Libvirt(#[from] LibvirtError),
}

/// A connection to one libvirt daemon.
#[derive(Debug)]
pub struct Host {
    connection: Arc<Connect>,
}

impl Host {
    /// Connects; `None` is libvirt's own default (`LIBVIRT_DEFAULT_URI` and so on).
    ///
    /// # Errors
    /// [`HostError::Connect`].
    pub fn open(uri: Option<&str>) -> Result<Self, HostError> {
        // libvirt prints every error to stderr unless told otherwise; ours are shown once, by whom they concern.
        virt::error::clear_error_callback();
        let connection = Connect::open(uri)
            .named("virConnectOpen")
            .map_err(|source| HostError::Connect { uri: uri.map_or_else(|| "the default URI".to_owned(), |uri| format!("{uri:?}")), source })?;
        Ok(Self { connection: Arc::new(connection) })
    }

    pub(crate) fn connection(&self) -> &Connect {
        &self.connection
    }

    /// Version of the daemon.
    ///
    /// # Errors
    /// libvirt's.
    pub fn libvirt_version(&self) -> Result<u32, HostError> {
        Ok(self.connection.lib_version().named("virConnectGetLibVersion")?)
    }

    /// Version of the QEMU that the daemon would start now. A running domain may be older.
    ///
    /// # Errors
    /// libvirt's.
    pub fn qemu_version(&self) -> Result<u32, HostError> {
        Ok(self.connection.hyp_version().named("virConnectGetVersion")?)
    }

    /// A domain by name, or by uuid.
    ///
    /// # Errors
    /// [`HostError::NoDomain`], libvirt's.
    pub fn domain(&self, name: &str) -> Result<Domain, HostError> {
        let by_name = self.connection.lookup_domain_by_name(name).named("virDomainLookupByName");
        let found = match by_name {
            Err(error) if error.is_no_domain() => self.by_uuid(name)?,
            result => result?,
        };
        Ok(Domain::new(found, Arc::clone(&self.connection)))
    }

    fn by_uuid(&self, text: &str) -> Result<virt::domain::Domain, HostError> {
        let missing = || HostError::NoDomain { name: text.to_owned() };
        let uuid = uuid::Uuid::parse_str(text).map_err(|_| missing())?;
        match self.connection.lookup_domain_by_uuid(uuid).named("virDomainLookupByUUID") {
            Err(error) if error.is_no_domain() => Err(missing()),
            result => Ok(result?),
        }
    }

    /// All domains, running or not.
    ///
    /// # Errors
    /// libvirt's.
    pub fn domains(&self) -> Result<Vec<Domain>, HostError> {
        let all = self.connection.list_all_domains(0).named("virConnectListAllDomains")?;
        Ok(all.into_iter().map(|domain| Domain::new(domain, Arc::clone(&self.connection))).collect())
    }

    /// Defines a persistent domain from XML. What libvirt made of it is what counts: read it back.
    ///
    /// # Errors
    /// libvirt's; among them a name or uuid that is taken.
    pub fn define(&self, xml: &str) -> Result<Domain, HostError> {
        let flags = sys::VIR_DOMAIN_DEFINE_VALIDATE;
        let domain = self.connection.define_domain_xml_flags(xml, flags).named("virDomainDefineXMLFlags")?;
        Ok(Domain::new(domain, Arc::clone(&self.connection)))
    }

    /// User and group that QEMU runs as, where libvirt says so; `None` for a libvirt that runs QEMU as its own user.
    ///
    /// # Errors
    /// libvirt's.
    pub fn qemu_owner(&self) -> Result<Option<(u32, u32)>, HostError> {
        let capabilities = self.connection.capabilities().named("virConnectGetCapabilities")?;
        Ok(owner_in(&capabilities))
    }

    /// Names of the security drivers that confine its guests: `apparmor`, `selinux`, `dac`.
    ///
    /// # Errors
    /// libvirt's.
    pub fn security_models(&self) -> Result<Vec<String>, HostError> {
        let capabilities = self.connection.capabilities().named("virConnectGetCapabilities")?;
        Ok(models_in(&capabilities))
    }

    /// Folder of a storage pool of files.
    ///
    /// # Errors
    /// [`HostError::NoPool`], libvirt's.
    pub fn pool_folder(&self, name: &str) -> Result<String, HostError> {
        let pool = self.connection.lookup_storage_pool_by_name(name).named("virStoragePoolLookupByName");
        let missing = |why: &str| HostError::NoPool { name: name.to_owned(), why: why.to_owned() };
        let pool = match pool {
            Err(error) if error.code == sys::VIR_ERR_NO_STORAGE_POOL => {
                return Err(missing("there is none of that name; `virsh pool-list --all` shows what there is"));
            }
            result => result?,
        };
        let xml = pool.xml_desc(0).named("virStoragePoolGetXMLDesc")?;
        let document = roxmltree::Document::parse(&xml).map_err(|_| missing("libvirt's description of it cannot be read"))?;
        let kind = document.root_element().attribute("type").unwrap_or_default();
        if !matches!(kind, "dir" | "fs" | "netfs") {
            return Err(missing(&format!("it is of type {kind}, and only folders can be used; give a folder with --dir")));
        }
        let path = document.descendants().find(|node| node.has_tag_name("path")).and_then(|node| node.text());
        path.map(str::to_owned).ok_or_else(|| missing("it has no folder"))
    }

    /// Refuses a daemon that is too old.
    ///
    /// # Errors
    /// [`HostError::TooOld`].
    pub fn check_versions(&self) -> Result<(), HostError> {
        too_old("libvirt", self.libvirt_version()?, LIBVIRT_VERSION_MIN)?;
        too_old("QEMU", self.qemu_version()?, QEMU_VERSION_MIN)
    }
}

/// `<secmodel><model>dac</model><baselabel type='qemu'>+64055:+109</baselabel>` (libvirt: capabilities, "Security model").
fn owner_in(capabilities: &str) -> Option<(u32, u32)> {
    let document = roxmltree::Document::parse(capabilities).ok()?;
    let is_dac = |node: &roxmltree::Node<'_, '_>| node.children().any(|child| child.has_tag_name("model") && child.text() == Some("dac"));
    let model = document.descendants().find(|node| node.has_tag_name("secmodel") && is_dac(node))?;
    let text = model.children().find(|child| child.has_tag_name("baselabel") && child.attribute("type") != Some("lxc"))?.text()?;
    let (user, group) = text.trim().split_once(':')?;
    Some((user.trim_start_matches('+').parse().ok()?, group.trim_start_matches('+').parse().ok()?))
}

fn models_in(capabilities: &str) -> Vec<String> {
    let Ok(document) = roxmltree::Document::parse(capabilities) else { return Vec::new() };
    let models = document.descendants().filter(|node| node.has_tag_name("secmodel")).flat_map(|node| node.children());
    models.filter(|child| child.has_tag_name("model")).filter_map(|model| model.text()).map(|text| text.trim().to_owned()).collect()
}

pub(crate) fn too_old(what: &'static str, found: u32, needed: u32) -> Result<(), HostError> {
    if found >= needed { Ok(()) } else { Err(HostError::TooOld { what, found: version_text(found), needed: version_text(needed) }) }
}

/// "9.0.0" for 9000000.
#[must_use]
pub fn version_text(version: u32) -> String {
    format!("{}.{}.{}", version / 1_000_000, version / 1000 % 1000, version % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_user_is_read_from_the_capabilities() {
        let xml = "<capabilities><host><secmodel><model>apparmor</model></secmodel><secmodel><model>dac</model><doi>0</doi>\
            <baselabel type='kvm'>+64055:+109</baselabel><baselabel type='qemu'>+64055:+109</baselabel></secmodel></host></capabilities>";
        assert_eq!(owner_in(xml), Some((64055, 109)));
        assert_eq!(models_in(xml), ["apparmor", "dac"]);
        assert!(models_in("<capabilities><host><cpu><model>dac</model></cpu></host></capabilities>").is_empty(), "a processor's model is none");
        assert_eq!(owner_in("<capabilities><host/></capabilities>"), None);
    }

    #[test]
    fn old_daemons_are_refused_by_name() {
        let error = too_old("QEMU", 7_000_000, QEMU_VERSION_MIN).expect_err("7.0 is too old");
        assert_eq!(error.to_string(), "QEMU 7.0.0 is too old: 7.1.0 or newer is needed");
        assert!(too_old("QEMU", 7_002_022, QEMU_VERSION_MIN).is_ok());
    }
}
