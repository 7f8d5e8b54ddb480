//! `cairn daemon` as suites use it: a process, its configuration, its API over the unix socket.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::process::{wait_for, wait_limit};
use crate::second::Second;
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Where it listens unless told otherwise.
pub const SOCKET: &str = "/run/cairn/api.sock";
/// It is there within a second on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// An answer takes no longer, be it only that the disk hangs (10 s); one that does shows that the daemon hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(100);

/// What it and its jobs have in their environment besides.
pub type Environment = Vec<(&'static str, OsString)>;

/// A running daemon; killed when it is dropped.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    config: PathBuf,
    log: PathBuf,
    environment: Environment,
    /// As the lab sees it.
    socket: PathBuf,
    child: Child,
}

impl Daemon {
    /// Writes the configuration and starts it.
    ///
    /// # Errors
    /// It does not come up; its log is quoted.
    pub fn start(lab: &Lab, config: &str) -> Result<Self> {
        Self::start_with(lab, config, Environment::new())
    }

    /// The same with more in its environment.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_with(lab: &Lab, config: &str, environment: Environment) -> Result<Self> {
        let path = lab.dir().join("cairn.yaml");
        fs::write(&path, config).map_err(Error::io("write", &path))?;
        let (program, log) = (lab.cairn()?, lab.dir().join("daemon.log"));
        let child = spawn(command(&program, &path, &environment), &log)?;
        let mut daemon = Self { program, config: path, log, environment, socket: SOCKET.into(), child };
        daemon.wait_up()?;
        Ok(daemon)
    }

    /// One of the second host; it is not started again.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_on(lab: &Lab, second: &Second, config: &str) -> Result<Self> {
        let (path, log, program) = (lab.dir().join("second.yaml"), lab.dir().join("second-daemon.log"), lab.cairn()?);
        fs::write(&path, config).map_err(Error::io("write", &path))?;
        let environment = Environment::new();
        let child = spawn(second.inside(&command(&program, &path, &environment)), &log)?;
        let socket = second.root().join(SOCKET.trim_start_matches('/'));
        let mut daemon = Self { program, config: path, log, environment, socket, child };
        daemon.wait_up()?;
        Ok(daemon)
    }

    /// Starts it again after it was killed.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(command(&self.program, &self.config, &self.environment), &self.log)?;
        self.wait_up()
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// It is gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().map_err(Error::io("kill", "the daemon"))?;
        self.child.wait().map(drop).map_err(Error::io("wait for", "the daemon"))
    }

    /// Waits until it has ended by a signal that somebody sent.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub fn ends(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_limit(&mut self.child, "cairn daemon", limit)
    }

    fn wait_up(&mut self) -> Result<()> {
        let said = |log: &Path| fs::read_to_string(log).unwrap_or_default();
        wait_for("answer of the daemon", START_LIMIT, POLL, || {
            if let Some(status) = self.child.try_wait().map_err(Error::io("wait for", "the daemon"))? {
                return Err(Error::Command { command: "cairn daemon".into(), status: status.to_string(), stderr: said(&self.log) });
            }
            Ok(self.health().ok().map(drop))
        })
    }

    /// What it said so far.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it is.
    ///
    /// # Errors
    /// No answer in time.
    pub fn health(&self) -> Result<Value> {
        self.get("/api/v1/health")
    }

    /// The record of a domain by UUID.
    ///
    /// # Errors
    /// No answer in time, or no such record.
    pub fn record(&self, uuid: &str) -> Result<Value> {
        let all = self.get("/api/v1/domains")?;
        let found = all.as_array().and_then(|all| all.iter().find(|d| d["uuid"] == uuid)).cloned();
        found.ok_or_else(|| Error::answer("GET /api/v1/domains", format!("has no {uuid}: {all}")))
    }

    /// Waits until a domain's record is as `is` wants it; gives it.
    ///
    /// # Errors
    /// Not so within `limit`: the record is quoted.
    pub fn wait_record(&self, uuid: &str, what: &str, limit: Duration, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_for(&format!("record: {what}"), limit, POLL, || {
            last = self.record(uuid).unwrap_or_default();
            Ok(is(&last).then(|| last.clone()))
        });
        waited.map_err(|e| match e {
            Error::Timeout { what, limit, .. } => Error::Timeout { what, limit, hint: format!("; it is {last:#}") },
            other => other,
        })
    }

    /// Asks for a look at a domain, or at all.
    ///
    /// # Errors
    /// No answer in time.
    pub fn look(&self, uuid: Option<&str>) -> Result<Value> {
        self.ask("POST", "/api/v1/reconcile", &serde_json::json!({ "domain": uuid }).to_string())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for a backup; the jobs of it.
    ///
    /// # Errors
    /// No answer in time, or a refusal.
    pub fn back_up(&self, wanted: &Value) -> Result<Vec<Value>> {
        Ok(self.ask("POST", "/api/v1/backups", &wanted.to_string())?["jobs"].as_array().cloned().unwrap_or_default())
    }

    /// One job, by its number.
    ///
    /// # Errors
    /// No answer in time, or no such job.
    pub fn job(&self, id: &Value) -> Result<Value> {
        self.get(&format!("/api/v1/jobs/{id}"))
    }

    /// Waits until a job is as `is` wants it; gives it.
    ///
    /// # Errors
    /// Not so within `limit`: the job is quoted.
    pub fn wait_job(&self, id: &Value, what: &str, limit: Duration, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        let waited = wait_for(&format!("job {id}: {what}"), limit, POLL / 10, || {
            last = self.job(id)?;
            Ok(is(&last).then(|| last.clone()))
        });
        waited.map_err(|e| match e {
            Error::Timeout { what, limit, .. } => Error::Timeout { what, limit, hint: format!("; it is {last:#}") },
            other => other,
        })
    }

    /// All jobs.
    ///
    /// # Errors
    /// No answer in time.
    pub fn jobs(&self) -> Result<Vec<Value>> {
        Ok(self.get("/api/v1/jobs")?.as_array().cloned().unwrap_or_default())
    }

    fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, "")
    }

    /// One request; anything but a success is an error with what was said.
    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let io = |what| move |e| Error::io(what, &self.socket)(e);
        let mut stream = UnixStream::connect(&self.socket).map_err(io("connect to"))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(io("set a limit on"))?;
        let kind = "Content-Type: application/json";
        let request = format!("{method} {path} HTTP/1.1\r\nHost: cairn\r\nConnection: close\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).map_err(io("write to"))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(io("read from"))?;
        let (head, answer) = text.split_once("\r\n\r\n").ok_or_else(|| Error::answer(path, format!("{text:?} is no answer")))?;
        if !head.starts_with("HTTP/1.1 2") {
            return Err(Error::answer(format!("{method} {path}"), answer.to_owned()));
        }
        serde_json::from_str(answer).map_err(|e| Error::answer(path, format!("{e} in {answer:?}")))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &Path, config: &Path, environment: &Environment) -> Command {
    let mut command = Command::new(program);
    command.arg("daemon").arg("--config").arg(config);
    command.env_remove("CAIRN_STORE").env_remove("CAIRN_KEY_FILE").env_remove("CAIRN_PASSPHRASE_FILE");
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    command
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = File::options().create(true).append(true).open(log).map_err(Error::io("open", log))?;
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().map_err(Error::io("start", &program))
}
