//! The check on the host: a program of the admin's, with the guest's name in its environment.
//!
//! Invariants
//! - It has a limit of its own, and nothing of its process group outlives it. Should we be killed, it is, too; what it started must see to itself.
//! - However much it says, its end is kept and no more; however long it keeps its output open, nobody waits for that.

use super::tail::Tail;
use crate::failure::{FAILED, Failure, Outcome};
use cairn_store::format::boot_proof::BootCheck;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{
    io::Read,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What is kept of its output.
const SAID_BYTES_MAX: usize = 400;
const POLL: Duration = Duration::from_millis(100);
/// For what it wrote last to arrive.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Runs it to its end. `tick` is called all the time; its error ends the script.
pub fn run(script: &Path, environment: &[(&str, String)], limit: Duration, tick: &mut dyn FnMut() -> Outcome<()>) -> Outcome<BootCheck> {
    let begin = Instant::now();
    let fail = |e: std::io::Error| Failure::new(FAILED, format!("cannot start {}: {e}", script.display()));
    let (reader, writer) = std::io::pipe().map_err(fail)?;
    let mut command = Command::new(script);
    command.envs(environment.iter().map(|(k, v)| (k, v))).stdin(Stdio::null()).stdout(writer.try_clone().map_err(fail)?).stderr(writer).process_group(0);
    let with_us = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec only prctl is called: a plain system call without locks or memory.
    unsafe { command.pre_exec(with_us) };
    let mut child = command.spawn().map_err(fail)?;
    // Its copies of the pipe's end would keep the reader waiting.
    drop(command);
    let said = Arc::new(Mutex::new(Tail::new(4 * SAID_BYTES_MAX)));
    let reader = std::thread::spawn({
        let said = said.clone();
        move || collect(reader, &said)
    });
    let status = wait(&mut child, begin, limit, tick);
    // What it left behind in its group goes with it; there may be nothing.
    let _ = killpg(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)), Signal::SIGKILL);
    let _ = child.wait();
    let status = status?;
    let until = Instant::now() + LAST_WORDS;
    while !reader.is_finished() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let said = said.lock().unwrap_or_else(PoisonError::into_inner).shown(SAID_BYTES_MAX);
    let why = match status {
        None => format!("it did not end within {} s", limit.as_secs()),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("ended by signal {signal}"),
            (None, None) => "it ended in no known way".to_owned(),
        },
    };
    let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(BootCheck { passed: status.is_some_and(|s| s.success()), why, took_ms, said })
}

fn collect(mut from: impl Read, to: &Mutex<Tail>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut piece) {
        to.lock().unwrap_or_else(PoisonError::into_inner).push(&piece[..count]);
    }
}

/// Its status; `None` after the limit.
fn wait(child: &mut Child, begin: Instant, limit: Duration, tick: &mut dyn FnMut() -> Outcome<()>) -> Outcome<Option<ExitStatus>> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) if begin.elapsed() > limit => return Ok(None),
            Ok(None) => tick()?,
            Err(e) => return Err(Failure::new(FAILED, format!("cannot wait for the script: {e}"))),
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn check(text: &str, limit: Duration) -> BootCheck {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("check");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("mode");
        run(&path, &[("CAIRN_BOOT_DOMAIN", "proof".to_owned())], limit, &mut || Ok(())).expect("runs")
    }

    #[test]
    fn it_passes_by_its_code_and_its_last_words_are_kept() {
        let good = check("echo up: $CAIRN_BOOT_DOMAIN", Duration::from_secs(20));
        assert_eq!((good.passed, good.why.as_str(), good.said.as_str()), (true, "exit code 0", "up: proof"));
        let bad = check("seq 100000; printf 'no\\033[31m' >&2; exit 3", Duration::from_secs(60));
        assert_eq!((bad.passed, bad.why.as_str()), (false, "exit code 3"));
        assert!(bad.said.ends_with("no\\u{1b}[31m") && bad.said.len() < 3 * SAID_BYTES_MAX, "{}", bad.said);
    }

    #[test]
    fn it_ends_in_time_with_all_that_it_started() {
        let begin = Instant::now();
        let slow = check("sleep 600 & echo $!; sleep 600", Duration::from_millis(500));
        assert!(!slow.passed && slow.why.contains("did not end") && begin.elapsed() < Duration::from_secs(20));
        let pid: i32 = slow.said.parse().expect("the pid");
        let gone = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |s| s.contains(") Z "));
        while !gone() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "what it started lives on");
    }

    #[test]
    fn what_cannot_start_is_an_error() {
        assert!(run(Path::new("/nowhere/check"), &[], Duration::from_secs(1), &mut || Ok(())).expect_err("no such program").message.contains("/nowhere/check"));
    }
}
