//! A guest agent that a hostile guest might run: it answers enough for libvirt to talk to it, then misbehaves.
//!
//! The real agent comes back when the imposter's time is over or it is told to leave, so that a suite can look
//! at the guest again.

use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::process::wait_for;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PORT: &str = "/dev/virtio-ports/org.qemu.guest_agent.0";
/// The guest looks every third of a second, but may be slow.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);
/// Until an agent that was ended is replaced, and libvirt knows.
const HOOKED_LIMIT: Duration = Duration::from_secs(120);
const WORD_PORT: &str = "org.cairn.lab.0";
const BUFFER_BYTES: usize = 4096;
/// Far more than libvirt takes for one reply (10 MiB).
const FLOOD_BYTES: usize = 1 << 30;
/// What hooks of a guest may take after its thaw, each time.
const SLOW: Duration = Duration::from_secs(4);
const NESTING: usize = 20_000;
/// A command that does not end is no command.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// All ways to misbehave.
pub const MODES: [&str; 16] = [
    "mute",
    "mute-at-freeze",
    "mute-at-thaw",
    "slow-at-thaw",
    "liar",
    "garbage",
    "flood",
    "types",
    "freezes-nothing",
    "freezes-less-than-nothing",
    "thaw-fails",
    "wrong-ids",
    "says-all-twice",
    "leaves-at-freeze",
    "leaves-after-freeze",
    "leaves-at-thaw",
];
/// So long one that leaves is away: longer than any one question to it may take, its freeze excepted.
pub const GONE: Duration = Duration::from_secs(6);

/// Puts an imposter in the agent's place for `time`; the real one is back afterwards.
///
/// # Errors
/// The real agent does not answer.
pub fn install(domain: &Domain, mode: &str, time: Duration) -> Result<()> {
    let command = format!("exec timeout {} /bin/lab-guest __lab-guest imposter {PORT} {mode}", time.as_secs());
    place(domain, &command)
}

/// No agent at all for `time`: nobody has the port open.
///
/// # Errors
/// The real agent does not answer.
pub fn remove(domain: &Domain, time: Duration) -> Result<()> {
    place(domain, &format!("exec sleep {}", time.as_secs()))
}

/// The real agent for `time`, without a command: one that is older, or that an admin has restricted.
///
/// # Errors
/// The real agent does not answer.
pub fn without(domain: &Domain, command: &str, time: Duration) -> Result<()> {
    place(domain, &format!("exec timeout {} qemu-ga -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run -b {command}", time.as_secs()))
}

/// What becomes of the real agent once it ends: this command in its place, then it is started again.
///
/// # Errors
/// The real agent does not answer.
pub fn prepare(domain: &Domain, command: &str) -> Result<()> {
    domain.sh(&format!("echo '{command}' > /run/agent.instead")).map(drop)
}

/// Kills the real agent (SIGKILL), frozen or not. The guest's root file system is in memory, so whoever does that needs no disk.
///
/// # Errors
/// As [`leave`].
pub fn kill_agent(domain: &Domain) -> Result<()> {
    say(domain, "kill-agent")
}

/// Where [`hooked`]'s hook notes when it was called, and the guest when it was frozen: a word and the guest's uptime, a line each.
pub const HOOK_LOG: &str = "/run/slow-hook.log";

/// The real agent for `time`, with a hook (`qemu-ga --fsfreeze-hook`) that takes `delay` before each freeze.
///
/// # Errors
/// The real agent does not answer.
pub fn hooked(domain: &Domain, delay: Duration, time: Duration) -> Result<()> {
    let hook = format!(
        "note() {{ echo \"$1 $(cut -d\\  -f1 /proc/uptime)\" >> {HOOK_LOG}; }}\nnote \"$1\"\n[ \"$1\" = freeze ] || exit 0\n\
         (while [ ! -e /run/qga.state.isfrozen ]; do sleep 0.02; done; note frozen) >/dev/null 2>&1 &\nsleep {}\nnote done\n",
        delay.as_secs()
    );
    domain.sh(&format!("cat > /run/slow-hook <<'EOF'\n#!/bin/sh\n{hook}EOF\nchmod +x /run/slow-hook; rm -f {HOOK_LOG}"))?;
    place(domain, &format!("exec timeout {} qemu-ga -m virtio-serial -p {PORT} -t /run -F/run/slow-hook", time.as_secs()))?;
    // On a busy host the one before may answer for a while.
    let is_it = || Ok(domain.sh("grep -q slow-hook /proc/$(pidof qemu-ga)/cmdline").ok().map(drop));
    wait_for("the agent with its hook", HOOKED_LIMIT, Duration::from_millis(500), is_it)
}

/// Ends whatever stands in the agent's place, by a port of its own; the real agent comes back.
///
/// # Errors
/// The domain has no such port, or nobody listens at it.
pub fn leave(domain: &Domain) -> Result<()> {
    say(domain, "leave")
}

fn say(domain: &Domain, word: &str) -> Result<()> {
    let xml = domain.virsh_ok(&["dumpxml", domain.name()])?;
    let path = xml.split('\'').find(|word| word.starts_with('/') && word.ends_with(WORD_PORT));
    let path = path.ok_or_else(|| Error::answer(domain.name(), format!("has no port {WORD_PORT}")))?;
    let mut socket = UnixStream::connect(path).map_err(Error::io("connect to", path))?;
    socket.write_all(format!("{word}\n").as_bytes()).map_err(Error::io("write to", path))?;
    // The connection must last until the guest has read: what is under way when it ends is lost.
    socket.set_read_timeout(Some(LEAVE_LIMIT)).map_err(Error::io("set a time limit on", path))?;
    let mut said = [0; 5];
    socket.read_exact(&mut said).map_err(Error::io("hear that it is done from", path))?;
    if said != *b"gone\n" {
        return Err(Error::answer(WORD_PORT, format!("said {said:?}")));
    }
    Ok(())
}

fn place(domain: &Domain, command: &str) -> Result<()> {
    // The agent has to answer this script before it is ended.
    domain.sh(&format!("echo '{command}' > /run/agent.instead; (sleep 0.5; kill $(pidof qemu-ga)) >/dev/null 2>&1 &"))?;
    std::thread::sleep(Duration::from_secs(2));
    Ok(())
}

/// The imposter's life in the guest, until it is killed.
///
/// # Errors
/// The port cannot be opened, or a mode that there is not.
pub fn answer(port: &Path, mode: &str) -> Result<()> {
    if !MODES.contains(&mode) {
        return Err(Error::answer(mode, format!("is none of {MODES:?}")));
    }
    let open = || OpenOptions::new().read(true).write(true).open(port).map_err(Error::io("open", port));
    let mut file = open()?;
    let mut pending = Vec::new();
    let mut has_left = false;
    loop {
        let mut buffer = [0; BUFFER_BYTES];
        let count = file.read(&mut buffer).map_err(Error::io("read", port))?;
        if count == 0 {
            // Nobody is connected at the other end.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        pending.extend_from_slice(&buffer[..count]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            has_left &= !asks(&line, "guest-fsfreeze-freeze");
            let leaves = !has_left && leaves(mode, &line);
            if !leaves || mode == "leaves-after-freeze" {
                reply(&mut file, mode, &line).map_err(Error::io("write to", port))?;
            }
            if leaves {
                // A second one could not have the port while the first has it.
                drop(file);
                std::thread::sleep(GONE);
                file = open()?;
                pending.clear();
                has_left = true;
            }
        }
        if pending.len() > COMMAND_BYTES_MAX {
            pending.clear();
        }
    }
}

/// Whether it closes its port at this command; once for each freeze, and it comes back.
fn leaves(mode: &str, line: &[u8]) -> bool {
    match mode {
        "leaves-at-freeze" | "leaves-after-freeze" => asks(line, "guest-fsfreeze-freeze"),
        "leaves-at-thaw" => asks(line, "guest-fsfreeze-thaw"),
        _ => false,
    }
}

fn asks(line: &[u8], command: &str) -> bool {
    let quoted = format!("\"{command}\"");
    line.windows(quoted.len()).any(|part| part == quoted.as_bytes())
}

fn reply(port: &mut File, mode: &str, line: &[u8]) -> std::io::Result<()> {
    let begin = line.iter().position(|byte| *byte == b'{').unwrap_or(line.len());
    let Ok(command) = serde_json::from_slice::<Value>(&line[begin..]) else {
        return Ok(());
    };
    let name = command["execute"].as_str().unwrap_or_default();
    let id = command["arguments"]["id"].clone();
    match (mode, name) {
        ("mute", _) => Ok(()),
        ("wrong-ids", "guest-sync" | "guest-sync-delimited") => send(port, b"\xff", &json!({ "return": id.as_i64().unwrap_or_default() ^ 1 })),
        (_, "guest-sync") => send(port, b"", &json!({ "return": id })),
        (_, "guest-sync-delimited") => send(port, b"\xff", &json!({ "return": id })),
        ("mute-at-freeze", "guest-fsfreeze-freeze" | "guest-fsfreeze-status" | "guest-fsfreeze-thaw") => Ok(()),
        ("mute-at-thaw", "guest-fsfreeze-thaw") => Ok(()),
        ("slow-at-thaw", "guest-fsfreeze-thaw") => {
            std::thread::sleep(SLOW);
            send(port, b"", &json!({ "return": 0 }))
        }
        ("freezes-nothing", "guest-fsfreeze-freeze") => send(port, b"", &json!({ "return": 0 })),
        ("freezes-less-than-nothing", "guest-fsfreeze-freeze") => send(port, b"", &json!({ "return": -1 })),
        ("freezes-less-than-nothing", "guest-fsfreeze-thaw") => send(port, b"", &json!({ "return": i64::MIN })),
        // Each would have its freeze believed, if it had not left.
        ("leaves-at-freeze" | "leaves-after-freeze" | "leaves-at-thaw", "guest-fsfreeze-thaw") => send(port, b"", &json!({ "return": 2 })),
        ("leaves-at-freeze" | "leaves-after-freeze" | "leaves-at-thaw", _) => send(port, b"", &json!({ "return": lie(name) })),
        ("thaw-fails", "guest-fsfreeze-thaw") => send(port, b"", &late_error()),
        ("says-all-twice", _) => {
            let reply = json!({ "return": lie(name) });
            send(port, b"", &reply)?;
            send(port, b"", &reply)
        }
        ("liar" | "mute-at-freeze" | "mute-at-thaw" | "slow-at-thaw" | "freezes-nothing" | "freezes-less-than-nothing" | "thaw-fails" | "wrong-ids", _) => {
            send(port, b"", &json!({ "return": lie(name) }))
        }
        ("garbage", _) => port.write_all(b"}{\"return\": \xff\xfe nothing \x00 of \x1b[2J sense\n"),
        ("flood", _) => flood(port),
        (_, _) => port.write_all(odd_types().as_bytes()),
    }
}

fn send(port: &mut File, before: &[u8], value: &Value) -> std::io::Result<()> {
    port.write_all(before)?;
    port.write_all(format!("{value}\n").as_bytes())
}

/// What the liar says: all is well, and it froze what it never touched.
fn lie(name: &str) -> Value {
    let supported: Vec<Value> = ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status", "guest-get-fsinfo", "guest-info"]
        .iter()
        .map(|command| json!({ "enabled": true, "name": command, "success-response": true }))
        .collect();
    match name {
        "guest-info" => json!({ "version": "\u{1b}[31m7.2", "supported_commands": supported }),
        "guest-fsfreeze-freeze" => json!(2),
        "guest-fsfreeze-status" => json!("frozen"),
        "guest-fsfreeze-thaw" => json!(0),
        "guest-get-fsinfo" => {
            json!([{ "name": "../../vda", "mountpoint": "/\u{1b}]0;x", "type": "ext4", "disk": [] }])
        }
        _ => json!({}),
    }
}

/// As Windows has it when it gave up a freeze by itself.
fn late_error() -> Value {
    json!({ "error": { "class": "GenericError", "desc": "couldn't hold writes: \u{1b}[2Jfsfreeze is limited up to 10 seconds: " } })
}

/// One reply without an end, as long as somebody reads.
fn flood(port: &mut File) -> std::io::Result<()> {
    port.write_all(b"{\"return\": \"")?;
    let piece = [b'A'; BUFFER_BYTES];
    for _ in 0..FLOOD_BYTES / BUFFER_BYTES {
        port.write_all(&piece)?;
    }
    Ok(())
}

/// Valid JSON of every wrong type, and deep.
fn odd_types() -> String {
    format!("{{\"return\": {{\"version\": 7, \"supported_commands\": {}{}, \"x\": 1e999999}}}}\n", "[".repeat(NESTING), "]".repeat(NESTING))
}
