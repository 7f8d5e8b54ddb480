//! The command line's end of the API: one request, one answer, with a limit.

use super::listen::socket_default;
use crate::{
    cli::{Common, SocketPlace},
    config,
    failure::{BUSY, FAILED, Failure, Outcome},
};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{io::ErrorKind, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, runtime::Runtime};

/// Longest wait for an answer: a daemon that is busy with others answers within twice its own limit.
const LIMIT: Duration = Duration::from_secs(45);
/// Longest answer that is read: thousands of jobs.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A daemon somewhere.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// The daemon that options, configuration or default name.
    pub fn new(common: &Common, place: &SocketPlace) -> Outcome<Self> {
        let socket = match &place.socket {
            Some(path) => path.clone(),
            None => match config::find(common.config.as_deref()).map(|path| config::load(&path)) {
                Some(Ok(config)) => config.daemon.socket.unwrap_or_else(socket_default),
                // A daemon may run on with what it loaded before.
                Some(Err(e)) => {
                    say!("cairn: warning: {e}; the daemon is looked for at its usual place");
                    socket_default()
                }
                None => socket_default(),
            },
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self { socket, runtime: runtime.map_err(|e| Failure::new(FAILED, format!("cannot start: {e}")))? })
    }

    /// What is at a path.
    pub fn get(&self, path: &str) -> Outcome<Value> {
        self.ask(Method::GET, path, None)
    }

    /// Has something done.
    pub fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.ask(Method::POST, path, Some(body))
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Value> {
        let late = || {
            Failure::new(FAILED, format!("the daemon at {} does not answer within {} s; see 'systemctl status cairn'", self.socket.display(), LIMIT.as_secs()))
        };
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, self.exchange(method, path, body)).await }).unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Outcome<Value> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let fail =
            |e: &dyn std::fmt::Display| Failure::new(FAILED, format!("the daemon at {} broke off: {e}; see 'systemctl status cairn'", self.socket.display()));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
        let connection = tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |value| Bytes::from(value.to_string()));
        let request = Request::builder().method(method).uri(path).header("host", "cairn").header("content-type", "application/json");
        let request = request.body(Full::new(body)).map_err(|e| fail(&e))?;
        let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| fail(&e))?.to_bytes();
        connection.abort();
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| fail(&format!("its answer ({status}) is not one of Cairn's")))?;
        if status.is_success() { Ok(value) } else { Err(failure(&value)) }
    }

    fn unreachable(&self, e: &std::io::Error) -> Failure {
        let at = self.socket.display();
        match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::new(
                FAILED,
                format!(
                    "no daemon answers at {at}: start it with 'systemctl start cairn' or 'cairn daemon', or name the socket of one that listens elsewhere \
                     (--socket PATH); 'cairn backup DOMAIN' needs none"
                ),
            ),
            ErrorKind::WouldBlock => Failure::new(BUSY, format!("too many wait for the daemon at {at} already; try again, and see 'systemctl status cairn'")),
            ErrorKind::PermissionDenied => Failure::refused(format!("the daemon at {at} is for root only; use sudo")),
            _ => Failure::new(FAILED, format!("the daemon at {at} cannot be reached: {e}")),
        }
    }
}

/// An error of the API's as one of ours.
fn failure(value: &Value) -> Failure {
    let code = value["code"].as_u64().and_then(|c| u8::try_from(c).ok()).unwrap_or(FAILED);
    let text = value["error"].as_str().unwrap_or("the daemon refused without a reason");
    let mut message = value["remedy"].as_str().map_or_else(|| text.to_owned(), |remedy| format!("{text}; {remedy}"));
    for line in value["wrong"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        message.push('\n');
        message.push_str(line);
    }
    Failure::new(code, message)
}
