//! The programs that are compared: what each is told for each step.
//!
//! Invariants: every tool saves the same file under the same path; encryption is on in all of them; none knows which blocks are dirty.

use super::images::Image;
use crate::error::{Error, Result};
use cairn_lab::process::run_ok;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const QUERY_LIMIT: Duration = Duration::from_secs(120);
const PASSWORD: &str = "bench";

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's.
    Cairn,
    /// The least work for the format.
    Floor,
    /// Debian's restic.
    Restic,
    /// rustic, where it is installed.
    Rustic,
    /// Debian's borg.
    Borg,
}

impl Kind {
    /// All that there are.
    pub const ALL: [Self; 5] = [Self::Cairn, Self::Floor, Self::Restic, Self::Rustic, Self::Borg];

    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cairn => "cairn",
            Self::Floor => "floor",
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "borg",
        }
    }

    /// Another program for the same purpose.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Restic | Self::Rustic | Self::Borg)
    }

    /// Debian's package of it.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Restic => Some("restic"),
            Self::Borg => Some("borgbackup"),
            _ => None,
        }
    }

    /// How it is set up, for the page.
    pub fn settings(self) -> &'static str {
        match self {
            Self::Cairn => "as `cairn init` makes a store: AES-256-GCM, zstd 3",
            Self::Floor => "`store/examples/floor.rs`: two threads, the least work for the format",
            Self::Restic => "repository version 2, `--compression auto`; always encrypted",
            Self::Rustic => "its default compression; always encrypted",
            Self::Borg => "`-e repokey-blake2 -C zstd` (level 3), default chunker",
        }
    }
}

/// A tool with a store of its own.
pub struct Tool {
    /// Which.
    pub kind: Kind,
    program: PathBuf,
    dir: PathBuf,
}

impl Tool {
    /// With a folder of its own, which must not exist.
    pub fn new(kind: Kind, program: &Path, run_dir: &Path) -> Result<Self> {
        let dir = run_dir.join(kind.name());
        fs::create_dir_all(&dir).map_err(|e| Error::failed(format!("cannot make {}: {e}", dir.display())))?;
        let tool = Self { kind, program: program.to_owned(), dir };
        tool.init()?;
        Ok(tool)
    }

    /// What it stores in.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// What it says of itself.
    pub fn version(&self) -> Result<String> {
        if self.kind == Kind::Floor {
            return Ok("-".into());
        }
        let flag = if self.kind == Kind::Restic { "version" } else { "--version" };
        let text = run_ok(self.command().arg(flag), QUERY_LIMIT)?;
        Ok(text.split_whitespace().nth(1).unwrap_or("?").to_owned())
    }

    fn command(&self) -> Command {
        let mut c = Command::new(&self.program);
        let own = |name: &str| self.dir.join(name);
        c.current_dir(&self.dir);
        match self.kind {
            Kind::Cairn => {
                c.env("CAIRN_STORE", self.store()).env("CAIRN_KEY_FILE", own("key")).env("CAIRN_STATE_DIR", own("state"));
            }
            Kind::Floor => {}
            Kind::Restic => {
                c.env("RESTIC_REPOSITORY", self.store()).env("RESTIC_PASSWORD", PASSWORD).env("RESTIC_CACHE_DIR", own("cache"));
            }
            Kind::Rustic => {
                c.env("RUSTIC_REPOSITORY", self.store()).env("RUSTIC_PASSWORD", PASSWORD).env("RUSTIC_CACHE_DIR", own("cache")).arg("--no-progress");
            }
            Kind::Borg => {
                c.env("BORG_REPO", self.store()).env("BORG_PASSPHRASE", PASSWORD).env("BORG_BASE_DIR", own("base"));
                c.env("BORG_DELETE_I_KNOW_WHAT_I_AM_DOING", "YES").env("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes");
            }
        }
        c
    }

    fn init(&self) -> Result<()> {
        let (mut c, store) = (self.command(), self.store());
        match self.kind {
            Kind::Cairn => c.arg("init").arg(store).arg("--key-file").arg(self.dir.join("key")),
            Kind::Floor => return fs::create_dir(&store).map_err(|e| Error::failed(format!("cannot make {}: {e}", store.display()))),
            Kind::Restic => c.args(["-q", "init", "--repository-version", "2"]),
            Kind::Rustic => c.arg("init"),
            Kind::Borg => c.args(["init", "-e", "repokey-blake2"]),
        };
        run_ok(&mut c, QUERY_LIMIT).map(drop).map_err(Error::from)
    }

    /// Saves an image, which lies at `file`.
    pub fn save(&self, image: Image, file: &Path) -> Command {
        let mut c = self.command();
        match self.kind {
            Kind::Cairn => c.args(["-v", "backup-image"]).arg(file).args(["--name", image.machine()]),
            Kind::Floor => c.arg("backup").arg(self.store()).arg(file).arg(image.name()),
            Kind::Restic => c.args(["-q", "backup", "--compression", "auto", "--host", image.machine(), "--tag", image.name()]).arg(file),
            Kind::Rustic => c.args(["backup", "--host", image.machine(), "--tag", image.name()]).arg(file),
            Kind::Borg => c.args(["create", "--sparse", "-C", "zstd", &format!("::{}", image.name())]).arg(file),
        };
        c
    }

    /// Restores the image (day 3, the newest of its machine), saved from `file`; and where it then is.
    pub fn restore(&self, image: Image, file: &Path) -> Result<(Command, PathBuf)> {
        let (into, mut c) = (self.dir.join("restored"), self.command());
        fs::create_dir(&into).map_err(|e| Error::failed(format!("cannot make {}: {e}", into.display())))?;
        let as_saved = into.join(file.strip_prefix("/").unwrap_or(file));
        let out = into.join("disk.raw");
        let out = match self.kind {
            Kind::Cairn => {
                c.args(["restore", &format!("{}@latest", image.machine()), "--disk"]).arg(format!("disk0={}", out.display()));
                out
            }
            Kind::Floor => {
                c.arg("restore").arg(self.store()).arg(image.name()).arg(&out);
                out
            }
            Kind::Restic => {
                c.args(["-q", "restore", &self.snapshot(image)?, "--target"]).arg(&into);
                if run_ok(self.command().args(["restore", "--help"]), QUERY_LIMIT)?.contains("--sparse") {
                    c.arg("--sparse");
                }
                as_saved
            }
            Kind::Rustic => {
                c.args(["restore", "--sparse", "by-content", &self.snapshot(image)?]).arg(&into);
                as_saved
            }
            Kind::Borg => {
                c.args(["extract", "--sparse", &format!("::{}", image.name())]).current_dir(&into);
                as_saved
            }
        };
        Ok((c, out))
    }

    /// Serves the newest point of day 3's machine on a socket; of Cairn alone.
    pub fn export(&self, socket: &Path) -> Command {
        let mut c = self.command();
        c.args(["export", &format!("{}@latest", Image::Day3.machine()), "--nbd"]).arg(socket);
        c
    }

    /// What was restored goes.
    pub fn remove_restored(&self) -> Result<()> {
        let dir = self.dir.join("restored");
        fs::remove_dir_all(&dir).map_err(|e| Error::failed(format!("cannot remove {}: {e}", dir.display())))
    }

    /// Reads and proves everything in the store.
    pub fn verify(&self) -> Command {
        let mut c = self.command();
        match self.kind {
            Kind::Cairn => c.args(["verify", "--packs"]),
            Kind::Floor => c.arg("verify").arg(self.store()),
            Kind::Restic => c.args(["-q", "check", "--read-data"]),
            Kind::Rustic => c.args(["check", "--read-data"]),
            Kind::Borg => c.args(["check", "--verify-data"]),
        };
        c
    }

    /// Forgets the first day and frees all that it alone used; the floor cannot.
    pub fn forget(&self) -> Result<Vec<Command>> {
        let (mut forget, mut free) = (self.command(), self.command());
        match self.kind {
            Kind::Floor => return Ok(Vec::new()),
            Kind::Cairn => {
                forget.args(["forget", &format!("{}@-2", Image::Day1.machine()), "--force"]);
                // The peers are told to leave nothing unused, too; 100 would rewrite even packs that are all in use.
                free.args(["gc", "--keep-trash", "0s", "--repack-below", "99"]);
            }
            Kind::Restic => {
                forget.args(["-q", "forget", "--prune", "--max-unused", "0", &self.snapshot(Image::Day1)?]);
                return Ok(vec![forget]);
            }
            Kind::Rustic => {
                forget.args(["forget", "--prune", "--instant-delete", "--keep-delete", "0s", "--keep-pack", "0s", "--max-unused", "0B"]);
                forget.arg(self.snapshot(Image::Day1)?);
                return Ok(vec![forget]);
            }
            Kind::Borg => {
                forget.args(["delete", &format!("::{}", Image::Day1.name())]);
                free.args(["compact", "--threshold", "0"]);
            }
        }
        Ok(vec![forget, free])
    }

    /// Id of restic's or rustic's snapshot of an image.
    fn snapshot(&self, image: Image) -> Result<String> {
        let tag = if self.kind == Kind::Rustic { "--filter-tags" } else { "--tag" };
        let text = run_ok(self.command().args(["snapshots", "--json", tag, image.name()]), QUERY_LIMIT)?;
        let json: Value = serde_json::from_str(&text).map_err(|e| Error::failed(format!("{} snapshots: {e}", self.kind.name())))?;
        let id = first_id(&json).ok_or_else(|| Error::failed(format!("{} has no snapshot of {}", self.kind.name(), image.name())))?;
        Ok(id.to_owned())
    }
}

/// The first object with an id and a tree, however deep: the two print different shapes.
fn first_id(json: &Value) -> Option<&str> {
    match json {
        Value::Object(o) if o.contains_key("tree") => o.get("id")?.as_str(),
        Value::Object(o) => o.values().find_map(first_id),
        Value::Array(a) => a.iter().find_map(first_id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_found_in_both_shapes() {
        let flat = serde_json::json!([{"id": "aa", "tree": "bb"}]);
        let grouped = serde_json::json!([[{"host": "x"}, [{"id": "cc", "tree": "dd"}]]]);
        assert_eq!((first_id(&flat), first_id(&grouped)), (Some("aa"), Some("cc")));
        assert_eq!(first_id(&serde_json::json!([])), None);
    }
}
