//! Ctrl-C and SIGTERM: the first asks the job to stop and clean up, a second one ends the program and says what it may leave.

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
    let progress = progress.clone();
    runtime.spawn(async move {
        loop {
            tokio::select! { _ = int.recv() => {}, _ = term.recv() => {} }
            if progress.cancel.swap(true, Ordering::SeqCst) {
                say!("cairn: ended at once; {would_leave}");
                std::process::exit(INTERRUPTED.into());
            }
            say!("cairn: stopping and cleaning up (again to end at once: {would_leave})");
        }
    });
    Ok(())
}
