//! Runs the program as libvirt does: arguments, an XML on standard input, pipes for what it may say, and a clock.
//!
//! The clock leaves out what is the machine's and not the hook's: the time for which the kernel had no processor for it (`/proc/PID/schedstat`), or for us once
//! it had ended. What is left is judged over several runs: a hook that hangs now and then is no more harmless than one that always does.

use cairn_hook::{Event, place, spool::Spool};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What the hook is to be done in, from the start of the process to its end and that of its output.
pub const LIMIT: Duration = Duration::from_millis(100);
/// Runs that are judged together; as many again where too many of them were slow.
const RUNS: usize = 5;
/// Of so many runs one may be slow all the same: a host may take the processor away from this whole machine, which no clock here shows.
const RUNS_FOR_A_SLOW_ONE: usize = 5;
/// No machine is away for that long: one run is enough.
const HUNG: Duration = Duration::from_secs(1);
/// An output that ends so long after the process was held open by something of its own.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);
/// No try takes longer on any machine, unless something hangs.
const HANGS: Duration = Duration::from_secs(5);
pub const UUID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

/// The program as it is shipped where `CAIRN_HOOK` names it, else as cargo built it for this test.
pub fn program() -> PathBuf {
    std::env::var_os("CAIRN_HOOK").map_or_else(|| env!("CARGO_BIN_EXE_cairn-hook").into(), PathBuf::from)
}

/// Whether the program needs no loader and no libraries, which a process without descriptors could not open.
pub fn is_static() -> bool {
    let bytes = std::fs::read(program()).expect("the program");
    !bytes.windows(8).any(|w| w == b"ld-linux")
}

pub fn xml() -> Vec<u8> {
    format!("<domain type='kvm'>\n  <name>web1</name>\n  <uuid>{UUID}</uuid>\n  <title>&lt;uuid&gt;</title>\n</domain>\n").into_bytes()
}

/// The program with libvirt's arguments and its folder in `base`.
pub fn hook(base: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(["web1", "started", "begin", "-"]).env_clear().env(place::DIR_VARIABLE, base);
    command
}

/// What stands at the other end of standard input.
#[derive(Clone, Debug)]
pub enum Feed {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// Nothing, and no end.
    Silence,
    /// A byte every millisecond.
    Drip,
    /// Zeros for ever, as fast as they are taken.
    Flood,
    /// As the command has it.
    Own,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub said: Vec<u8>,
    pub took: Took,
}

/// How long a run took.
#[derive(Clone, Copy, Debug)]
pub struct Took {
    /// By the clock on the wall.
    pub wall: Duration,
    /// Without what the machine took of it.
    pub net: Duration,
}

/// How long a process or thread could have run and had no processor: the second number of schedstat, nanoseconds. Nothing where the kernel does not count it.
fn delayed(task: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{task}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// One run to the end of the process and of its output.
pub fn run(mut command: Command, feed: Feed) -> Ended {
    let (reader, writer) = std::io::pipe().expect("pipe");
    command.stdout(writer.try_clone().expect("pipe")).stderr(writer);
    if !matches!(feed, Feed::Own) {
        command.stdin(Stdio::piped());
    }
    let begin = Instant::now();
    let mut child = command.spawn().expect("the hook starts");
    // Only the hook holds the other end from here on.
    drop(command);
    let said = output(reader);
    let stdin = child.stdin.take();
    std::thread::spawn(move || {
        let Some(mut stdin) = stdin else { return };
        let end = Instant::now() + HANGS;
        // A hook that has read enough is gone, and these fail.
        let _ = match feed {
            Feed::Bytes(bytes) => stdin.write_all(&bytes),
            Feed::Own => Ok(()),
            Feed::Silence => {
                std::thread::sleep(HANGS);
                Ok(())
            }
            Feed::Drip => std::iter::repeat_with(|| stdin.write_all(b"<").map(|()| std::thread::sleep(Duration::from_millis(1))))
                .take_while(|_| Instant::now() < end)
                .collect(),
            Feed::Flood => std::iter::repeat_with(|| stdin.write_all(&[0; 4096])).take_while(|_| Instant::now() < end).collect(),
        };
    });
    let ours = delayed("thread-self");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    // Its number and its figures stay until it is waited for below.
    while let Err(e) = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
        assert_eq!(e, nix::Error::EINTR, "waited for");
    }
    let ended = begin.elapsed();
    let machines = delayed(&pid.to_string()) + (delayed("thread-self") - ours);
    let late = Instant::now();
    let said = said.recv_timeout(HANGS).expect("the output ends");
    let held = Some(late.elapsed()).filter(|late| *late > OUTPUT_GRACE).unwrap_or_default();
    let status = child.wait().expect("waited for");
    Ended { status, said, took: Took { wall: ended + held, net: ended.saturating_sub(machines) + held } }
}

fn output(mut reader: PipeReader) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        // What it said up to an error still counts.
        let _ = reader.read_to_end(&mut said);
        // The test has given up.
        let _ = sender.send(said);
    });
    receiver
}

/// Exit code 0, no output, within the limit. Gives the time of the first run that was.
pub fn assert_harmless(what: &str, make: impl FnMut() -> (Command, Feed)) -> Took {
    judged(make).unwrap_or_else(|why| panic!("{what}: {why}"))
}

/// The same as an answer.
fn judged(mut make: impl FnMut() -> (Command, Feed)) -> Result<Took, String> {
    let (mut good, mut slow) = (Vec::new(), Vec::new());
    for run_count in 1..=2 * RUNS {
        let (command, feed) = make();
        let ended = run(command, feed);
        if ended.status.code() != Some(0) || !ended.said.is_empty() {
            return Err(format!("{ended:?}"));
        }
        match ended.took {
            took if took.net < LIMIT => good.push(took),
            took if took.net < HUNG => slow.push(took),
            took => return Err(format!("it hung: {took:?}")),
        }
        if run_count >= RUNS && slow.len() <= run_count / RUNS_FOR_A_SLOW_ONE {
            return good.first().copied().ok_or_else(|| format!("{slow:?}"));
        }
    }
    Err(format!("{slow:?} are over {LIMIT:?}, beside {good:?}"))
}

fn shell(script: &str) -> (Command, Feed) {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    (command, Feed::Bytes(xml()))
}

#[test]
fn a_hook_that_hangs_is_seen_also_if_it_does_so_now_and_then() {
    assert!(judged(|| shell("exec sleep 0.15")).is_err(), "each time");
    for (every, script) in [(5, "exec sleep 2"), (2, "exec sleep 0.15")] {
        let mut count = 0;
        let now_and_then = judged(|| {
            count += 1;
            shell(if count % every == 0 { script } else { ":" })
        });
        assert!(now_and_then.is_err(), "{script} in each {every}th run: {now_and_then:?}");
    }
    assert!(judged(|| shell("sleep 1 &")).is_err(), "its output is held open");
    assert!(judged(|| shell("exit 1")).is_err() && judged(|| shell("echo x")).is_err());
    // A machine without a processor to spare is nothing of the hook's.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let busy = judged(|| shell(":"));
        over.store(true, Ordering::Relaxed);
        busy.expect("a shell that does nothing is quick");
    });
}

/// What is in the spool, and is taken out of it.
pub fn spooled(base: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let drained = Spool::at(base).drain(|event| {
        events.push(event);
        Ok(())
    });
    let drained = drained.expect("drained");
    assert!(drained.rejected.is_empty(), "{drained:?}");
    events
}

/// The same, as soon as there are so many: a child that had no processor comes later than its parent ends.
pub fn at_least(base: &Path, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let end = Instant::now() + Duration::from_secs(3);
    while events.len() < count && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
        events.extend(spooled(base));
    }
    events
}
