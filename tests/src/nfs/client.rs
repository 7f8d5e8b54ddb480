//! One NFS client: an emulated guest with a kernel of its own, commands in it through its guest agent.
//!
//! Every call has a limit. After an error that is not the script's own the connection is of no more use.
//! Must not be used for domains of libvirt: `domain.rs` is for those.

use crate::console;
use crate::domain::{Exec, decode_exec, number, order, returned};
use crate::error::{Error, Result};
use crate::nfs::server::EXPORT;
use crate::process::wait_for;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const MEMORY_MIB: u32 = 640;
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const CALL_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// A client whose server is away for some seconds takes as long.
pub const EXEC_LIMIT: Duration = Duration::from_secs(240);
/// Where the export is mounted in the guest.
pub const MOUNTED: &str = "/mnt/nfs";
/// Options of every mount; `addr` is the host as QEMU's user network shows it.
const OPTIONS: &str = "vers=4.2,proto=tcp,addr=10.0.2.2,clientaddr=10.0.2.15";

/// A guest; dropping it kills it.
#[derive(Debug)]
pub struct Client {
    name: String,
    console: PathBuf,
    child: Child,
    agent: Mutex<Agent>,
}

/// A script that runs in a guest.
#[derive(Debug)]
pub struct Running {
    pid: i64,
    script: String,
}

impl Client {
    /// Starts a guest from `boot/vmlinuz` and `boot/initramfs` and waits for its agent.
    ///
    /// # Errors
    /// No QEMU, or the agent stays silent; with the end of the console.
    pub fn start(folder: &Path, boot: &Path, name: &str) -> Result<Self> {
        let (console, socket) = (folder.join(format!("{name}.console")), folder.join(format!("{name}.agent")));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-m", &format!("{MEMORY_MIB}M")]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-kernel").arg(boot.join("vmlinuz")).arg("-initrd").arg(boot.join("initramfs"));
        command.args(["-append", &format!("console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off tsc=unstable no_timer_check client={name}")]);
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        command.arg("-chardev").arg(format!("socket,id=agent,path={},server=on,wait=off", socket.display()));
        command.args(["-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
        command.env("PATH", crate::init::PATH).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(Error::io("start", "qemu-system-x86_64"))?;
        let connected = Agent::connect(&socket, &mut child).map_err(|error| Error::answer(name, format!("{}{}", error.report(), console::hint(&console))));
        match connected {
            Ok(agent) => Ok(Self { name: name.to_owned(), console, child, agent: Mutex::new(agent) }),
            Err(error) => {
                // Both fail only if it is gone.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its name, which is its host name too.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SIGKILL to the whole machine: as if its power were cut.
    ///
    /// # Errors
    /// It was gone already.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(Error::io("kill", &self.name))
    }

    /// Starts a shell script.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn spawn(&self, script: &str) -> Result<Running> {
        let arguments = json!({ "path": "/bin/sh", "arg": ["-c", script], "env": ["PATH=/bin:/sbin"], "capture-output": true });
        let pid = number("guest-exec", &self.call("guest-exec", &arguments)?["pid"])?;
        Ok(Running { pid, script: script.to_owned() })
    }

    /// How a script ended, if it has.
    ///
    /// # Errors
    /// The agent does not answer.
    pub fn poll(&self, running: &Running) -> Result<Option<Exec>> {
        let status = self.call("guest-exec-status", &json!({ "pid": running.pid }))?;
        if status["exited"] == true { decode_exec(&status).map(Some) } else { Ok(None) }
    }

    /// Waits for a script's end, whatever its exit code.
    ///
    /// # Errors
    /// Not done after `limit`, or the agent does not answer.
    pub fn wait(&self, running: &Running, limit: Duration) -> Result<Exec> {
        let done = wait_for(&format!("`{}` in {}", running.script, self.name), limit, POLL, || self.poll(running));
        done.map_err(|error| match error {
            Error::Timeout { what, limit, hint } => Error::Timeout { what, limit, hint: hint + &console::hint(&self.console) },
            other => other,
        })
    }

    /// Runs a script to its end, whatever its exit code.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn exec(&self, script: &str) -> Result<Exec> {
        self.wait(&self.spawn(script)?, EXEC_LIMIT)
    }

    /// Runs a script; anything but exit code 0 is an error. Gives its output.
    ///
    /// # Errors
    /// As [`Self::wait`], and a failing script with what it said.
    pub fn sh(&self, script: &str) -> Result<String> {
        let done = self.exec(script)?;
        if done.code == 0 {
            return Ok(done.stdout);
        }
        let stderr = format!("{}\n{}", done.stdout, done.stderr);
        Err(Error::Command { command: format!("{script} (in {})", self.name), status: format!("exit code {}", done.code), stderr })
    }

    /// Mounts the export at [`MOUNTED`] with more options (`hard` unless they say otherwise).
    ///
    /// # Errors
    /// It cannot be mounted, or what is mounted is no NFS.
    pub fn mount(&self, port: u16, more: &str) -> Result<String> {
        self.sh(&format!("mount -i -t nfs4 -o {OPTIONS},port={port}{}{more} 10.0.2.2:{EXPORT} {MOUNTED}", if more.is_empty() { "" } else { "," }))?;
        let line = self.sh(&format!("grep ' {MOUNTED} ' /proc/mounts"))?;
        if line.split_whitespace().nth(2) == Some("nfs4") { Ok(line) } else { Err(Error::answer(MOUNTED, format!("is no NFS mount: {line}"))) }
    }

    /// Unmounts it.
    ///
    /// # Errors
    /// It is in use or not mounted.
    pub fn unmount(&self) -> Result<()> {
        self.sh(&format!("umount {MOUNTED}")).map(drop)
    }

    fn call(&self, execute: &str, arguments: &Value) -> Result<Value> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).call(execute, arguments, CALL_LIMIT)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only if it is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The host's end of the agent's port.
#[derive(Debug)]
struct Agent {
    lines: BufReader<UnixStream>,
}

impl Agent {
    /// Connects as soon as QEMU listens and waits until the agent reads.
    fn connect(socket: &Path, machine: &mut Child) -> Result<Self> {
        let stream = wait_for("QEMU's agent socket", CALL_LIMIT, POLL, || match machine.try_wait().map_err(Error::io("wait for", "QEMU"))? {
            Some(status) => Err(Error::answer("QEMU", format!("ended: {status}"))),
            None => Ok(UnixStream::connect(socket).ok()),
        })?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).map_err(Error::io("set a limit for", socket))?;
        stream.set_write_timeout(Some(CALL_LIMIT)).map_err(Error::io("set a limit for", socket))?;
        let mut agent = Self { lines: BufReader::new(stream) };
        // What is sent before the agent opens its port may or may not reach it: asked again and again, each time by a new number.
        let begin = Instant::now();
        for id in 1u32.. {
            agent.send("guest-sync", &json!({ "id": id }))?;
            if agent.synced(id) {
                return Ok(agent);
            }
            if begin.elapsed() > BOOT_LIMIT {
                return Err(Error::Timeout { what: "answer of the guest agent".into(), limit: BOOT_LIMIT, hint: String::new() });
            }
        }
        Err(Error::answer("guest agent", "all numbers were used up"))
    }

    /// Whether the answer with this number comes before a second of silence.
    fn synced(&mut self, id: u32) -> bool {
        let mut line = String::new();
        while self.lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            if returned("guest-sync", &line).is_ok_and(|value| value == id) {
                return true;
            }
            line.clear();
        }
        false
    }

    fn send(&mut self, execute: &str, arguments: &Value) -> Result<()> {
        let text = order(execute, arguments) + "\n";
        self.lines.get_mut().write_all(text.as_bytes()).map_err(Error::io("write to", "the guest agent"))
    }

    fn call(&mut self, execute: &str, arguments: &Value, limit: Duration) -> Result<Value> {
        self.send(execute, arguments)?;
        let begin = Instant::now();
        let mut line = Vec::new();
        loop {
            match self.lines.read_until(b'\n', &mut line) {
                Ok(0) => return Err(Error::answer("guest agent", "the guest is gone")),
                Ok(_) if line.ends_with(b"\n") => return returned(execute, &String::from_utf8_lossy(&line)),
                // A second went by; what has come stays in `line`.
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut | std::io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(Error::io("read from", "the guest agent")(error)),
            }
            if begin.elapsed() > limit {
                return Err(Error::Timeout { what: format!("answer of the guest agent to {execute}"), limit, hint: String::new() });
            }
        }
    }
}
