//! The socket's file, while the daemon runs. Who removes it (somebody who tidies `/run` up) takes the daemon from all commands, and systemd sees nothing: so it is
//! looked after, and made anew.
//!
//! Invariants
//! - Another's is left alone: a file that is no socket, or one that somebody listens at. That is told by health and the log.
//! - What was made anew is closed when it is replaced: one that removes it every minute costs no descriptors.

use super::{
    listen::{Listening, Remover, id_of},
    serve,
    state::Shared,
};
use axum::Router;
use std::{
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);

/// What is at a path, by device and inode.
type Id = Option<(u64, u64)>;

/// Looks after the socket at `path` until `over` says so. `id`: what the daemon listens at now, if commands find it there.
pub async fn keep(shared: Arc<Shared>, path: PathBuf, mut id: Id, router: Router, mut over: watch::Receiver<bool>) {
    let mut open: Option<(watch::Sender<bool>, Remover)> = None;
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = over.changed() => break,
            _ = ticks.tick() => {}
        }
        let at = path.clone();
        // A file system that hangs must not hang the daemon.
        let looked = tokio::task::spawn_blocking(move || look(&at, id)).await;
        match looked {
            Ok(None) => shared.unset_unreachable(),
            Err(_) => {}
            Ok(Some(Err(why))) => shared.set_unreachable(why),
            Ok(Some(Ok((listener, remover)))) => {
                let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { continue };
                tracing::warn!("{} was gone, and with it the way to the daemon; it listens there anew", path.display());
                id = id_of(&path);
                shared.unset_unreachable();
                let (closing, is_closing) = watch::channel(false);
                tokio::spawn(serve::serve(vec![listener], router.clone(), is_closing));
                if let Some((former, _)) = open.replace((closing, remover)) {
                    former.send_replace(true);
                }
            }
        }
    }
    if let Some((closing, _)) = &open {
        closing.send_replace(true);
    }
}

/// Nothing where all is as it was; else a new socket, or why there is none.
fn look(path: &Path, id: Id) -> Option<Result<(UnixListener, Remover), String>> {
    if id.is_some() && id == id_of(path) {
        return None;
    }
    let why =
        |why: String| format!("commands do not find the daemon at {}, where they look ({why}); it listens there anew once that is mended", path.display());
    Some(Listening::own(path).map(Listening::parts).map_err(|f| why(f.message)))
}
