//! Domains without a system in them, with any disks: what a guest would write is written through its devices by QEMU's monitor.
//!
//! Functions here panic on failure, as tests do.

use crate::domain::Domain;
use crate::libvirt::IMAGES;
use crate::process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const KIB: u64 = 1 << 10;
/// Of each image.
const SIZE: &str = "8M";
const SIZE_KIB: u64 = 8 << 10;
/// Of a floppy disk, as they were.
const FLOPPY_SIZE: &str = "1440K";

/// What an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// qcow2 as it is made today.
    Qcow2,
    /// The older version, which stores no bitmaps.
    Qcow2Version2,
    /// qcow2 over another image that has data.
    Overlay,
    /// qcow2 whose data is in a file of its own.
    DataFile,
    /// Plain bytes.
    Raw,
}

impl Kind {
    fn format(self) -> &'static str {
        if self == Self::Raw { "raw" } else { "qcow2" }
    }

    fn create(self, path: &Path) {
        let text = path.display().to_string();
        let (below, data) = (format!("{text}.below"), format!("data_file={text}.data"));
        let options: &[&str] = match self {
            Self::Qcow2 | Self::Raw => &[],
            Self::Qcow2Version2 => &["-o", "compat=0.10"],
            Self::Overlay => {
                Self::Qcow2.create(Path::new(&below));
                tool("qemu-io", &["-f", "qcow2", "-c", "write -P 0x31 1M 3M", &below]);
                &["-b", &below, "-F", "qcow2"]
            }
            Self::DataFile => &["-o", &data],
        };
        tool("qemu-img", &[&["create", "-q", "-f", self.format()], options, &[&text, SIZE]].concat());
        if self == Self::DataFile {
            // libvirt knows nothing of such files before 10.10, and gives them to nobody.
            crate::folder::set_mode(Path::new(&format!("{text}.data")), 0o666).expect("our own file");
        }
    }
}

fn tool(program: &str, args: &[&str]) {
    process::run_ok(Command::new(program).args(args), LIMIT).unwrap_or_else(|e| panic!("{}", e.report()));
}

/// One disk.
#[derive(Debug, Clone)]
struct Row {
    target: String,
    /// As libvirt has it; what is no `disk` is not saved.
    device: &'static str,
    bus: &'static str,
    /// Attributes of `<disk>` and `<source>`.
    kind: &'static str,
    source: String,
    path: PathBuf,
    format: String,
    /// Further elements; with one of them a disk is not saved.
    more: String,
    /// The thread of its own that serves it. QEMU 7.2 dies of an order to such a disk by its monitor, so it is not written to.
    iothread: Option<u8>,
}

impl Row {
    fn xml(&self) -> String {
        let Self { target, device, bus, kind, source, format, more, .. } = self;
        let thread = self.iothread.map(|number| format!(" iothread='{number}'")).unwrap_or_default();
        format!(
            "<disk type='{kind}' device='{device}'><driver name='qemu' type='{format}'{thread}/><source {source}/><target dev='{target}' bus='{bus}'/>{more}\
             <alias name='ua-{target}'/></disk>"
        )
    }

    /// QEMU's name of the device.
    fn device(&self) -> String {
        let backend = if self.bus == "virtio" { "/virtio-backend" } else { "" };
        format!("/machine/peripheral/ua-{}{backend}", self.target)
    }
}

/// A domain that has disks and nothing else.
#[derive(Debug)]
pub struct Hollow {
    domain: Domain,
    rows: Vec<Row>,
}

fn file_source(path: &Path) -> String {
    let text = path.display().to_string();
    format!("file='{}'", text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;"))
}

impl Hollow {
    /// Without disks; not defined yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { domain: Domain::new(name), rows: Vec::new() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.domain.name()
    }

    /// A path for an image of this domain.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(IMAGES).join(format!("{}-{name}", self.name()))
    }

    /// A new image; its path.
    #[must_use]
    pub fn create(&self, kind: Kind, name: &str) -> PathBuf {
        let path = self.path(name);
        kind.create(&path);
        path
    }

    /// A disk with a new image. A target's first letters say its bus: `vda` virtio, `sda` SCSI.
    pub fn add(&mut self, target: &str, kind: Kind, name: &str) {
        self.add_with(target, kind, name, "");
    }

    /// The same with further elements (`<shareable/>`): such a disk is neither written to nor among [`Self::images`].
    pub fn add_with(&mut self, target: &str, kind: Kind, name: &str, more: &str) {
        let path = self.create(kind, name);
        self.push(target, "file", file_source(&path), path, kind.format());
        self.rows.last_mut().expect("just pushed").more = more.to_owned();
    }

    /// The same on SATA.
    pub fn add_sata(&mut self, target: &str, kind: Kind, name: &str) {
        self.add(target, kind, name);
        self.rows.last_mut().expect("just pushed").bus = "sata";
    }

    /// A floppy disk in its drive: it is neither written to nor among [`Self::images`].
    pub fn add_floppy(&mut self, target: &str, name: &str) {
        let path = self.path(name);
        tool("qemu-img", &["create", "-q", "-f", "raw", &path.to_string_lossy(), FLOPPY_SIZE]);
        self.push(target, "file", file_source(&path), path, "raw");
        let row = self.rows.last_mut().expect("just pushed");
        (row.device, row.bus) = ("floppy", "fdc");
    }

    /// A disk with data that an I/O thread of its own serves; [`Self::write_all`] leaves it alone.
    pub fn add_with_iothread(&mut self, target: &str, name: &str, iothread: u8) {
        self.add(target, Kind::Qcow2, name);
        let row = self.rows.last_mut().expect("just pushed");
        row.iothread = Some(iothread);
        tool("qemu-io", &["-f", "qcow2", "-c", "write -P 0x32 1M 2M", &row.path.to_string_lossy()]);
    }

    /// A disk on a block device.
    pub fn add_device(&mut self, target: &str, format: &str, device: &str) {
        self.push(target, "block", format!("dev='{device}'"), device.into(), format);
    }

    /// A disk that names a new volume of the pool `default`.
    pub fn add_volume(&mut self, target: &str, name: &str) {
        let path = self.create(Kind::Qcow2, name);
        self.domain.virsh_ok(&["pool-refresh", "default"]).expect("the pool sees its volume");
        let volume = path.file_name().expect("a name").to_string_lossy().into_owned();
        self.push(target, "volume", format!("pool='default' volume='{volume}'"), path, "qcow2");
    }

    fn push(&mut self, target: &str, kind: &'static str, source: String, path: PathBuf, format: &str) {
        let bus = if target.starts_with("vd") { "virtio" } else { "scsi" };
        let (target, format) = (target.to_owned(), format.to_owned());
        self.rows.push(Row { target, device: "disk", bus, kind, source, path, format, more: String::new(), iothread: None });
    }

    /// Defines it as it is now and starts it.
    ///
    /// # Panics
    /// libvirt refuses it.
    pub fn define_and_start(&self) {
        self.define(32);
        self.start();
    }

    /// Defines it as it is now, with so much memory from its next start on.
    ///
    /// # Panics
    /// libvirt refuses it.
    pub fn define(&self, memory_mib: u32) {
        let disks: String = self.rows.iter().map(Row::xml).collect();
        let number = self.name().bytes().fold(0_u64, |sum, byte| sum * 31 + u64::from(byte)) % 1_000_000_000_000;
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>0d5a1f00-0000-4000-8001-{number:012}</uuid><memory unit='MiB'>{memory_mib}</memory><iothreads>2</iothreads>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disks}\
             <controller type='scsi' index='0' model='virtio-scsi'/><memballoon model='none'/></devices></domain>",
            name = self.name()
        );
        let file = Path::new("/run").join(format!("{}.xml", self.name()));
        std::fs::write(&file, xml).expect("written");
        self.domain.virsh_ok(&["define", &file.to_string_lossy()]).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// An order to virsh with this domain.
    ///
    /// # Panics
    /// It fails.
    pub fn virsh(&self, order: &str, args: &[&str]) {
        self.domain.virsh_ok(&[&[order, self.name()], args].concat()).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// From now on a disk has another image; libvirt knows it already, or will by the next definition.
    pub fn follow(&mut self, target: &str, path: PathBuf, format: &str) {
        let number = self.row(target);
        let row = &mut self.rows[number];
        (row.source, row.path, row.format) = (file_source(&path), path, format.to_owned());
    }

    /// Starts it.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(&self) {
        self.domain.virsh_ok(&["start", self.name()]).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// Ends it as `virsh destroy` does: QEMU is asked to end, and closes its images.
    ///
    /// # Panics
    /// It does not end.
    pub fn stop(&self) {
        self.domain.virsh_ok(&["destroy", self.name()]).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// Kills its QEMU.
    ///
    /// # Panics
    /// It has none, or libvirt does not notice its end.
    pub fn kill(&self) {
        let pid = std::fs::read_to_string(format!("/run/libvirt/qemu/{}.pid", self.name())).expect("QEMU has a pid file");
        kill(Pid::from_raw(pid.trim().parse().expect("a process id")), Signal::SIGKILL).expect("QEMU is there");
        let is_off = || Ok((self.domain.state()? == "shut off").then_some(()));
        process::wait_for("end of the domain", LIMIT, POLL, is_off).expect("it is off");
    }

    fn saved(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.more.is_empty() && row.device == "disk")
    }

    fn written(&self) -> impl Iterator<Item = &Row> {
        self.saved().filter(|row| row.iothread.is_none())
    }

    /// Target, image and format of every disk that is saved.
    #[must_use]
    pub fn images(&self) -> Vec<(String, PathBuf, String)> {
        self.saved().map(|row| (row.target.clone(), row.path.clone(), row.format.clone())).collect()
    }

    fn row(&self, target: &str) -> usize {
        self.rows.iter().position(|row| row.target == target).unwrap_or_else(|| panic!("{} has no disk {target}", self.name()))
    }

    /// An order to one disk's device, as `qemu-io` has them.
    pub fn order_to(&self, target: &str, order: &str) {
        self.order(&self.rows[self.row(target)], order);
    }

    fn order(&self, row: &Row, order: &str) {
        let said = self.domain.hmp(&format!("qemu-io -d {} \"{order}\"", row.device())).expect(order);
        assert!(!said.to_lowercase().contains("error") && !said.contains("failed"), "{order} on {}: {said}", row.target);
    }

    /// Data, zeros and a hole on one disk; at other places for each number.
    pub fn write(&self, target: &str, number: u64) {
        let row = &self.rows[self.row(target)];
        self.write_row(row, number);
    }

    fn write_row(&self, row: &Row, number: u64) {
        let at = |k: u64| (number * 617 + k * 1931) % (SIZE_KIB - 256) * KIB;
        for order in [
            format!("write -P {} {} {}", number % 255 + 1, at(0) + 512, 70 * KIB + 512),
            format!("write -P {} {} {}", (number + 7) % 255 + 1, at(1), 3 * KIB),
            format!("write -z {} {}", at(2), 64 * KIB),
            format!("discard {} {}", at(3) / 65_536 * 65_536, 64 * KIB),
        ] {
            self.order(row, &order);
        }
    }

    /// The same on every disk that is saved and has no I/O thread.
    pub fn write_all(&self, number: u64) {
        self.written().zip(0..).for_each(|(row, i)| self.write_row(row, number + 100 * i));
    }

    /// QEMU keeps nothing back: `qemu-img` sees in the images what a guest would read.
    pub fn flush(&self) {
        self.written().for_each(|row| self.order(row, "flush"));
    }

    /// A new disk while it runs.
    pub fn attach(&mut self, target: &str, kind: Kind, name: &str) {
        let path = self.create(kind, name);
        self.attach_image(target, &path, kind.format());
    }

    /// A disk over an image that is there, while it runs.
    ///
    /// # Panics
    /// libvirt refuses it.
    pub fn attach_image(&mut self, target: &str, image: &Path, format: &str) {
        self.push(target, "file", file_source(image), image.to_owned(), format);
        self.change("attach-device", self.rows.len() - 1);
    }

    /// Takes a SCSI disk away while it runs (others need a guest's consent); its image.
    ///
    /// # Panics
    /// libvirt refuses it, or it stays.
    #[must_use]
    pub fn detach(&mut self, target: &str) -> PathBuf {
        let number = self.row(target);
        self.change("detach-device", number);
        let is_gone = || Ok((!self.domain.virsh_ok(&["domblklist", self.name()])?.contains(&format!(" {target} "))).then_some(()));
        process::wait_for("end of a disk", LIMIT, POLL, is_gone).expect("it goes");
        self.rows.remove(number).path
    }

    fn change(&self, command: &str, number: usize) {
        let file = Path::new("/run").join(format!("{}-disk.xml", self.name()));
        std::fs::write(&file, self.rows[number].xml()).expect("written");
        self.domain.virsh_ok(&[command, self.name(), &file.to_string_lossy(), "--live"]).unwrap_or_else(|e| panic!("{}", e.report()));
    }

    /// Two disks change places in the definition.
    pub fn swap(&mut self, a: &str, b: &str) {
        let (a, b) = (self.row(a), self.row(b));
        let (target_a, target_b) = (self.rows[a].target.clone(), self.rows[b].target.clone());
        self.rows.swap(a, b);
        (self.rows[a].target, self.rows[b].target) = (target_a, target_b);
    }

    /// A plain copy of a disk's image.
    ///
    /// # Panics
    /// No space.
    #[must_use]
    pub fn copy_image(&self, target: &str, name: &str) -> PathBuf {
        let copy = self.path(name);
        std::fs::copy(&self.rows[self.row(target)].path, &copy).expect("copied");
        copy
    }

    /// Moves a disk to another image while it runs.
    ///
    /// # Panics
    /// libvirt refuses it.
    pub fn block_copy(&mut self, target: &str, name: &str) {
        let path = self.path(name);
        self.virsh("blockcopy", &[target, "--dest", &path.to_string_lossy(), "--format", "qcow2", "--transient-job", "--wait", "--pivot"]);
        self.follow(target, path, "qcow2");
    }
}
