//! A raw disk image with a partition table and an ext4, worked on with sfdisk, mke2fs and debugfs: no mount, no root needed.

use crate::error::{Error, Result};
use cairn_lab::process::{run, run_ok};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// File system block, bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Where the partition begins.
pub const PARTITION_OFFSET: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(1800);
/// 1 January 2026; days count from there.
const EPOCH_S: u64 = 1_767_225_600;
const DAY_S: u64 = 86_400;

/// An image file.
pub struct Disk {
    path: PathBuf,
    day: u64,
}

impl Disk {
    /// A new sparse image with an empty file system; its ids are the same each time.
    pub fn create(path: &Path, bytes: u64) -> Result<Self> {
        let disk = Self { path: path.to_owned(), day: 0 };
        // What is there is what a run that was stopped left behind.
        let _ = fs::remove_file(path);
        let file = File::create_new(path).and_then(|f| f.set_len(bytes));
        file.map_err(|e| Error::failed(format!("cannot make {}: {e}", path.display())))?;
        let blocks = (bytes - 2 * PARTITION_OFFSET) / BLOCK_BYTES;
        let table = format!(
            "label: gpt\nlabel-id: 00000000-0000-4000-8000-0000000000a1\nstart={}, size={}, type=L, uuid=00000000-0000-4000-8000-0000000000b1\n",
            PARTITION_OFFSET / 512,
            blocks * BLOCK_BYTES / 512
        );
        let script = path.with_extension("sfdisk");
        write(&script, &table)?;
        let script_arg = format!("sfdisk --quiet '{}' < '{}'", path.display(), script.display());
        run_ok(Command::new("sh").args(["-c", &script_arg]).env("PATH", cairn_lab::init::PATH), LIMIT)?;
        remove(&script)?;
        let extended = format!("offset={PARTITION_OFFSET},hash_seed=00000000-0000-4000-8000-00000000c0d2,lazy_itable_init=1");
        let mut mkfs = disk.tool("mke2fs");
        mkfs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-L", "bench", "-U", "00000000-0000-4000-8000-00000000c0d1", "-E", &extended]);
        run_ok(mkfs.arg(path).arg(blocks.to_string()), LIMIT)?;
        Ok(disk)
    }

    /// A copy of an image, as it is on a later day.
    pub fn copy(from: &Path, to: &Path, day: u64) -> Result<Self> {
        let _ = fs::remove_file(to);
        run_ok(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(from).arg(to), LIMIT)?;
        Ok(Self { path: to.to_owned(), day })
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let time = (EPOCH_S + self.day * DAY_S).to_string();
        command.env("PATH", cairn_lab::init::PATH).env("E2FSPROGS_FAKE_TIME", time).env("TZ", "UTC").env("LC_ALL", "C");
        command
    }

    fn device(&self) -> String {
        format!("{}?offset={PARTITION_OFFSET}", self.path.display())
    }

    /// Runs commands of debugfs; any that complains is an error.
    pub fn run(&self, script: &Script) -> Result<()> {
        let file = self.path.with_extension("debugfs");
        write(&file, &script.0)?;
        let output = run(self.tool("debugfs").args(["-w", "-f"]).arg(&file).arg(self.device()), LIMIT)?;
        remove(&file)?;
        // debugfs ends with 0 whatever its commands met; what goes wrong is said on standard error, after the line with its version.
        let said = output.err_text();
        let wrong: Vec<&str> = said.lines().filter(|l| !l.starts_with("debugfs ")).take(5).collect();
        if output.status.success() && wrong.is_empty() {
            return Ok(());
        }
        Err(Error::failed(format!("debugfs on {}: {}", self.path.display(), wrong.join("; "))))
    }

    /// Physical blocks of a file (`<8>` is the journal), in its order.
    pub fn blocks(&self, file: &str) -> Result<Vec<u64>> {
        let text = run_ok(self.tool("debugfs").args(["-R", &format!("dump_extents -l {file}")]).arg(self.device()), LIMIT)?;
        let blocks: Vec<u64> = text.lines().filter_map(physical).flatten().collect();
        if blocks.is_empty() { Err(Error::failed(format!("debugfs tells no blocks of {file} in {}", self.path.display()))) } else { Ok(blocks) }
    }
}

/// `level/levels entry/entries logical - logical physical - physical length`.
fn physical(line: &str) -> Option<Range<u64>> {
    let numbers: Vec<u64> = line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [level, depth, _, _, first, last, start, end, len] if level == depth && last - first + 1 == len && end - start + 1 == len => Some(start..end + 1),
        _ => None,
    }
}

/// Commands for debugfs.
#[derive(Default)]
pub struct Script(String);

impl Script {
    /// A folder, whose parent must exist.
    pub fn folder(&mut self, path: &str) {
        self.line(&format!("mkdir {path}"));
    }

    /// A file of this machine becomes a file of the image.
    pub fn write(&mut self, from: &str, to: &str) {
        let (folder, name) = to.rsplit_once('/').unwrap_or(("", to));
        self.line(&format!("cd {}", if folder.is_empty() { "/" } else { folder }));
        self.line(&format!("write {from} {name}"));
    }

    /// A file goes.
    pub fn remove(&mut self, path: &str) {
        self.line(&format!("rm {path}"));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|e| Error::failed(format!("cannot remove {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_read_from_what_debugfs_prints() {
        let text = "Level Entries       Logical          Physical Length Flags\n 1/ 1   1/  4     0 - 32766  34816 - 67582  32767\n 0/ 0   1/  1     0 -     0   9 -     9      1 \n";
        let ranges: Vec<_> = text.lines().filter_map(physical).collect();
        assert_eq!(ranges, [34816..67583, 9..10]);
        assert_eq!(physical(" 0/ 1   1/  1     0 - 262143   33010 262144"), None, "an inner node");
    }
}
