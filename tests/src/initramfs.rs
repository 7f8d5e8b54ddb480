//! The guest's kernel and initramfs, from what Debian has installed on the host.
//!
//! Contents: static busybox, qemu-ga and our own helper with their libraries, the modules in the
//! order in which they load, a script as /init. The archive is an uncompressed cpio ("newc"): packing and
//! unpacking would take longer than reading it.

use crate::error::{Error, Result};
use crate::process::run_ok;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const INIT: &str = include_str!("../guest/init.sh");
const WRITER: &str = include_str!("../guest/writer.sh");
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "ext4", "efivarfs"];
const LIMIT: Duration = Duration::from_secs(60);
const SETUP: &str = "run `cargo xtask setup`";

/// What a guest consists of, besides busybox and the libraries of its programs.
#[derive(Debug)]
pub struct Content<'a> {
    /// `/init`.
    pub init: &'a str,
    /// Modules, with what they need.
    pub modules: &'a [&'a str],
    /// Scripts below `/bin`, by name.
    pub scripts: &'a [(&'a str, &'a str)],
    /// Programs of the host that go to `/bin`, by name.
    pub programs: &'a [(&'a str, PathBuf)],
}

/// Writes `vmlinuz` and `initramfs` of `lab1` into `boot`.
///
/// # Errors
/// A package is missing (named, with the remedy), or the folder cannot be written.
pub fn build(boot: &Path) -> Result<()> {
    let own = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    let programs = [("qemu-ga", guest_agent()?), ("lab-guest", own)];
    write(boot, &Content { init: INIT, modules: &MODULES, scripts: &[("writer", WRITER)], programs: &programs })
}

/// Writes `vmlinuz` and `initramfs` of any guest into `boot`.
///
/// # Errors
/// As [`build`].
pub fn write(boot: &Path, content: &Content<'_>) -> Result<()> {
    let (kernel, release) = newest_kernel()?;
    let target = boot.join("vmlinuz");
    fs::copy(&kernel, &target).map_err(Error::io("copy", &kernel))?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, content.init.as_bytes())?;
    for (name, script) in content.scripts {
        archive.file(&format!("bin/{name}"), 0o755, script.as_bytes())?;
    }
    archive.host_file("bin/busybox", &static_busybox()?)?;
    let mut needed = BTreeSet::new();
    for (name, program) in content.programs {
        let program = strip(program, &boot.join(name))?;
        needed.extend(libraries(&program)?);
        archive.host_file(&format!("bin/{name}"), &program)?;
    }
    for library in needed {
        archive.host_file(library.trim_start_matches('/'), Path::new(&library))?;
    }
    let order = add_modules(&mut archive, &release, content.modules)?;
    archive.file("modules/order", 0o644, order.as_bytes())?;
    let path = boot.join("initramfs");
    fs::write(&path, archive.finish()).map_err(Error::io("write", &path))
}

/// The program of Debian's package.
///
/// # Errors
/// It is not installed.
pub fn guest_agent() -> Result<PathBuf> {
    find("qemu-ga", &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"])
}

/// Kernel image and release, Debian's cloud kernel before any other (ext4 is built in, it boots fast).
fn newest_kernel() -> Result<(PathBuf, String)> {
    let mut found: Vec<(bool, String)> = fs::read_dir("/boot")
        .map_err(Error::io("read", "/boot"))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|release| Path::new("/lib/modules").join(release).join("modules.dep").exists())
        .map(|release| (release.contains("cloud"), release))
        .collect();
    found.sort();
    let (_, release) = found.pop().ok_or_else(|| missing("a kernel with its modules"))?;
    Ok((Path::new("/boot").join(format!("vmlinuz-{release}")), release))
}

fn missing(what: &str) -> Error {
    Error::Missing { what: what.into(), remedy: SETUP.into() }
}

fn find(name: &str, places: &[&str]) -> Result<PathBuf> {
    places.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| missing(name))
}

/// The busybox that guests are made of: one that needs no libraries, since it is the first program of the guest.
///
/// # Errors
/// There is none, or it is linked dynamically (Debian's package `busybox`), and what to do.
pub fn static_busybox() -> Result<PathBuf> {
    let path = find("busybox", &["/bin/busybox", "/usr/bin/busybox"])?;
    if crate::elf::is_static(&path)? {
        return Ok(path);
    }
    Err(Error::Missing {
        what: format!("a static busybox ({} is linked dynamically and cannot start a guest)", path.display()),
        remedy: format!("{SETUP}; it installs Debian's busybox-static in place of busybox"),
    })
}

/// A copy without debug information, where `strip` is there; else the file itself.
fn strip(program: &Path, target: &Path) -> Result<PathBuf> {
    let done = run_ok(Command::new("strip").arg("-o").arg(target).arg(program), LIMIT);
    Ok(if done.is_ok() { target.to_owned() } else { program.to_owned() })
}

/// All libraries of a program, by `ldd`.
fn libraries(program: &Path) -> Result<BTreeSet<String>> {
    let text = run_ok(Command::new("ldd").arg(program), LIMIT)?;
    Ok(parse_ldd(&text))
}

fn parse_ldd(text: &str) -> BTreeSet<String> {
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned);
    text.lines().filter_map(path).collect()
}

/// Adds the modules and gives the order to load them in, one name a line.
fn add_modules(archive: &mut Archive, release: &str, modules: &[&str]) -> Result<String> {
    let mut order = String::new();
    for module in modules {
        let text = run_ok(Command::new("modprobe").args(["--show-depends", "-S", release, module]).env("PATH", super::init::PATH), LIMIT)?;
        for path in text.lines().filter_map(|line| line.strip_prefix("insmod ")).filter_map(|rest| rest.split_whitespace().next()) {
            let (name, bytes) = module_bytes(Path::new(path))?;
            if !order.lines().any(|line| line == name) {
                archive.file(&format!("modules/{name}"), 0o644, &bytes)?;
                order.push_str(&name);
                order.push('\n');
            }
        }
    }
    Ok(order)
}

/// File name without compression suffix, and the module itself.
fn module_bytes(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for (suffix, tool) in [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")] {
        if let Some(plain) = name.strip_suffix(suffix) {
            let output = crate::process::run(Command::new(tool).arg("-dc").arg(path), LIMIT)?;
            if !output.status.success() {
                return Err(Error::Command { command: format!("{tool} -dc {}", path.display()), status: output.status.to_string(), stderr: output.err_text() });
            }
            return Ok((plain.to_owned(), output.stdout));
        }
    }
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    Ok((name, bytes))
}

/// A cpio archive in the "newc" form (cpio(5)): per entry a header of 13 hexadecimal numbers, the name, the data.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    entries: u32,
}

const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const ALIGN: usize = 4;

impl Archive {
    fn host_file(&mut self, name: &str, path: &Path) -> Result<()> {
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        self.file(name, 0o755, &bytes)
    }

    fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        let mut parents: Vec<&Path> = Path::new(name).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            let parent = parent.to_string_lossy().into_owned();
            if self.folders.insert(parent.clone()) {
                self.entry(&parent, TYPE_FOLDER | 0o755, &[])?;
            }
        }
        self.entry(name, TYPE_FILE | mode, data)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        let too_long = |_| Error::answer(name, "is too large for an initramfs");
        let size = u32::try_from(data.len()).map_err(too_long)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_long)?;
        self.entries += 1;
        let numbers = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            write!(self.bytes, "{number:08X}").expect("writing to memory cannot fail");
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]).expect("a short name and no data");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibm.so.6 => /lib/x/libm.so.6 (0x00)\n\t/lib64/ld-linux-x86-64.so.2 (0x0)\n";
        assert_eq!(parse_ldd(text).into_iter().collect::<Vec<_>>(), ["/lib/x/libm.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }

    #[test]
    fn the_archive_is_one_that_others_read() {
        let mut archive = Archive::default();
        archive.file("a/b/c", 0o644, b"hello").expect("small");
        archive.file("a/d", 0o755, b"").expect("small");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.cpio");
        fs::write(&path, archive.finish()).expect("written");
        let mut command = Command::new("busybox");
        command.args(["cpio", "-id", "-F"]).arg(&path).current_dir(dir.path());
        run_ok(&mut command, LIMIT).expect("busybox unpacks it");
        assert_eq!(fs::read(dir.path().join("a/b/c")).expect("there"), b"hello");
        assert!(dir.path().join("a/d").exists());
    }
}
