//! A look as a process of its own (`cairn reconcile`): whatever hangs in it, libvirt or a store, it is ended in time (docs/adr/0019).
//!
//! Invariants
//! - One at a time; the watch goes on meanwhile, and is told the end of it by a message.
//! - Over its limit, or when it is of no use any more, it is killed. All it does may be broken off: the domain's lock goes with it, the next look goes on.
//! - It does not outlive the daemon, however that ends: the kernel kills it with the thread that started it, and that thread waits for it.
//! - What it says is bounded. Its words for people go to the daemon's log, and the last of them into why it failed.

use super::{
    Settings,
    due::Look,
    post::{Message, Post},
    stores,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

/// A look at some domains: stores take half a minute at most, a job of a dead backup somewhat more than one to end.
const SOME_LIMIT: Duration = Duration::from_secs(300);
/// A look at all.
const ALL_LIMIT: Duration = Duration::from_secs(1800);
/// From SIGKILL to the end; a process that waits for a server in the kernel takes longer, and is left to end by itself.
const KILL_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// From its end to the end of what it says.
const SAID_LIMIT: Duration = Duration::from_secs(1);
/// Most of it that is kept.
const SAID_BYTES_MAX: usize = 16 << 10;
/// Ten thousand domains.
const OUTPUT_BYTES_MAX: u64 = 64 << 20;

/// A look that is under way.
#[derive(Debug)]
pub struct Looking {
    useless: Arc<AtomicBool>,
}

impl Looking {
    /// It is to end at once.
    pub fn end(&self) {
        self.useless.store(true, Ordering::SeqCst);
    }
}

/// Begins one.
pub fn start(settings: &Settings, look: Look, post: Post) -> io::Result<Looking> {
    let useless = Arc::new(AtomicBool::new(false));
    let mut command = command(settings, &look);
    let input = serde_json::to_vec(&stores::handed(&settings.stores))?;
    let end = Arc::clone(&useless);
    std::thread::Builder::new().name("look".into()).spawn(move || {
        let limit = if look == Look::All { ALL_LIMIT } else { SOME_LIMIT };
        let result = run(&mut command, &input, limit, &end);
        let mut message = Message::Looked(look, result);
        // This one must arrive, or there would be no look ever again: room is made by the watch, which takes messages all the time.
        while !post.has_ended() {
            match post.give(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
            std::thread::sleep(POLL);
        }
    })?;
    Ok(Looking { useless })
}

fn command(settings: &Settings, look: &Look) -> Command {
    // The program that runs, also where its file was replaced by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.args(["reconcile", "--json", "--from-daemon", "--state-dir"]).arg(&settings.state_dir);
    if let Some(uri) = &settings.connect {
        command.args(["--connect", uri]);
    }
    if let Look::Domains(uuids) = look {
        command.arg("--").args(uuids);
    }
    // What opens which store comes on standard input, and nothing else does.
    for name in ["CAIRN_STORE", "CAIRN_KEY_FILE", "CAIRN_PASSPHRASE_FILE"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let daemon = nix::unistd::getpid();
    let follow = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // It may have died before that.
        if nix::unistd::getppid() == daemon { Ok(()) } else { Err(nix::errno::Errno::ESRCH.into()) }
    };
    // SAFETY: between fork and exec only prctl and getppid are called: plain system calls without locks or memory.
    unsafe { command.pre_exec(follow) };
    command
}

fn run(command: &mut Command, input: &[u8], limit: Duration, useless: &AtomicBool) -> Result<Vec<Value>, String> {
    let mut child = command.spawn().map_err(|e| format!("cannot start a look: {e}"))?;
    let output = child.stdout.take().map(read);
    let said = child.stderr.take().map(Said::hear);
    if let Some(mut stdin) = child.stdin.take() {
        // One that ended already says why by its code.
        let _ = stdin.write_all(input);
    }
    let code = wait(child, limit, useless)?;
    let bytes = output.and_then(|o| o.recv_timeout(KILL_LIMIT).ok()).unwrap_or_default();
    match code {
        Some(0 | 3) => serde_json::from_slice(&bytes).map_err(|e| format!("a look said what cannot be read: {e}")),
        Some(code) => Err(format!("a look ended with code {code}{}", said.map_or(String::new(), |s| s.last()))),
        None => Err(format!("a look was killed{}", said.map_or(String::new(), |s| s.last()))),
    }
}

/// What a look says on its standard error.
struct Said {
    tail: Arc<Mutex<Vec<u8>>>,
    /// Closed when all was heard.
    over: Receiver<()>,
}

impl Said {
    fn hear(mut from: ChildStderr) -> Self {
        let (tail, (open, over)) = (Arc::new(Mutex::new(Vec::new())), channel::<()>());
        let kept = Arc::clone(&tail);
        std::thread::spawn(move || {
            let _open = open;
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                // A log that cannot be written to has nobody to tell.
                let _ = io::stderr().write_all(&bytes[..n]);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&bytes[..n]);
                let over = kept.len().saturating_sub(SAID_BYTES_MAX);
                kept.drain(..over);
            }
        });
        Self { tail, over }
    }

    /// `: WHY` of its error object, or its last line; nothing if it said nothing.
    fn last(&self) -> String {
        // It has ended; something that it started may have the pipe.
        let _ = self.over.recv_timeout(SAID_LIMIT);
        let bytes = self.tail.lock().unwrap_or_else(PoisonError::into_inner).clone();
        crate::jobs::last_words(&bytes).map_or(String::new(), |words| format!(": {words}"))
    }
}

fn read(stdout: ChildStdout) -> Receiver<Vec<u8>> {
    let (to, from) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is no JSON, which shows.
        let _ = stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        let _ = to.send(bytes);
    });
    from
}

/// The exit code; none of one that was killed by somebody else.
fn wait(mut child: Child, limit: Duration, useless: &AtomicBool) -> Result<Option<i32>, String> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.code()),
            Ok(None) => {}
            Err(e) => return Err(format!("a look cannot be waited for: {e}")),
        }
        let over = start.elapsed() > limit;
        if over || useless.load(Ordering::SeqCst) {
            let why = if over { format!("a look took longer than {} s and was ended", limit.as_secs()) } else { "a look was broken off".to_owned() };
            return Err(kill(child, why));
        }
        std::thread::sleep(POLL);
    }
}

fn kill(mut child: Child, why: String) -> String {
    // A kill that fails means that it ended just now.
    let _ = child.kill();
    let start = Instant::now();
    while start.elapsed() < KILL_LIMIT {
        if !matches!(child.try_wait(), Ok(None)) {
            return why;
        }
        std::thread::sleep(POLL);
    }
    let pid = child.id();
    // Somebody has to wait for it, or it stays as a zombie.
    std::thread::spawn(move || drop(child.wait()));
    format!("{why}; process {pid} waits for a server in the kernel and ends after that")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration, useless: &AtomicBool) -> Result<Vec<Value>, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        run(&mut command, b"{}", limit, useless)
    }

    #[test]
    fn whatever_a_look_does_it_ends_in_time() {
        let (no, limit) = (AtomicBool::new(false), Duration::from_secs(20));
        assert_eq!(shell("cat >/dev/null; echo '[{\"uuid\": \"u\"}]'; exit 3", limit, &no).expect("warnings are no failure")[0]["uuid"], "u");
        assert!(shell("echo nonsense", limit, &no).expect_err("no JSON").contains("cannot be read"));
        assert_eq!(shell("exit 13", limit, &no).expect_err("refused"), "a look ended with code 13");
        let words = "echo first >&2; echo '{\"error\": {\"message\": \"no such\"}}' >&2; exit 13";
        assert_eq!(shell(words, limit, &no).expect_err("refused"), "a look ended with code 13: no such");
        // One that talks without end is heard to its end, and somebody else's hold on its words is no reason to wait.
        let long = "i=0; while [ $i -lt 3000 ]; do echo 'word after word after word' >&2; i=$((i+1)); done; sleep 3 >/dev/null & echo last >&2; exit 1";
        assert_eq!(shell(long, limit, &no).expect_err("failed"), "a look ended with code 1: last");
        let start = Instant::now();
        assert!(shell("exec sleep 60", Duration::from_millis(200), &no).expect_err("too long").contains("longer"));
        assert!(shell("exec sleep 60", limit, &AtomicBool::new(true)).expect_err("of no use").contains("broken off"));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
