//! One domain: what libvirt knows of it, its monitor and its agent.

use std::sync::Arc;

use cairn_quiesce::agent::{AgentFailure, GuestAgent, shown};
use virt::connect::Connect;
use virt_sys as sys;

use crate::disks::{Disk, DisksError, parse_disks};
use crate::ffi::{self, LibvirtError, Named};
use crate::translated::{AGENT_ERROR, AGENT_LOST, AGENT_NOT_CONNECTED, says};

/// URI of our own element in a domain's metadata.
pub const METADATA_URI: &str = "https://cairn-backup.org/xmlns/domain/1.0";

/// A domain of a host.
#[derive(Debug)]
pub struct Domain {
    domain: virt::domain::Domain,
    connection: Arc<Connect>,
}

impl Clone for Domain {
    fn clone(&self) -> Self {
        Self { domain: self.domain.clone(), connection: Arc::clone(&self.connection) }
    }
}

impl Domain {
    pub(crate) fn new(domain: virt::domain::Domain, connection: Arc<Connect>) -> Self {
        Self { domain, connection }
    }

    /// Name.
    ///
    /// # Errors
    /// libvirt's.
    pub fn name(&self) -> Result<String, LibvirtError> {
        self.domain.name().named("virDomainGetName")
    }

    /// UUID in its usual text form.
    ///
    /// # Errors
    /// libvirt's.
    pub fn uuid(&self) -> Result<String, LibvirtError> {
        self.domain.uuid_string().named("virDomainGetUUIDString")
    }

    /// Number of the running instance; `None` when shut off. Looked up anew: libvirt's handle keeps the number that the domain had when the handle was
    /// made, so one of a domain that was off has none for ever.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        let uuid = self.domain.uuid().ok()?;
        self.connection.lookup_domain_by_uuid(uuid).ok()?.id()
    }

    /// Running, paused or otherwise with a QEMU process.
    ///
    /// # Errors
    /// libvirt's.
    pub fn is_running(&self) -> Result<bool, LibvirtError> {
        self.domain.is_active().named("virDomainIsActive")
    }

    /// Survives a shutdown.
    ///
    /// # Errors
    /// libvirt's.
    pub fn is_persistent(&self) -> Result<bool, LibvirtError> {
        self.domain.is_persistent().named("virDomainIsPersistent")
    }

    /// Starts with the host. `false` for a transient domain.
    ///
    /// # Errors
    /// libvirt's.
    pub fn autostart(&self) -> Result<bool, LibvirtError> {
        if !self.is_persistent()? {
            return Ok(false);
        }
        self.domain.autostart().named("virDomainGetAutostart")
    }

    /// Sets whether it starts with the host.
    ///
    /// # Errors
    /// libvirt's.
    pub fn set_autostart(&self, autostart: bool) -> Result<(), LibvirtError> {
        self.domain.set_autostart(autostart).named("virDomainSetAutostart")
    }

    /// XML of the running instance (of the definition if it is off), without secrets.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml_live(&self) -> Result<String, LibvirtError> {
        self.domain.xml_desc(0).named("virDomainGetXMLDesc")
    }

    /// XML that the next start will use, **with secrets** (passwords of consoles): it belongs into sealed manifests only.
    ///
    /// # Errors
    /// libvirt's.
    pub fn xml_inactive(&self) -> Result<String, LibvirtError> {
        let flags = sys::VIR_DOMAIN_XML_INACTIVE | sys::VIR_DOMAIN_XML_SECURE;
        self.domain.xml_desc(flags).named("virDomainGetXMLDesc")
    }

    /// Path of the NVRAM file with the firmware's variables, if it has one.
    ///
    /// # Errors
    /// libvirt's; XML that cannot be read.
    pub fn nvram_path(&self) -> Result<Option<String>, DisksError> {
        let xml = self.xml_live()?;
        Ok(crate::state_files::state_files(&xml)?.nvram)
    }

    /// Disks of the running instance (of the definition if it is off).
    ///
    /// # Errors
    /// libvirt's; XML that cannot be read.
    pub fn disks(&self) -> Result<Vec<Disk>, DisksError> {
        parse_disks(&self.xml_live()?)
    }

    /// Starts a defined domain.
    ///
    /// # Errors
    /// libvirt's.
    pub fn start(&self) -> Result<(), LibvirtError> {
        self.domain.create().named("virDomainCreate").map(|_| ())
    }

    /// Asks the guest to shut down, as its power button would; returns at once.
    ///
    /// # Errors
    /// libvirt's.
    pub fn shutdown(&self) -> Result<(), LibvirtError> {
        self.domain.shutdown().named("virDomainShutdown")
    }

    /// Its memory was saved, and its next start goes on from there.
    ///
    /// # Errors
    /// libvirt's.
    pub fn has_managed_save(&self) -> Result<bool, LibvirtError> {
        self.domain.has_managed_save(0).named("virDomainHasManagedSaveImage")
    }

    /// Forces a running domain off.
    ///
    /// # Errors
    /// libvirt's.
    pub fn destroy(&self) -> Result<(), LibvirtError> {
        self.domain.destroy().named("virDomainDestroy")
    }

    /// Removes the definition; the NVRAM file goes or stays by `nvram`. Disks stay.
    ///
    /// # Errors
    /// libvirt's.
    pub fn undefine(&self, nvram: bool) -> Result<(), LibvirtError> {
        let flags = if nvram { sys::VIR_DOMAIN_UNDEFINE_NVRAM } else { sys::VIR_DOMAIN_UNDEFINE_KEEP_NVRAM };
        self.domain.undefine_flags(flags).named("virDomainUndefineFlags")
    }

    /// Starts a defined domain without letting its processors run.
    ///
    /// # Errors
    /// libvirt's.
    pub fn start_paused(&self) -> Result<(), LibvirtError> {
        self.domain.create_with_flags(sys::VIR_DOMAIN_START_PAUSED).named("virDomainCreateWithFlags").map(|_| ())
    }

    /// Stops the guest's processors. What the guest wrote is with QEMU's images on return.
    ///
    /// # Errors
    /// libvirt's.
    pub fn suspend(&self) -> Result<(), LibvirtError> {
        self.domain.suspend().named("virDomainSuspend").map(|_| ())
    }

    /// Lets the guest's processors run again.
    ///
    /// # Errors
    /// libvirt's.
    pub fn resume(&self) -> Result<(), LibvirtError> {
        self.domain.resume().named("virDomainResume").map(|_| ())
    }

    /// Removes the definition with all that belongs to it: firmware's variables, saved state, libvirt's records of snapshots and checkpoints.
    /// Disks stay.
    ///
    /// # Errors
    /// libvirt's.
    pub fn undefine_whole(&self) -> Result<(), LibvirtError> {
        let flags = sys::VIR_DOMAIN_UNDEFINE_NVRAM
            | sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA;
        self.domain.undefine_flags(flags).named("virDomainUndefineFlags")
    }

    /// For calls that the `virt` crate lacks.
    pub(crate) fn raw(&self) -> &virt::domain::Domain {
        &self.domain
    }

    pub(crate) fn connection(&self) -> &Connect {
        &self.connection
    }

    /// Socket of the guest agent's channel in the running instance.
    #[must_use]
    pub(crate) fn agent_socket(&self) -> Option<std::path::PathBuf> {
        let xml = self.xml_live().ok()?;
        let document = roxmltree::Document::parse(&xml).ok()?;
        let is_agent = |node: &roxmltree::Node<'_, '_>| {
            node.children().any(|child| child.has_tag_name("target") && child.attribute("name") == Some("org.qemu.guest_agent.0"))
        };
        let channel = document.descendants().find(|node| node.has_tag_name("channel") && is_agent(node))?;
        let source = channel.children().find(|child| child.has_tag_name("source"))?;
        source.attribute("path").map(std::path::PathBuf::from)
    }

    /// All domains of the same host, itself included.
    pub(crate) fn siblings(&self) -> Result<Vec<Self>, LibvirtError> {
        let all = self.connection.list_all_domains(0).named("virConnectListAllDomains")?;
        Ok(all.into_iter().map(|domain| Self::new(domain, Arc::clone(&self.connection))).collect())
    }

    /// Where a volume of a pool lies.
    pub(crate) fn volume_path(&self, pool: &str, volume: &str) -> Result<std::path::PathBuf, LibvirtError> {
        let pool = self.connection.lookup_storage_pool_by_name(pool).named("virStoragePoolLookupByName")?;
        let volume = pool.lookup_storage_vol_by_name(volume).named("virStorageVolLookupByName")?;
        Ok(volume.path().named("virStorageVolGetPath")?.into())
    }

    /// URI of the connection.
    ///
    /// # Errors
    /// libvirt's.
    pub fn uri(&self) -> Result<String, LibvirtError> {
        self.connection.uri().named("virConnectGetURI")
    }

    /// Versions of the daemon that runs it and of its QEMU driver.
    pub fn versions(&self) -> Result<(u32, u32), LibvirtError> {
        let libvirt = self.connection.lib_version().named("virConnectGetLibVersion")?;
        let qemu = self.connection.hyp_version().named("virConnectGetVersion")?;
        Ok((libvirt, qemu))
    }

    /// One QMP command as JSON text; the answer as libvirt gives it.
    pub(crate) fn monitor(&self, command: &str) -> Result<String, LibvirtError> {
        self.domain.qemu_monitor_command(command, 0).named("virDomainQemuMonitorCommand")
    }

    pub(crate) fn backup_begin(&self, xml: &str, checkpoint_xml: Option<&str>, flags: u32) -> Result<(), LibvirtError> {
        ffi::backup_begin(&self.domain, xml, checkpoint_xml, flags)
    }

    /// Virtual size of a disk's image, bytes.
    pub(crate) fn disk_bytes(&self, target: &str) -> Result<u64, LibvirtError> {
        Ok(self.domain.block_info(target, 0).named("virDomainGetBlockInfo")?.capacity)
    }

    pub(crate) fn backup_xml(&self) -> Result<Option<String>, LibvirtError> {
        ffi::backup_xml(&self.domain)
    }

    pub(crate) fn abort_job(&self) -> Result<(), LibvirtError> {
        ffi::abort_job(&self.domain)
    }

    /// A job of libvirt's (backup, migration, save, dump) is running.
    pub(crate) fn has_job(&self) -> Result<bool, LibvirtError> {
        let info = self.domain.job_info().named("virDomainGetJobInfo")?;
        let kind = u32::try_from(info.r#type).unwrap_or(sys::VIR_DOMAIN_JOB_NONE);
        Ok(!matches!(kind, sys::VIR_DOMAIN_JOB_NONE | sys::VIR_DOMAIN_JOB_COMPLETED | sys::VIR_DOMAIN_JOB_FAILED | sys::VIR_DOMAIN_JOB_CANCELLED))
    }
}

const AGENT_LOST_REMEDY: &str = "if that stays, restart the agent in the guest while no backup runs, or libvirtd";

impl GuestAgent for Domain {
    fn command(&self, json: &str, limit_s: u16) -> Result<String, AgentFailure> {
        let result = self.domain.qemu_agent_command(json, i32::from(limit_s), 0).named("virDomainQemuAgentCommand");
        result.map_err(|error| match error.code {
            sys::VIR_ERR_AGENT_UNRESPONSIVE if says(&error.message, AGENT_LOST) => AgentFailure::Away(format!("{}; {AGENT_LOST_REMEDY}", error.message)),
            sys::VIR_ERR_AGENT_UNRESPONSIVE if says(&error.message, AGENT_NOT_CONNECTED) => AgentFailure::Closed(error.message),
            sys::VIR_ERR_AGENT_UNRESPONSIVE | sys::VIR_ERR_AGENT_UNSYNCED | sys::VIR_ERR_AGENT_COMMAND_TIMEOUT => AgentFailure::Silent(error.message),
            sys::VIR_ERR_AGENT_COMMAND_FAILED => AgentFailure::Refused(shown(&error.message)),
            // libvirt 9.0 has no code for an agent's own error.
            sys::VIR_ERR_INTERNAL_ERROR if says(&error.message, AGENT_ERROR) => AgentFailure::Refused(shown(&error.message)),
            // "QEMU guest agent is not configured". One that is not connected is unresponsive to libvirt, whether it never was or went away just now.
            sys::VIR_ERR_ARGUMENT_UNSUPPORTED | sys::VIR_ERR_OPERATION_UNSUPPORTED | sys::VIR_ERR_CONFIG_UNSUPPORTED => AgentFailure::Absent(error.message),
            _ => AgentFailure::Other(shown(&error.message)),
        })
    }
}
