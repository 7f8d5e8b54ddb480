//! Exit code 0, no output, under 100 ms: whatever is wrong with the host, the arguments or standard input.
//!
//! As root: file systems are mounted and limits set, in a mount namespace of the hook's own.

use crate::runner::{Feed, UUID, assert_harmless, at_least, hook, is_static, program, spooled, xml};
use cairn_hook::{channel::Inbox, place};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use proptest::prelude::*;
use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("folder")
}

/// Does `before` in the child, ahead of the hook: system calls only.
fn with(mut command: Command, before: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Command {
    // SAFETY: the callers' closures make system calls and allocate nothing.
    unsafe { command.pre_exec(before) };
    command
}

fn root() {
    assert!(nix::unistd::geteuid().is_root(), "these tests mount file systems and set limits; run them as root");
}

/// A file system over `dir`, for the hook alone.
fn mounted(command: Command, dir: &Path, kind: &str, flags: MsFlags, data: &str) -> Command {
    let c = |text: &[u8]| CString::new(text).expect("no zero");
    let (dir, kind, data) = (c(dir.as_os_str().as_bytes()), c(kind.as_bytes()), c(data.as_bytes()));
    with(command, move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, c"/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        Ok(mount(Some(kind.as_c_str()), dir.as_c_str(), Some(kind.as_c_str()), flags, Some(data.as_c_str()))?)
    })
}

#[test]
fn places_that_cannot_be_used() {
    root();
    let dir = folder();
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("written");
    let open = dir.path().join("open");
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).expect("changed");
    let outside = folder();
    let link = dir.path().join("link");
    symlink(outside.path(), &link).expect("link");
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("made");
    symlink(outside.path(), inner.join(place::SPOOL)).expect("link");
    let round = dir.path().join("round");
    symlink(&round, &round).expect("link");
    let cases: [(&str, PathBuf); 8] = [
        ("no such folder above", dir.path().join("a/b/c")),
        ("a file in its place", file),
        ("everybody may write", open),
        ("a link in its place", link),
        ("a link in the spool's place", inner),
        ("a link to itself", round),
        ("no place", PathBuf::new()),
        ("a name that is too long", PathBuf::from(format!("/{}", "x/".repeat(4000)))),
    ];
    for (what, base) in cases {
        assert_harmless(what, || (hook(&base), Feed::Bytes(xml())));
    }
    assert_eq!(fs::read_dir(outside.path()).expect("there").count(), 0, "nothing was written through a link");
}

#[test]
fn a_socket_that_is_none() {
    let dir = folder();
    let socket = dir.path().join(place::SOCKET);
    fs::write(&socket, b"").expect("written");
    assert_harmless("a file in the socket's place", || (hook(dir.path()), Feed::Bytes(xml())));
    fs::remove_file(&socket).expect("removed");
    nix::unistd::mkfifo(&socket, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    assert_harmless("a FIFO in the socket's place", || (hook(dir.path()), Feed::Bytes(xml())));
    fs::remove_file(&socket).expect("removed");
    let _stream = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
    assert_harmless("a stream socket in its place", || (hook(dir.path()), Feed::Bytes(xml())));
    assert!(at_least(dir.path(), 3).len() >= 3);
}

#[test]
fn read_only_and_full_file_systems() {
    root();
    let dir = folder();
    let base = dir.path().join("cairn");
    assert_harmless("read-only", || (mounted(hook(&base), dir.path(), "tmpfs", MsFlags::MS_RDONLY, ""), Feed::Bytes(xml())));
    assert_harmless("no inodes left", || (mounted(hook(&base), dir.path(), "tmpfs", MsFlags::empty(), "nr_inodes=2"), Feed::Bytes(xml())));
    assert!(!base.exists(), "all of it was in the hook's own view");
}

#[test]
fn a_full_file_system_keeps_nothing_of_a_record_and_says_so() {
    root();
    let dir = folder();
    unshare_this_thread();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")).expect("mounted");
    let base = dir.path().join("cairn");
    assert_harmless("room is left", || (hook(&base), Feed::Bytes(xml())));
    assert!(!at_least(&base, 1).is_empty());
    let filler = dir.path().join("filler");
    assert!(fs::write(&filler, vec![b'x'; 1 << 20]).is_err(), "it is full now");
    assert_harmless("no space left", || (hook(&base), Feed::Bytes(xml())));
    let said_so = |_| {
        std::thread::sleep(Duration::from_millis(20));
        spooled_by_anybody(&base) == ["overflow"]
    };
    assert!((0..100).any(said_so));
    fs::remove_file(&filler).expect("removed");
    let drained = cairn_hook::spool::Spool::at(&base).drain(|_| Ok(())).expect("drained");
    assert!(drained.is_incomplete() && drained.taken == 0);
    nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
}

#[test]
fn a_file_system_that_never_answers() {
    root();
    let dir = folder();
    let base = dir.path().join("cairn");
    // A connection serves one mount, and ends with its last descriptor.
    let mut servers = Vec::new();
    // A fifth argument, which the hook passes over: by it the processes are found.
    let name = format!("hung-{}", std::process::id());
    let took = assert_harmless("a hung file system", || {
        let (server, data) = silent_server();
        servers.push(server);
        let mut command = hook(&base);
        command.arg(&name);
        (mounted(command, dir.path(), "fuse", MsFlags::empty(), &data), Feed::Bytes(xml()))
    });
    assert!(took.wall >= Duration::from_millis(70), "{took:?}: it did not wait for the file system at all, so this showed nothing");
    assert!(running(&name) > 0, "the child still waits");
    let gone = |_| {
        std::thread::sleep(Duration::from_millis(100));
        running(&name) == 0
    };
    assert!((0..100).any(gone), "the kernel ends what waits for more than two seconds");
}

/// Processes with this argument.
fn running(name: &str) -> usize {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = all.filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|c| *c == 0).any(|word| word == name.as_bytes())).count()
}

/// A FUSE connection that nobody reads from, and the mount data for it: as a server that is gone behind a hard mount.
fn silent_server() -> (File, String) {
    let file = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("inherited");
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", file.as_raw_fd());
    (file, data)
}

#[test]
fn a_system_call_that_cannot_be_killed() {
    root();
    let dir = folder();
    let (mut server, data) = silent_server();
    // Nothing but this process may keep the connection: with its end, however it comes, all ends that waits for an answer.
    nix::fcntl::fcntl(&server, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).expect("not inherited");
    // Mounted for all here, since the server must answer the first request before the hook's is one that waits for good.
    unshare_this_thread();
    mount(Some("fuse"), dir.path(), Some("fuse"), MsFlags::empty(), Some(data.as_str())).expect("mounted");
    let _mounted = Mounted(dir.path());
    answer_init(&mut server);
    let reader = server.try_clone().expect("descriptor");
    // Takes each request, which makes the wait for its answer one that no signal ends, and answers none.
    std::thread::spawn(move || {
        let mut reader = reader;
        while reader.read(&mut [0; 65536 * 4]).is_ok() {}
    });
    let base = dir.path().join("cairn");
    let took = assert_harmless("a wait that no signal ends", || (hook(&base), Feed::Bytes(xml())));
    assert!(took.wall >= Duration::from_millis(70), "{took:?}: it did not wait for the file system at all, so this showed nothing");
}

/// Ends the connection of a file system with its mount, and with it what still waits there.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A test that fails has more to say than that this fails.
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_FORCE | nix::mount::MntFlags::MNT_DETACH);
    }
}

fn unshare_this_thread() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("a namespace of its own");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).expect("private");
}

/// The first exchange of a FUSE connection (linux/fuse.h): version 7.31, no features, nothing written.
fn answer_init(server: &mut File) {
    let mut request = [0_u8; 65536 * 4];
    let length = server.read(&mut request).expect("a request");
    assert!(length >= 56, "header and init");
    let unique = &request[8..16];
    let mut answer = Vec::new();
    // struct fuse_out_header, then struct fuse_init_out.
    answer.extend_from_slice(&80_u32.to_ne_bytes());
    answer.extend_from_slice(&0_i32.to_ne_bytes());
    answer.extend_from_slice(unique);
    for word in [7_u32, 31, 4096, 0] {
        answer.extend_from_slice(&word.to_ne_bytes());
    }
    answer.extend_from_slice(&12_u16.to_ne_bytes());
    answer.extend_from_slice(&8_u16.to_ne_bytes());
    answer.extend_from_slice(&4096_u32.to_ne_bytes());
    answer.resize(80, 0);
    server.write_all(&answer).expect("answered");
}

#[test]
fn standard_input_of_all_kinds() {
    let dir = folder();
    let base = dir.path();
    let long = [b"<domain><name>x</name><uuid>".as_slice(), UUID.as_bytes(), b"</uuid>", &vec![b' '; 32 << 20]].concat();
    assert_harmless("32 MiB behind the UUID", || (hook(base), Feed::Bytes(long.clone())));
    assert_eq!(at_least(base, 1).last().and_then(|e| e.uuid).map(|u| u.to_string()).as_deref(), Some(UUID));
    for (what, feed) in [
        ("no input", Feed::Bytes(Vec::new())),
        ("zeros", Feed::Bytes(vec![0; 1 << 20])),
        ("no XML", Feed::Bytes(b"\xff\xfe<<<<>>>&&&".repeat(1000))),
        ("deep", Feed::Bytes(b"<domain>".repeat(100_000))),
        ("silence", Feed::Silence),
        ("drops", Feed::Drip),
        ("a flood", Feed::Flood),
    ] {
        assert_harmless(what, || (hook(base), feed.clone()));
        assert!(at_least(base, 1).iter().all(|e| e.uuid.is_none() && e.domain == "web1"), "{what}");
    }
    for path in ["/dev/zero", "/dev/null", "/", "/proc/self/mem"] {
        assert_harmless(path, || {
            let mut command = hook(base);
            command.stdin(File::open(path).expect("there"));
            (command, Feed::Own)
        });
        assert!(!at_least(base, 1).is_empty(), "{path}");
    }
}

#[test]
fn closed_descriptors_in_every_combination() {
    for closed in 0..8_i32 {
        let dir = folder();
        let what = format!("closed {closed:03b}");
        assert_harmless(&what, || {
            let mut command = hook(dir.path());
            command.stdin(Stdio::null());
            let command = with(command, move || {
                for fd in (0..3).filter(|fd| closed & 1 << fd != 0) {
                    nix::unistd::close(fd)?;
                }
                Ok(())
            });
            (command, Feed::Own)
        });
        assert!(!at_least(dir.path(), 1).is_empty(), "{what}");
    }
}

#[test]
fn closed_descriptors_and_no_dev_null() {
    root();
    // Where Rust's own runtime gives up.
    let dir = folder();
    assert_harmless("an empty /dev", || {
        let mut command = hook(dir.path());
        command.stdin(Stdio::null());
        let command = mounted(command, Path::new("/dev"), "tmpfs", MsFlags::empty(), "");
        (with(command, || (0..3).try_for_each(|fd| Ok(nix::unistd::close(fd)?))), Feed::Own)
    });
    assert!(!at_least(dir.path(), 1).is_empty());
}

#[test]
fn limits_of_the_process() {
    root();
    let dir = folder();
    for (what, resource, most) in [
        ("no file may grow", Resource::RLIMIT_FSIZE, 0),
        ("a file of ten bytes", Resource::RLIMIT_FSIZE, 10),
        ("no descriptor", Resource::RLIMIT_NOFILE, 0),
        ("three descriptors", Resource::RLIMIT_NOFILE, 3),
        ("no core", Resource::RLIMIT_CORE, 0),
        ("no locked memory", Resource::RLIMIT_MEMLOCK, 0),
        ("little data", Resource::RLIMIT_DATA, 1 << 20),
        ("a small stack", Resource::RLIMIT_STACK, 64 << 10),
    ] {
        if resource == Resource::RLIMIT_NOFILE && !is_static() {
            // The loader of a program that is not static ends it before it begins; `cargo xtask test` runs this with the one that is.
            continue;
        }
        assert_harmless(what, || (with(hook(dir.path()), move || Ok(setrlimit(resource, most, most)?)), Feed::Bytes(xml())));
    }
    assert!(spooled(dir.path()).iter().all(|e| e.domain == "web1"), "whole or not there");
}

#[test]
fn no_process_and_no_memory_to_be_had() {
    root();
    let dir = folder();
    // As another user, whom limits hold, with a copy of the program that it may read.
    let copy = dir.path().join("hook");
    fs::copy(program(), &copy).expect("copied");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("changed");
    let own = dir.path().join("own");
    fs::create_dir(&own).expect("made");
    nix::unistd::chown(&own, Some(65534.into()), Some(65534.into())).expect("changed");
    let command = |most: u64, resource| {
        let mut command = Command::new(&copy);
        command.args(["web1", "started", "begin", "-"]).env_clear().env(place::DIR_VARIABLE, &own).uid(65534).gid(65534);
        with(command, move || Ok(setrlimit(resource, most, most)?))
    };
    assert_harmless("no more processes", || (command(0, Resource::RLIMIT_NPROC), Feed::Bytes(xml())));
    assert!(spooled_by_anybody(&own).is_empty(), "without a child nothing is told");
    assert_harmless("another user", || (command(1000, Resource::RLIMIT_NPROC), Feed::Bytes(xml())));
    let appeared = |_| {
        std::thread::sleep(Duration::from_millis(20));
        !spooled_by_anybody(&own).is_empty()
    };
    assert!((0..100).any(appeared));
}

fn spooled_by_anybody(base: &Path) -> Vec<OsString> {
    let all = fs::read_dir(base.join(place::SPOOL)).into_iter().flatten();
    all.map(|e| e.expect("entry").file_name()).collect()
}

#[test]
fn signals_as_a_parent_may_leave_them() {
    let dir = folder();
    let signals = [Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGALRM, Signal::SIGTERM];
    for action in [SigHandler::SigIgn, SigHandler::SigDfl] {
        assert_harmless("signals", || {
            let command = with(hook(dir.path()), move || {
                for s in signals {
                    // SAFETY: no handler.
                    unsafe { signal(s, action) }?;
                }
                Ok(SigSet::all().thread_set_mask()?)
            });
            (command, Feed::Bytes(xml()))
        });
        assert!(!at_least(dir.path(), 1).is_empty());
    }
}

#[test]
fn a_parent_that_ignores_its_children_is_not_waited_for() {
    let dir = folder();
    let once = |_| {
        assert_harmless("SIGCHLD ignored", || {
            // SAFETY: no handler.
            let command = with(hook(dir.path()), || unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map(drop).map_err(io::Error::from));
            (command, Feed::Bytes(xml()))
        })
        .net
    };
    let mut times: Vec<Duration> = (0..15).map(once).collect();
    times.sort();
    assert!(times[7] < Duration::from_millis(60), "it waits for its limit, not for its child: {times:?}");
}

#[test]
fn a_signal_does_not_become_an_exit_code() {
    let dir = folder();
    for name in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGXCPU, Signal::SIGPIPE] {
        // A hook that ended before it could be sent one shows nothing.
        let shown = |_| {
            let mut child = hook(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the hook starts");
            let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            let sent = (0..1000).any(|_| blocks_signals(pid) && nix::sys::signal::kill(pid, name).is_ok());
            let waited = sent && child.try_wait().expect("asked").is_none();
            assert_eq!(child.wait().expect("waited for").code(), Some(0), "{name}");
            waited
        };
        assert!((0..20).any(shown), "{name}");
    }
}

/// Whether the process has come as far as to block signals.
fn blocks_signals(pid: nix::unistd::Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().filter_map(|line| line.strip_prefix("SigBlk:")).any(|mask| mask.trim().starts_with("ffff"))
}

#[test]
fn a_listener_that_is_stopped_is_not_waited_for() {
    let dir = folder();
    // Bound and never read, as one that was stopped by a signal.
    let _inbox = Inbox::bind(dir.path()).expect("bound");
    for _ in 0..30 {
        assert_harmless("a stopped listener", || (hook(dir.path()), Feed::Bytes(xml())));
    }
}

/// One of the situations above, by number.
fn situation(number: usize, base: &Path) -> (Command, PathBuf) {
    let place = match number {
        0 => base.to_owned(),
        1 => base.join("a/b"),
        2 => PathBuf::from("/dev/null"),
        3 => PathBuf::from("/proc"),
        _ => base.join("new"),
    };
    (hook(&place), place)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_arguments_and_any_input(
        arguments in proptest::collection::vec(proptest::collection::vec(1_u8.., 0..200), 0..8),
        input in proptest::collection::vec(any::<u8>(), 0..5000),
        number in 0_usize..5,
    ) {
        let dir = folder();
        assert_harmless("anything", || {
            let (_, place) = situation(number, dir.path());
            let mut command = Command::new(program());
            command.args(arguments.iter().map(|a| OsString::from_vec(a.clone()))).env_clear().env(place::DIR_VARIABLE, place);
            (command, Feed::Bytes(input.clone()))
        });
    }
}
