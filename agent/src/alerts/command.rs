//! A program of the site's: the message on its standard input, the same in short in its environment.
//!
//! Invariants
//! - No shell: what guests are named is at most a variable's value.
//! - It is a process group of its own, and all of that is killed at the limit.

use super::message::Message;
use crate::jobs::last_words;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

/// Of what it says that is kept.
const SAID_BYTES_MAX: usize = 4 << 10;
/// From its end to the end of what it says: something that it started may have the pipe.
const SAID_LIMIT: Duration = Duration::from_millis(500);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs it. An error says why that is no delivery.
pub async fn run(argv: &[String], message: &Message, limit: Duration) -> Result<(), String> {
    let [program, args @ ..] = argv else { return Err("no program is named".into()) };
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).env("LANG", "C.UTF-8").envs(message.variables.iter().map(|(name, value)| (*name, value)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0).current_dir("/");
    let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let said = tokio::spawn(tail(stderr));
    let text = message.json.to_string();
    let ended = timeout(limit, async {
        if let Some(mut stdin) = stdin {
            // One that reads nothing is as good.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait().await
    });
    let ended = ended.await;
    if ended.is_err() {
        // One that has just ended is as good.
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        let _ = child.wait().await;
    }
    let said = timeout(SAID_LIMIT, said).await.ok().and_then(Result::ok).and_then(|said| last_words(&said)).map_or(String::new(), |said| format!(": {said}"));
    match ended {
        Err(_) => Err(format!("{program} took longer than {} s and was ended{said}", limit.as_secs())),
        Ok(Err(e)) => Err(format!("{program} cannot be waited for: {e}")),
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}{said}")),
    }
}

/// The last that it said.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut from) = from else { return Vec::new() };
    let (mut kept, mut bytes) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        kept.extend_from_slice(&bytes[..n]);
        let over = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..over);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;

    fn message() -> Message {
        let (host, subject, text) = ("h".to_owned(), "s".to_owned(), "t".to_owned());
        Message { id: "i".into(), made_unix_ms: 0, host, subject, text, json: json!({"x": 1}), variables: vec![("CAIRN_ALERT_KEY", "$(id)".into())] }
    }

    fn run_sh(script: &str, args: &[&str], limit_ms: u64) -> Result<(), String> {
        let argv: Vec<String> = ["/bin/sh", "-c", script].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
        runtime.block_on(run(&argv, &message(), Duration::from_millis(limit_ms)))
    }

    #[test]
    fn a_program_has_the_message_and_nothing_of_the_daemons() {
        let script = "test \"$(cat)\" = '{\"x\":1}' && test \"$CAIRN_ALERT_KEY\" = '$(id)' && test -z \"$HOME$USER$CARGO_MANIFEST_DIR\"";
        assert_eq!(run_sh(script, &[], 20_000), Ok(()));
        // One that reads nothing is told all the same.
        assert_eq!(run_sh("exec <&-", &[], 20_000), Ok(()));
        assert!(run_sh("echo first >&2; echo it is shut >&2; exit 7", &[], 20_000).expect_err("fails").contains("exit status: 7: it is shut"));
    }

    #[test]
    fn a_program_that_hangs_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("pid").display().to_string();
        let start = Instant::now();
        let why = run_sh("sleep 300 & echo $! > \"$0\"; wait", &[&file], 3000).expect_err("takes too long");
        assert!(why.contains("took longer") && start.elapsed() < Duration::from_secs(60), "{why}");
        let pid: i32 = std::fs::read_to_string(&file).expect("written").trim().parse().expect("a number");
        let is_gone = || !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while !is_gone() {
            assert!(start.elapsed() < Duration::from_secs(60), "{pid} goes on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
