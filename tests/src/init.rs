//! Process 1 of a lab, and its first child, which brings up libvirtd and the guest and becomes the command.
//!
//! Process 1 does nothing but reap (libvirtd waits for QEMUs that it started in the background to be gone,
//! zombies included), pass signals on and exit with the command's code. It tears nothing down: the kernel
//! kills the namespace with it, faster and more surely than any order of stops.

use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::options::Options;
use crate::process::exit_code;
use crate::signals::{Signals, with_empty_mask};
use crate::{disks, initramfs, lab, libvirt, mounts, roles};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

/// Exit code when the lab itself did not come up: not one that `cairn` uses.
pub const CODE_NOT_UP: u8 = 70;
/// Programs of the system as Debian has them, whatever the caller's PATH.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Booting takes six seconds on two slow cores; a loaded machine gets fifteen times that, twice.
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// Where libvirt lets each QEMU say its last.
const QEMU_LOGS: &str = "/var/log/libvirt/qemu";
const LAST_LINES: usize = 12;
const LINE_CHARS_MAX: usize = 300;
const TICK: Duration = Duration::from_millis(500);

/// What init is told by the process outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The lab's folder.
    pub folder: PathBuf,
    /// How the lab shall be.
    pub options: Options,
    /// Program and arguments.
    pub command: Vec<String>,
    /// More environment for the command.
    pub env: Vec<(String, String)>,
}

impl Order {
    fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| Error::answer("order for the lab", e.to_string()))
    }

    /// One argument of init's command line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, paths of ours and numbers always have a JSON form")
    }
}

/// Init's whole life; `json` is an [`Order`].
#[must_use]
pub fn main(json: &str) -> ExitCode {
    finish(watch(json))
}

/// The first child's life; ends here only when something failed.
#[must_use]
pub fn main_child(json: &str) -> ExitCode {
    finish(bring_up(json).and_then(|order| become_command(&order)))
}

fn finish(result: Result<i32>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: {}", error.report());
            ExitCode::from(CODE_NOT_UP)
        }
    }
}

fn watch(json: &str) -> Result<i32> {
    if std::process::id() != 1 {
        return Err(Error::answer("lab", "its init must be process 1 of a namespace; use `cargo xtask lab -- COMMAND`"));
    }
    let order = Order::parse(json)?;
    let signals = Signals::block()?;
    mounts::make_private(&order.folder.join("host"))?;
    let own = std::env::current_exe().map_err(Error::io("find", "this program"))?;
    // The command, libvirtd and its QEMUs are this child's: Ctrl-C and SIGTERM must reach them.
    let child = with_empty_mask(Command::new(&own).args([roles::FIRST, json])).spawn().map_err(Error::io("start", &own))?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(|e| Error::answer("process id", e.to_string()))?;
    loop {
        if let Some(code) = reap(pid)? {
            if code != 0 {
                last_words();
            }
            return Ok(code);
        }
        // Ctrl-C has reached the command already; what was sent to us alone is passed on.
        if let Some(received) = signals.wait(TICK).filter(|r| !r.from_terminal) {
            // Gone already is as good.
            let _ = kill(pid, received.signal);
        }
    }
}

/// What each QEMU said last: one that ended by itself, or said that it could not go on, is the reason for much that failed.
fn last_words() {
    let logs = std::fs::read_dir(QEMU_LOGS).into_iter().flatten().flatten();
    for path in logs.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log")) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        // Its arguments, one a line, begin with a dash or a variable.
        let said: Vec<&str> = text.lines().filter(|line| !line.starts_with('-') && !line.ends_with('\\')).collect();
        for line in &said[said.len().saturating_sub(LAST_LINES)..] {
            let short: String = line.chars().take(LINE_CHARS_MAX).collect();
            eprintln!("lab: {}: {short}", path.display());
        }
    }
}

fn bring_up(json: &str) -> Result<Order> {
    let order = Order::parse(json)?;
    let start = Instant::now();
    let say = |text: &str| {
        if !order.options.quiet {
            eprintln!("lab: {text} ({:.1} s)", start.elapsed().as_secs_f64());
        }
    };
    // While libvirtd has its first look at QEMU, the other core makes the disks.
    let guest = order.options.guest.then(|| prepare_guest(&order));
    let version = libvirt::start(&order.folder.join("log/libvirtd.log"))?;
    say(&format!("{version}, a libvirtd of its own in {}", order.folder.display()));
    if let Some(prepared) = guest {
        prepared.join().unwrap_or_else(|_| Err(Error::answer("lab", "the thread that makes the disks panicked")))?;
        start_guest(&order)?;
        say("lab1 is up, its agent answers, /mnt/a and /mnt/b are mounted");
    }
    let up = order.folder.join("up");
    std::fs::write(&up, b"").map_err(Error::io("write", &up))?;
    Ok(order)
}

fn prepare_guest(order: &Order) -> std::thread::JoinHandle<Result<()>> {
    let (folder, options) = (order.folder.clone(), order.options.clone());
    std::thread::spawn(move || {
        initramfs::build(&folder.join("boot"))?;
        disks::make(&folder, &options)
    })
}

fn start_guest(order: &Order) -> Result<()> {
    let domain = Domain::new(lab::DOMAIN);
    let xml = lab::domain_xml(&order.folder);
    let path = order.folder.join("boot/lab1.xml");
    std::fs::write(&path, xml).map_err(Error::io("write", &path))?;
    domain.virsh_ok(&["define", &path.to_string_lossy()])?;
    domain.virsh_ok(&["start", lab::DOMAIN])?;
    let error = match domain.wait_agent(GUEST_LIMIT) {
        Err(error @ Error::Timeout { .. }) => error,
        other => return other,
    };
    // Seen once in hundreds of starts: an emulated guest that never said a word. Nothing of Cairn's has run yet, so it may begin again.
    eprintln!("lab: {}; the guest is started once more", error.report());
    domain.virsh_ok(&["destroy", lab::DOMAIN])?;
    domain.virsh_ok(&["start", lab::DOMAIN])?;
    domain.wait_agent(GUEST_LIMIT)
}

/// Gives this process to the command; comes back only when it cannot be started.
fn become_command(order: &Order) -> Result<i32> {
    let (program, args) = order.command.split_first().ok_or_else(|| Error::answer("lab", "no command to run"))?;
    let mut command = Command::new(program);
    command.args(args).env("LIBVIRT_DEFAULT_URI", libvirt::URI).env("LAB_DIR", order.folder.join("work")).env(lab::FOLDER_VARIABLE, &order.folder);
    command.envs(order.env.iter().map(|(k, v)| (k, v)));
    Err(Error::io("start", program)(command.exec()))
}

/// Takes all ended children; gives the exit code when `main` is among them.
fn reap(main: Pid) -> Result<Option<i32>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => {
                return Ok(Some(exit_code(ExitStatus::from_raw(code << 8))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => {
                return Ok(Some(128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return Ok(None),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(Error::io("wait for", "the lab's processes")(errno.into())),
        }
    }
}
