//! Connections to the API.
//!
//! Invariants
//! - Who connects is root or our own user: the mode of the socket says so, and each connection is asked as well.
//! - One request a connection, in [`CONNECTION_LIMIT`]; [`CONNECTIONS_MAX`] at once, and further ones wait: clients that hang keep others waiting for that
//!   limit at most.

use axum::Router;
use hyper::{server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
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
/// For what a refused client still sends.
const LINGER: Duration = Duration::from_secs(1);
/// After a connection that could not be accepted: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves at all of them until `over` says so. Answers that are under way are given up then.
pub async fn serve(listeners: Vec<UnixListener>, router: Router, over: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let all = listeners.into_iter().map(|listener| tokio::spawn(serve_at(listener, slots.clone(), router.clone(), over.clone())));
    for one in all.collect::<Vec<_>>() {
        // One that panicked serves no more; the others do.
        let _ = one.await;
    }
}

async fn serve_at(listener: UnixListener, slots: Arc<Semaphore>, router: Router, mut over: watch::Receiver<bool>) {
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
        let router = router.clone();
        tokio::spawn(async move {
            let _slot = slot;
            // Clients that go, hang or talk nonsense are their own affair.
            if tokio::time::timeout(CONNECTION_LIMIT, one_request(stream, router)).await.is_err() {
                tracing::debug!("a connection took too long");
            }
        });
    }
}

/// Serves one connection. What never became a request is answered here, in the API's words: hyper has none for it.
async fn one_request(stream: UnixStream, router: Router) {
    let asked = Arc::new(AtomicBool::new(false));
    let mut stream = Quiet { stream, asked: asked.clone() };
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        router.call(request)
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    let Err(e) = server.serve_connection(TokioIo::new(&mut stream), service).await else { return };
    tracing::debug!("a connection ended: {e}");
    if asked.load(Ordering::Relaxed) {
        return;
    }
    let (status, error, remedy) = if e.is_timeout() {
        ("408 Request Timeout", "the head of the request did not come in time", "send all of it within 5 s")
    } else if e.is_parse_too_large() {
        ("431 Request Header Fields Too Large", "the head of the request, its path included, is longer than 16 KiB", "docs/api.md has all that can be asked")
    } else if e.is_parse() {
        ("400 Bad Request", "this is no request of HTTP/1.1", "docs/api.md has all that can be asked")
    } else {
        return;
    };
    let body = super::api::refusal(error, remedy);
    let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // It may be gone; and it may still be sending, which would break the answer off: what comes is read for a moment.
    let stream = &mut stream.stream;
    if stream.write_all((head + &body).as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        let mut rest = [0; 4096];
        let read = async { while matches!(stream.read(&mut rest).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(LINGER, read).await;
    }
}

/// A stream that takes what is written before a request has come, and does not send it: hyper's own answers to what is none have no body.
struct Quiet {
    stream: UnixStream,
    asked: Arc<AtomicBool>,
}

impl AsyncRead for Quiet {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.asked.load(Ordering::Relaxed) { Pin::new(&mut self.stream).poll_write(cx, buf) } else { Poll::Ready(Ok(buf.len())) }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.asked.load(Ordering::Relaxed) { Pin::new(&mut self.stream).poll_shutdown(cx) } else { Poll::Ready(Ok(())) }
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
