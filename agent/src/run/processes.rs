//! The processes of a run, found by asking: each has the run's id in its arguments. No list of them could be wrong after a crash.
//!
//! Invariants
//! - Only processes of our own user are looked at, and for the storage daemon those of QEMU's: others may call themselves what they like. A guest that has
//!   broken out into its QEMU is of that user, and must not pass for our server.
//! - A process is signalled through a descriptor that was opened before its arguments were read: numbers are reused, descriptors are not.

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

/// The hidden command.
pub const SERVE: &str = "serve-run";
/// Its role as a server.
pub const ROLE_SERVER: &str = "--server";
const DAEMON: &str = "qemu-storage-daemon";
/// From SIGKILL to the end: a process that hangs in a dead NFS server takes its time.
const KILL_MS_MAX: u64 = 10_000;

/// What a process of a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Keeps the others alive.
    Supervisor,
    /// Serves the store's point.
    Server,
    /// Stands between QEMU and the server.
    Daemon,
}

/// A living process of a run.
#[derive(Debug)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// What it does.
    pub role: Role,
    fd: OwnedFd,
}

impl Process {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        ended(&self.fd, Duration::ZERO)
    }

    /// For polling: readable once it has ended.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Kills it and waits for its end; false if it does not come.
    pub fn kill(&self) -> bool {
        // One that has ended already is as good.
        let _ = pidfd_send_signal(&self.fd, Signal::KILL);
        ended(&self.fd, Duration::from_millis(KILL_MS_MAX))
    }
}

fn ended(fd: &OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.is_ok_and(|n| n > 0),
        }
    }
}

/// All living processes of a run but this one.
pub fn find(id: &str, owner: Option<(u32, u32)>) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| u32::try_from(*pid).is_ok_and(|pid| pid != std::process::id())).filter_map(|pid| look(pid, id, owner)).collect()
}

/// The process of that role, if it lives.
pub fn of_role(id: &str, owner: Option<(u32, u32)>, role: Role) -> Option<Process> {
    find(id, owner).into_iter().find(|p| p.role == role)
}

fn look(pid: i32, id: &str, owner: Option<(u32, u32)>) -> Option<Process> {
    let path = format!("/proc/{pid}");
    role_of(&fs::read(format!("{path}/cmdline")).ok()?, id)?;
    let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let role = role_of(&fs::read(format!("{path}/cmdline")).ok()?, id)?;
    let uid = fs::metadata(&path).ok()?.uid();
    let known = uid == nix::unistd::geteuid().as_raw() || (role == Role::Daemon && owner.is_some_and(|o| o.0 == uid));
    let process = Process { pid, role, fd };
    (known && !process.has_ended()).then_some(process)
}

/// What the arguments say, separated by zero bytes.
fn role_of(cmdline: &[u8], id: &str) -> Option<Role> {
    let args: Vec<_> = cmdline.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
    let program = Path::new(args.first()?.as_ref()).file_name()?.to_str()?.to_owned();
    if program == DAEMON {
        return args.iter().any(|a| a.contains(&format!("/run/{id}/"))).then_some(Role::Daemon);
    }
    if args.get(1)?.as_ref() != SERVE || !args.iter().any(|a| a.as_ref() == id) {
        return None;
    }
    Some(if args.iter().any(|a| a.as_ref() == ROLE_SERVER) { Role::Server } else { Role::Supervisor })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn arguments_tell_the_role() {
        let role = |args: &[&str]| role_of((args.join("\0") + "\0").as_bytes(), ID);
        assert_eq!(role(&["/usr/bin/cairn", "serve-run", "--id", ID, "--name", "x"]), Some(Role::Supervisor));
        assert_eq!(role(&["cairn", "serve-run", "--id", ID, "--server"]), Some(Role::Server));
        assert_eq!(role(&["/usr/bin/qemu-storage-daemon", "--nbd-server", &format!("addr.path=/run/cairn/run/{ID}/daemon/nbd.sock")]), Some(Role::Daemon));
        assert_eq!(role(&["cairn", "serve-run", "--id", "f".repeat(32).as_str()]), None, "another run's");
        assert_eq!(role(&["qemu-system-x86_64", &format!("/run/cairn/run/{ID}/nbd.sock")]), None, "the guest itself");
        assert_eq!(role(&["grep", ID]), None);
        assert_eq!(role(&[]), None);
    }

    /// A process with the arguments of a run's; of `nobody`, if root asks.
    fn pretender(dir: &Path, args: &[&str], uid: Option<u32>) -> std::process::Child {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sh");
        // A shell whose script has the name of the first argument, and which stands still.
        fs::write(dir.join(args[1]), "kill -STOP $$").expect("written");
        command.arg0(args[0]).args(&args[1..]).current_dir(dir);
        if let Some(uid) = uid {
            command.uid(uid);
        }
        command.spawn().expect("starts")
    }

    #[test]
    fn only_the_storage_daemon_may_be_another_users() {
        use std::os::unix::fs::PermissionsExt;
        const NOBODY: u32 = 65534;
        let dir = tempfile::tempdir().expect("temp dir");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let id = format!("{:032x}", std::process::id());
        let server = ["cairn", SERVE, "--id", &id, ROLE_SERVER];
        let daemon = ["qemu-storage-daemon", "script", &format!("/run/cairn/run/{id}/daemon/nbd.sock")];
        let is_root = nix::unistd::geteuid().is_root();
        let users: &[(Option<u32>, &[Role])] = &[(None, &[Role::Server, Role::Daemon]), (Some(NOBODY), &[Role::Daemon])];
        // Who is not root cannot be anybody else.
        for (uid, expected) in users.iter().take(if is_root { 2 } else { 1 }) {
            let mut children = [pretender(dir.path(), &server, *uid), pretender(dir.path(), &daemon, *uid)];
            let seen = || {
                let mut roles: Vec<Role> = find(&id, Some((NOBODY, NOBODY))).iter().map(|p| p.role).collect();
                roles.sort_by_key(|role| *role as u8);
                roles
            };
            let until = Instant::now() + Duration::from_secs(10);
            // The arguments are there once the program is.
            while seen() != *expected && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(10));
            }
            let found = seen();
            children.iter_mut().for_each(|child| drop(child.kill().and_then(|()| child.wait())));
            assert_eq!(found, *expected, "of user {uid:?}");
        }
    }

    #[test]
    fn an_end_is_seen_and_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let pid = i32::try_from(child.id()).expect("small");
        let fd = pidfd_open(Pid::from_raw(pid).expect("not 0"), PidfdFlags::empty()).expect("a child");
        let process = Process { pid, role: Role::Daemon, fd };
        assert!(!process.has_ended());
        assert!(process.kill() && process.has_ended() && process.kill(), "twice is as good");
        child.wait().expect("reaped");
    }
}
