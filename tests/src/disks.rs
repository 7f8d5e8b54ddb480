//! The disks of `lab1`: two ext4 file systems, one in a qcow2 image and one in a raw file.
//!
//! `vda` is filled with files of this host (programs, libraries, documentation), so that what a backup
//! stores of it means something. Nothing is left to be done lazily after mounting: an idle guest writes nothing.

use crate::error::{Error, Result};
use crate::lab;
use crate::options::Options;
use crate::process::run_ok;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;
/// Larger files would be all of a small budget.
const FILE_BYTES_MAX: u64 = 8 * MIB;
const DEPTH_MAX: u32 = 12;
/// In this order, until the budget is used up.
const SOURCES: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/usr/share", "/usr/lib", "/usr/bin"];
const EXT4_OPTIONS: &str = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0";
/// A file that is on each disk from the start: a restored guest is asked for it.
pub const GREETING: &str = "greeting";

/// Makes both images of `lab1`.
///
/// # Errors
/// No space, or a tool is missing.
pub fn make(folder: &Path, options: &Options) -> Result<()> {
    let images = Path::new(crate::libvirt::IMAGES);
    fs::create_dir_all(images).map_err(Error::io("create", images))?;
    let [a, b] = lab::disks();
    let staging = folder.join("boot/vda");
    stage(&staging, options.data_mib * MIB)?;
    let raw = folder.join("boot/vda.raw");
    file_system(&raw, "lab-a", options.vda_mib, &staging)?;
    run_ok(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&a.path), LIMIT)?;
    fs::remove_file(&raw).map_err(Error::io("remove", &raw))?;
    fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))?;
    let staging = folder.join("boot/vdb");
    stage(&staging, 4 * MIB)?;
    file_system(&b.path, "lab-b", options.vdb_mib, &staging)?;
    fs::remove_dir_all(&staging).map_err(Error::io("remove", &staging))
}

fn file_system(image: &Path, label: &str, size_mib: u64, content: &Path) -> Result<()> {
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", label, "-E", EXT4_OPTIONS, "-d"]).arg(content).arg(image).arg(format!("{size_mib}M"));
    run_ok(command.env("PATH", super::init::PATH), LIMIT).map(drop)
}

/// A folder with about `budget` bytes of files of this host.
fn stage(target: &Path, budget: u64) -> Result<()> {
    let data = target.join("data");
    fs::create_dir_all(&data).map_err(Error::io("create", &data))?;
    let greeting = target.join(GREETING);
    fs::write(&greeting, "This file was on the disk before the first backup.\n").map_err(Error::io("write", &greeting))?;
    let mut left = budget;
    for source in SOURCES {
        copy_some(Path::new(source), &data, &mut left, DEPTH_MAX)?;
    }
    Ok(())
}

/// Copies regular files below `source`, in the order of their names, until `left` is used up. What cannot be
/// read is passed over: which files they are does not matter.
fn copy_some(source: &Path, target: &Path, left: &mut u64, depth: u32) -> Result<()> {
    let Ok(entries) = fs::read_dir(source) else {
        return Ok(());
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut made = false;
    for path in paths {
        if *left == 0 {
            return Ok(());
        }
        let (Ok(meta), Some(name)) = (path.symlink_metadata(), path.file_name()) else {
            continue;
        };
        let copy = target.join(name);
        if meta.is_dir() && depth > 0 {
            copy_some(&path, &copy, left, depth - 1)?;
        } else if meta.is_file() && meta.len() <= FILE_BYTES_MAX.min(*left) && !copy.exists() {
            if !made {
                fs::create_dir_all(target).map_err(Error::io("create", target))?;
                made = true;
            }
            fs::copy(&path, &copy).map_err(Error::io("copy", &path))?;
            // An inode and a block at least, however small.
            *left = left.saturating_sub(meta.len().next_multiple_of(4096) + 512);
        }
    }
    Ok(())
}
