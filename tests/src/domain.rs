//! Talking to a domain of the lab: virsh, QEMU's monitor, the guest agent.
//!
//! Every call has a limit. Answers are parsed as JSON values and checked where they are used.

use crate::console;
use crate::error::{Error, Result};
use crate::libvirt::{CALL_LIMIT, URI, virsh_at};
use crate::process::{Output, run, run_ok, wait_for, wait_longer};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

const AGENT_CALL_S: u32 = 20;
const PING_S: u32 = 2;
/// A virsh takes 20 to 50 ms of a core, which the guest that is waited for could use.
const BOOT_PAUSES: Range<Duration> = Duration::from_millis(300)..Duration::from_millis(300);
const EXEC_PAUSES: Range<Duration> = Duration::from_millis(40)..Duration::from_millis(320);
/// Pings of the agent for each look at the domain.
const PINGS: u32 = 4;
/// For a script in the guest, which runs some ten times slower than the host.
pub const EXEC_LIMIT: Duration = Duration::from_secs(120);

/// A domain by name.
#[derive(Debug, Clone)]
pub struct Domain {
    name: String,
    uri: String,
}

/// What a script in the guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Exit code, or 128 + signal.
    pub code: i64,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Domain {
    /// The domain of that name, which need not exist yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self::at(URI, name)
    }

    /// The same of another libvirtd ([`crate::second`]).
    pub fn at(uri: impl Into<String>, name: impl Into<String>) -> Self {
        Self { name: name.into(), uri: uri.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs virsh with just these arguments.
    ///
    /// # Errors
    /// Not startable or over its limit.
    pub fn virsh(&self, args: &[&str]) -> Result<Output> {
        run(&mut virsh_at(&self.uri, args), CALL_LIMIT)
    }

    /// Runs virsh; a failure is an error. Gives its output.
    ///
    /// # Errors
    /// virsh's own words.
    pub fn virsh_ok(&self, args: &[&str]) -> Result<String> {
        run_ok(&mut virsh_at(&self.uri, args), CALL_LIMIT)
    }

    /// `running`, `paused`, `shut off` and so on.
    ///
    /// # Errors
    /// No such domain.
    pub fn state(&self) -> Result<String> {
        Ok(self.virsh_ok(&["domstate", &self.name])?.trim().to_owned())
    }

    /// Starts it and waits until its agent answers.
    ///
    /// # Errors
    /// It does not start, or its agent stays silent for `limit`.
    pub fn start(&self, limit: Duration) -> Result<()> {
        self.virsh_ok(&["start", &self.name])?;
        self.wait_agent(limit)
    }

    /// Waits until the agent answers.
    ///
    /// # Errors
    /// The domain stopped, or the limit; both with the end of its console.
    pub fn wait_agent(&self, limit: Duration) -> Result<()> {
        let console = || console::hint(Path::new(console::LOG));
        let mut pings = 0;
        let answered = wait_longer(&format!("answer of {}'s guest agent", self.name), limit, BOOT_PAUSES, || {
            if self.agent_within("guest-ping", &Value::Null, PING_S).is_ok() {
                return Ok(Some(()));
            }
            pings += 1;
            if pings % PINGS != 1 {
                return Ok(None);
            }
            match self.state()?.as_str() {
                "running" => Ok(None),
                other => Err(Error::answer(&self.name, format!("is {other} and not running{}", console()))),
            }
        });
        answered.map_err(|error| match error {
            Error::Timeout { what, limit, hint } => Error::Timeout { what, limit, hint: hint + &console() },
            other => other,
        })
    }

    /// The same of a guest that may be paused meanwhile, as one of a run is.
    ///
    /// # Errors
    /// The limit.
    pub fn wait_agent_again(&self, limit: Duration) -> Result<()> {
        let answers = || Ok(self.agent_within("guest-ping", &Value::Null, PING_S).is_ok().then_some(()));
        wait_for("the guest's agent", limit, Duration::from_millis(300), answers)
    }

    /// One QMP command through libvirt's passthrough; gives the `return` member.
    ///
    /// # Errors
    /// virsh's words, or QEMU's error object.
    pub fn qmp(&self, execute: &str, arguments: &Value) -> Result<Value> {
        let text = self.virsh_ok(&["qemu-monitor-command", &self.name, &order(execute, arguments)])?;
        returned(execute, &text)
    }

    /// One human monitor command, for instance `qemu-io`; gives what it prints.
    ///
    /// # Errors
    /// virsh's words. HMP itself knows no errors: look at the text.
    pub fn hmp(&self, line: &str) -> Result<String> {
        self.virsh_ok(&["qemu-monitor-command", &self.name, "--hmp", line])
    }

    /// One guest agent command; gives the `return` member.
    ///
    /// # Errors
    /// No answer in time, or the agent's error.
    pub fn agent(&self, execute: &str, arguments: &Value) -> Result<Value> {
        self.agent_within(execute, arguments, AGENT_CALL_S)
    }

    /// The same with a time limit of its own, in seconds (libvirt's own handshake comes on top).
    ///
    /// # Errors
    /// No answer in time, or the agent's error.
    pub fn agent_within(&self, execute: &str, arguments: &Value, limit_s: u32) -> Result<Value> {
        let limit = limit_s.to_string();
        let order = order(execute, arguments);
        let text = self.virsh_ok(&["qemu-agent-command", &self.name, "--timeout", &limit, &order])?;
        returned(execute, &text)
    }

    /// Runs a shell script in the guest to its end, whatever its exit code.
    ///
    /// # Errors
    /// The agent does not answer, or the script is not done after `limit`.
    pub fn exec(&self, script: &str, limit: Duration) -> Result<Exec> {
        let order = json!({ "path": "/bin/sh", "arg": ["-c", script], "env": ["PATH=/bin:/sbin"], "capture-output": true });
        let pid = number("guest-exec", &self.agent("guest-exec", &order)?["pid"])?;
        wait_longer(&format!("`{script}` in {}", self.name), limit, EXEC_PAUSES, || {
            let status = self.agent("guest-exec-status", &json!({ "pid": pid }))?;
            Ok((status["exited"] == true).then_some(status))
        })
        .and_then(|status| decode_exec(&status))
    }

    /// Runs a shell script in the guest; anything but exit code 0 is an error. Gives its output.
    ///
    /// # Errors
    /// As [`Self::exec`], and a failing script with what it said.
    pub fn sh(&self, script: &str) -> Result<String> {
        let done = self.exec(script, EXEC_LIMIT)?;
        if done.code == 0 {
            return Ok(done.stdout);
        }
        Err(Error::Command { command: format!("{script} (in {})", self.name), status: format!("exit code {}", done.code), stderr: done.stderr })
    }

    /// The guest powers itself off, at once and without a word to anybody. Whether it is off is for the caller to see: it may be gone before it has answered.
    pub fn powers_off(&self) {
        let order = json!({ "path": "/bin/sh", "arg": ["-c", "poweroff -f"], "env": ["PATH=/bin:/sbin"] });
        // An answer that is lost is as good.
        let _ = self.agent("guest-exec", &order);
    }

    /// Freezes all file systems; gives how many.
    ///
    /// # Errors
    /// The agent's.
    pub fn freeze(&self) -> Result<i64> {
        number("guest-fsfreeze-freeze", &self.agent("guest-fsfreeze-freeze", &Value::Null)?)
    }

    /// Thaws all file systems; gives how many.
    ///
    /// # Errors
    /// The agent's.
    pub fn thaw(&self) -> Result<i64> {
        number("guest-fsfreeze-thaw", &self.agent("guest-fsfreeze-thaw", &Value::Null)?)
    }

    /// `thawed` or `frozen`.
    ///
    /// # Errors
    /// The agent's.
    pub fn freeze_status(&self) -> Result<String> {
        let value = self.agent("guest-fsfreeze-status", &Value::Null)?;
        value.as_str().map(str::to_owned).ok_or_else(|| Error::answer("guest-fsfreeze-status", value.to_string()))
    }

    /// Starts the lock-step writer in the guest: a record every `pause_ms`, as fast as fsync allows with 0.
    ///
    /// # Errors
    /// It runs already, or a disk is not mounted.
    pub fn writer_start(&self, pause_ms: u32) -> Result<()> {
        self.sh(&format!("/bin/writer start {pause_ms}")).map(drop)
    }

    /// Stops the writer and syncs.
    ///
    /// # Errors
    /// It does not run.
    pub fn writer_stop(&self) -> Result<()> {
        self.sh("/bin/writer stop").map(drop)
    }

    /// Mounts both disks read-only (nothing on them changes from now on, and a freeze still counts them)
    /// or read-write again.
    ///
    /// # Errors
    /// Something has a file open for writing.
    pub fn read_only(&self, on: bool) -> Result<()> {
        let mode = if on { "ro" } else { "rw" };
        self.sh(&format!("sync && mount -o remount,{mode} /mnt/a && mount -o remount,{mode} /mnt/b")).map(drop)
    }
}

pub(crate) fn order(execute: &str, arguments: &Value) -> String {
    match arguments {
        Value::Null => json!({ "execute": execute }),
        _ => json!({ "execute": execute, "arguments": arguments }),
    }
    .to_string()
}

pub(crate) fn returned(execute: &str, text: &str) -> Result<Value> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| Error::answer(execute, format!("{e} in {text:?}")))?;
    match value.get_mut("return") {
        Some(inner) => Ok(inner.take()),
        None => Err(Error::answer(execute, value["error"]["desc"].as_str().unwrap_or(text))),
    }
}

pub(crate) fn number(what: &str, value: &Value) -> Result<i64> {
    value.as_i64().ok_or_else(|| Error::answer(what, format!("{value} is not a number")))
}

pub(crate) fn decode_exec(status: &Value) -> Result<Exec> {
    let text = |key: &str| -> Result<String> {
        let bytes = STANDARD.decode(status[key].as_str().unwrap_or("")).map_err(|e| Error::answer("guest-exec-status", e.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let code = status["exitcode"].as_i64().or_else(|| status["signal"].as_i64().map(|s| 128 + s));
    let code = code.ok_or_else(|| Error::answer("guest-exec-status", status.to_string()))?;
    Ok(Exec { code, stdout: text("out-data")?, stderr: text("err-data")? })
}
