//! The program under test as people use it: a process with arguments, an exit code and JSON.
//!
//! Knows the command line's contract and nothing of the program's inside.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::process::{Output, run};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Done.
pub const DONE: i32 = 0;
/// Failed for a reason that has no code of its own.
pub const FAILED: i32 = 1;
/// Wrong usage.
pub const USAGE: i32 = 2;
/// Done, with warnings named in the output and in the point.
pub const WARNINGS: i32 = 3;
/// No such store.
pub const NO_STORE: i32 = 10;
/// Busy, try again.
pub const BUSY: i32 = 11;
/// Wrong key.
pub const WRONG_KEY: i32 = 12;
/// Refused by a safety rule.
pub const REFUSED: i32 = 13;
/// Damaged data met.
pub const DAMAGED: i32 = 14;
/// No such point, domain, disk or source.
pub const NOT_FOUND: i32 = 15;

/// No call of the suites takes longer; one that does hangs.
pub const LIMIT: Duration = Duration::from_secs(600);

/// The program with a store and its key.
#[derive(Debug, Clone)]
pub struct Cairn {
    program: PathBuf,
    store: PathBuf,
    key: PathBuf,
}

impl Cairn {
    /// The program under test with `store` and `key` in the lab's folder; nothing is made yet.
    ///
    /// # Errors
    /// `CAIRN` names no program.
    pub fn new(lab: &Lab, store: &str) -> Result<Self> {
        let dir = lab.dir();
        Ok(Self { program: lab.cairn()?, store: dir.join(store), key: dir.join(format!("{store}.key")) })
    }

    /// A program with a store and a key anywhere; nothing is made yet.
    #[must_use]
    pub fn at(program: impl Into<PathBuf>, store: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), store: store.into(), key: key.into() }
    }

    /// The same with another key file.
    #[must_use]
    pub fn with_key(&self, key: impl Into<PathBuf>) -> Self {
        Self { key: key.into(), ..self.clone() }
    }

    /// The same with another store.
    #[must_use]
    pub fn with_store(&self, store: impl Into<PathBuf>) -> Self {
        Self { store: store.into(), ..self.clone() }
    }

    /// The store's folder.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }

    /// The key's file.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// The command, for those who start and end it themselves.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("CAIRN_STORE", &self.store).env("CAIRN_KEY_FILE", &self.key).env_remove("CAIRN_PASSPHRASE_FILE");
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// Not startable, or it hangs.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        run(&mut self.command(args), LIMIT)
    }

    /// Runs it; anything but 0 is an error with what it said.
    ///
    /// # Errors
    /// As said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if output.code() == DONE {
            return Ok(output.text());
        }
        let stderr = format!("{}\n{}", output.text(), output.err_text());
        Err(Error::Command { command: format!("cairn {}", args.join(" ")), status: format!("exit code {}", output.code()), stderr })
    }

    /// Runs it with `--json` and reads its answer.
    ///
    /// # Errors
    /// It failed, or its output is no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.ok(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).map_err(|e| Error::answer(format!("cairn {} --json", args.join(" ")), format!("{e} in {text:?}")))
    }

    /// Makes store and key.
    ///
    /// # Errors
    /// It failed.
    pub fn init(&self) -> Result<String> {
        let (store, key) = (self.store.to_string_lossy(), self.key.to_string_lossy());
        self.ok(&["init", &store, "--key-file", &key])
    }

    /// The ids of a domain's points, oldest first.
    ///
    /// # Errors
    /// It failed, or a point has no id.
    pub fn points(&self, name: &str) -> Result<Vec<String>> {
        // All of them: a name that has no point yet is an error to `list NAME`.
        let list = self.json(&["list"])?;
        let list = list.as_array().ok_or_else(|| Error::answer("cairn list --json", "is no array"))?;
        list.iter().filter(|point| point["name"] == name).map(|point| text(point, "id")).collect()
    }

    /// One point as `show --json` has it.
    ///
    /// # Errors
    /// It failed.
    pub fn point(&self, id: &str) -> Result<Value> {
        self.json(&["show", id])
    }

    /// Restores both disks of a point as raw files into a new folder.
    ///
    /// # Errors
    /// It failed.
    pub fn restore_raw(&self, id: &str, folder: &Path) -> Result<crate::reference::Pair> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let pair = crate::reference::Pair { vda: folder.join("vda.raw"), vdb: folder.join("vdb.raw") };
        let (vda, vdb) = (format!("vda={}", pair.vda.display()), format!("vdb={}", pair.vdb.display()));
        self.ok(&["restore", id, "--disk", &vda, "--disk", &vdb, "--format", "raw"])?;
        Ok(pair)
    }
}

/// A text member of a JSON object.
///
/// # Errors
/// It is not there, or not a text.
pub fn text(object: &Value, key: &str) -> Result<String> {
    object[key].as_str().map(str::to_owned).ok_or_else(|| Error::answer(format!("member {key:?}"), format!("is missing or no text in {object}")))
}

/// A disk of a point by its target.
///
/// # Errors
/// The point has no such disk.
pub fn disk<'a>(point: &'a Value, target: &str) -> Result<&'a Value> {
    let found = point["disks"].as_array().and_then(|disks| disks.iter().find(|disk| disk["target"] == target));
    found.ok_or_else(|| Error::answer("point", format!("has no disk {target}: {point}")))
}
