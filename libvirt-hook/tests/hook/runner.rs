//! Runs the program as libvirt does: arguments, an XML on standard input, pipes for what it may say, and a clock.

use cairn_hook::{Event, place, spool::Spool};
use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What the hook is to be done in, from the start of the process to its end and that of its output.
pub const LIMIT: Duration = Duration::from_millis(100);
/// A machine that does other work may take the processor away for that long; a hook that hangs is over every one of these tries.
pub const TRIES: usize = 5;
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
    pub took: Duration,
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
    let said = said.recv_timeout(HANGS).expect("the output ends");
    let status = child.wait().expect("waited for");
    Ended { status, said, took: begin.elapsed() }
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
pub fn assert_harmless(what: &str, mut make: impl FnMut() -> (Command, Feed)) -> Duration {
    let mut slow = Vec::new();
    for _ in 0..TRIES {
        let (command, feed) = make();
        let ended = run(command, feed);
        assert_eq!(ended.status.code(), Some(0), "{what}: {ended:?}");
        assert!(ended.said.is_empty(), "{what}: {ended:?}");
        if ended.took < LIMIT {
            return ended.took;
        }
        slow.push(ended.took);
    }
    panic!("{what}: {slow:?}, all over {LIMIT:?}");
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
