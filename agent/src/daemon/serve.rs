//! Connections to the API.
//!
//! Invariants
//! - Who connects is root or our own user: the mode of the socket says so, and each connection is asked as well.
//! - One request a connection, in [`CONNECTION_LIMIT`]; [`CONNECTIONS_MAX`] at once, and further ones wait: clients that hang keep others waiting for that
//!   limit at most.

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 64;
/// Whole time of a connection. Longer than any answer takes ([`crate::jobs::ANSWER_LIMIT`]).
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(20);
/// Time for the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Longest head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// After a connection that could not be accepted: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves until `over` says so. Answers that are under way are given up then.
pub async fn serve(listener: UnixListener, router: Router, mut over: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, stream) = tokio::select! {
            _ = over.changed() => return,
            (slot, accepted) = next => match (slot, accepted) {
                (Ok(slot), Ok((stream, _))) => (slot, stream),
                (_, Err(e)) => {
                    tracing::warn!("a connection could not be accepted: {e}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                // Nobody closes the semaphore.
                (Err(_), _) => return,
            },
        };
        if !may_ask(&stream) {
            continue;
        }
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
            // Clients that go, hang or talk nonsense are their own affair.
            if let Ok(Err(e)) = tokio::time::timeout(CONNECTION_LIMIT, server.serve_connection(TokioIo::new(stream), service)).await {
                tracing::debug!("a connection ended: {e}");
            }
        });
    }
}

fn may_ask(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!("a process of user {} was refused at the socket; its mode should have kept it away", peer.uid());
            false
        }
        Err(e) => {
            tracing::warn!("who connected cannot be told: {e}");
            false
        }
    }
}
