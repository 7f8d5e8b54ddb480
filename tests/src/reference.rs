//! Independent references of a domain's disks, and their comparison with what was restored.
//!
//! A reference is read by stock `qemu-img` from the image itself while the domain is suspended (QEMU has
//! then drained and flushed). No code of Cairn's takes part.

use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::lab::{self, Disk};
use crate::process::{run, run_ok};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
const COMPARE_BYTES: usize = 1 << 20;

/// Raw copies of both disks of `lab1` at one point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Copy of `vda`.
    pub vda: PathBuf,
    /// Copy of `vdb`.
    pub vdb: PathBuf,
}

impl Pair {
    /// The copy of that disk.
    ///
    /// # Errors
    /// No such disk.
    pub fn of(&self, target: &str) -> Result<&Path> {
        match target {
            "vda" => Ok(&self.vda),
            "vdb" => Ok(&self.vdb),
            _ => Err(Error::answer("reference", format!("lab1 has no disk {target}"))),
        }
    }

    /// Where two pairs differ; `None` when they are equal.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn difference(&self, other: &Self) -> Result<Option<String>> {
        for target in ["vda", "vdb"] {
            if let Some(text) = difference(self.of(target)?, other.of(target)?)? {
                return Ok(Some(format!("{target}: {text}")));
            }
        }
        Ok(None)
    }
}

/// Suspends the domain, copies both disks into a new folder, resumes it.
///
/// # Errors
/// The domain does not run, or no space. The domain is resumed in any case.
pub fn take(domain: &Domain, folder: &Path) -> Result<Pair> {
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    domain.virsh_ok(&["suspend", domain.name()])?;
    let copied = copy_disks(folder);
    domain.virsh_ok(&["resume", domain.name()])?;
    copied
}

/// Copies both disks as they are now: for a domain that is off, or paused by the caller.
///
/// # Errors
/// No space, or an image is not there.
pub fn copy_disks(folder: &Path) -> Result<Pair> {
    let [a, b] = lab::disks();
    Ok(Pair { vda: copy(&a, folder)?, vdb: copy(&b, folder)? })
}

fn copy(disk: &Disk, folder: &Path) -> Result<PathBuf> {
    let target = folder.join(format!("{}.raw", disk.target));
    raw_copy(&disk.path, disk.format, &target)?;
    Ok(target)
}

/// Any image as a raw file, by `qemu-img convert -U`.
///
/// # Errors
/// qemu-img's words.
pub fn raw_copy(image: &Path, format: &str, target: &Path) -> Result<()> {
    run_ok(Command::new("qemu-img").args(["convert", "-U", "-f", format, "-O", "raw"]).arg(image).arg(target), LIMIT).map(drop)
}

/// Compares two raw files byte for byte; gives the first difference in words, `None` when they are equal.
///
/// # Errors
/// One cannot be read.
pub fn difference(a: &Path, b: &Path) -> Result<Option<String>> {
    let open = |path: &Path| File::open(path).map_err(Error::io("open", path));
    let (mut file_a, mut file_b) = (open(a)?, open(b)?);
    let size = |file: &File, path: &Path| file.metadata().map(|m| m.len()).map_err(Error::io("look at", path));
    let (size_a, size_b) = (size(&file_a, a)?, size(&file_b, b)?);
    if size_a != size_b {
        return Ok(Some(format!("{} has {size_a} bytes, {} has {size_b}", a.display(), b.display())));
    }
    let (mut bytes_a, mut bytes_b) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
    let mut offset = 0;
    loop {
        // Where both have a hole both are zeros; most of a small guest's disk is such.
        offset = next_data(&mut file_a, offset, size_a)
            .map_err(Error::io("look for data in", a))?
            .min(next_data(&mut file_b, offset, size_a).map_err(Error::io("look for data in", b))?);
        if offset >= size_a {
            return Ok(None);
        }
        for (file, path) in [(&mut file_a, a), (&mut file_b, b)] {
            file.seek(SeekFrom::Start(offset)).map_err(Error::io("seek in", path))?;
        }
        let part = usize::try_from(size_a - offset).map_or(COMPARE_BYTES, |left| left.min(COMPARE_BYTES));
        file_a.read_exact(&mut bytes_a[..part]).map_err(Error::io("read", a))?;
        file_b.read_exact(&mut bytes_b[..part]).map_err(Error::io("read", b))?;
        // Whole slices first: that is fast in unoptimized builds too.
        if bytes_a[..part] != bytes_b[..part] {
            let at = bytes_a.iter().zip(&bytes_b).position(|(x, y)| x != y).unwrap_or(0);
            return Ok(Some(format!("{} and {} differ at byte {}", a.display(), b.display(), offset + at as u64)));
        }
        offset += part as u64;
    }
}

/// Where data begins at or after `offset`; `size` where none does.
fn next_data(file: &mut File, offset: u64, size: u64) -> std::io::Result<u64> {
    if offset >= size {
        return Ok(size);
    }
    match lseek(&*file, i64::try_from(offset).expect("below a file's end"), Whence::SeekData) {
        Ok(at) => Ok(at.unsigned_abs()),
        Err(Errno::ENXIO) => Ok(size),
        Err(e) => Err(e.into()),
    }
}

/// Compares an image of any format with a raw reference by `qemu-img compare`: a second opinion.
///
/// # Errors
/// qemu-img cannot read one of them.
pub fn same_by_qemu_img(image: &Path, format: &str, reference: &Path) -> Result<bool> {
    let mut command = Command::new("qemu-img");
    command.args(["compare", "-U", "-f", format, "-F", "raw"]).arg(image).arg(reference);
    let output = run(&mut command, LIMIT)?;
    match output.code() {
        // 0 equal, 1 different, above: an error (qemu-img(1)). A different size alone is 0 when the rest is zeros: look.
        0 => Ok(!output.text().contains("size mismatch")),
        1 => Ok(false),
        code => Err(Error::Command { command: "qemu-img compare".into(), status: format!("exit code {code}"), stderr: output.err_text() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_is_found_and_sizes_count() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        let mut bytes = vec![7u8; 3 << 20];
        fs::write(path("a"), &bytes).expect("written");
        fs::write(path("b"), &bytes).expect("written");
        assert_eq!(difference(&path("a"), &path("b")).expect("readable"), None);
        bytes[2_500_000] = 8;
        fs::write(path("b"), &bytes).expect("written");
        let text = difference(&path("a"), &path("b")).expect("readable").expect("different");
        assert!(text.ends_with("byte 2500000"), "{text}");
        fs::write(path("b"), &bytes[1..]).expect("written");
        assert!(difference(&path("a"), &path("b")).expect("readable").is_some());
    }

    #[test]
    fn holes_are_zeros_and_what_lies_behind_them_counts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        let make = |name: &str, at: &[(u64, u8)]| {
            let mut file = File::create(path(name)).expect("created");
            file.set_len(64 << 20).expect("sparse");
            for (offset, byte) in at {
                file.seek(SeekFrom::Start(*offset)).expect("seeks");
                std::io::Write::write_all(&mut file, &[*byte]).expect("written");
            }
        };
        make("a", &[(40 << 20, 1)]);
        make("same", &[(9 << 20, 0), (40 << 20, 1)]);
        make("more", &[(40 << 20, 1), ((50 << 20) + 3, 2)]);
        make("nothing", &[]);
        assert_eq!(difference(&path("a"), &path("same")).expect("readable"), None);
        let at = |a: &str, b: &str| difference(&path(a), &path(b)).expect("readable").expect("different");
        assert!(at("a", "more").ends_with(&format!("byte {}", (50 << 20) + 3)));
        assert!(at("nothing", "a").ends_with(&format!("byte {}", 40 << 20)));
    }
}
