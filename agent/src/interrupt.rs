//! Ctrl-C, SIGTERM and SIGHUP (a terminal that was closed, a connection that broke): the first asks the job to stop and clean up, a second Ctrl-C or SIGTERM
//! ends the program and says what it may leave. Kernel and shell each send a SIGHUP for the same closed terminal, so a second one of it says nothing new;
//! where it is ignored (`nohup`) it stays so.

use crate::failure::{FAILED, Failure, INTERRUPTED, Outcome};
use cairn_store::Progress;
use std::sync::{Arc, atomic::Ordering};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

/// The runtime that signals and NBD connections live on.
pub fn runtime() -> Outcome<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(|e| Failure::new(FAILED, format!("cannot start threads: {e}")))
}

/// Lets signals cancel `progress` from now on.
pub fn watch(runtime: &Runtime, progress: &Arc<Progress>, would_leave: &'static str) -> Outcome<()> {
    let _inside = runtime.enter();
    let listen = |kind| signal(kind).map_err(|e| Failure::new(FAILED, format!("cannot listen to signals: {e}")));
    let (mut int, mut term) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let mut hangup = if is_hangup_ignored() { None } else { Some(listen(SignalKind::hangup())?) };
    let progress = progress.clone();
    runtime.spawn(async move {
        loop {
            let hung_up = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let is_hangup = tokio::select! { _ = int.recv() => false, _ = term.recv() => false, _ = hung_up => true };
            if progress.cancel.swap(true, Ordering::SeqCst) {
                if is_hangup {
                    continue;
                }
                say!("cairn: ended at once; {would_leave}");
                std::process::exit(INTERRUPTED.into());
            }
            say!("cairn: stopping and cleaning up (again to end at once: {would_leave})");
        }
    });
    Ok(())
}

/// Of this process, as whoever started it wanted it; where `/proc` does not tell, it is heard.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|l| u64::from_str_radix(l.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & (1 << (nix::libc::SIGHUP - 1)) != 0)
}
