//! A webhook: one POST with the message as JSON.
//!
//! Invariants
//! - Delivered is what the server answers with 2xx. A redirect is none: a secret would follow it.
//! - What the server says is bounded, and shown as text.

use super::{message::Message, send, tls};
use crate::{config::Webhook, output::shown};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::path::Path;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Of an answer that is read, and shown.
const ANSWER_BYTES_MAX: usize = 16 << 10;
const ANSWER_CHARS_MAX: usize = 200;

/// Sends it.
pub async fn send(hook: &Webhook, message: &Message) -> Result<(), String> {
    let extra = match &hook.headers_file {
        Some(file) => headers(&send::secret(file).await?, file)?,
        None => Vec::new(),
    };
    let stream = TcpStream::connect((hook.host.as_str(), hook.port)).await.map_err(|e| format!("{}:{}: {e}", hook.host, hook.port))?;
    if hook.is_tls {
        exchange(tls::begin(stream, &hook.host, hook.ca_file.as_deref()).await?, hook, extra, message).await
    } else {
        exchange(stream, hook, extra, message).await
    }
}

async fn exchange<S>(stream: S, hook: &Webhook, extra: Vec<(HeaderName, HeaderValue)>, message: &Message) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", hook.host);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| fail(&e))?;
    let connection = tokio::spawn(connection);
    let host = if hook.host.contains(':') { format!("[{}]:{}", hook.host, hook.port) } else { format!("{}:{}", hook.host, hook.port) };
    let mut request = Request::builder().method(Method::POST).uri(&hook.path).header("host", host).header("content-type", "application/json");
    request = request.header("user-agent", concat!("cairn/", env!("CARGO_PKG_VERSION"))).header("connection", "close");
    for (name, value) in extra {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(Bytes::from(message.json.to_string()))).map_err(|e| fail(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let said: String = shown(String::from_utf8_lossy(&body).trim()).chars().take(ANSWER_CHARS_MAX).collect();
        let hint = if status.is_redirection() { " (redirects are not followed: write the final url)" } else { "" };
        Err(format!("{} answered {status}{hint}{}{said}", hook.host, if said.is_empty() { "" } else { ": " }))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// `Name: value`, a line for each; none that the request has already.
pub fn headers(text: &str, path: &Path) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let mut out = Vec::new();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#')) {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let mut value = HeaderValue::from_str(value.trim()).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.trim().as_bytes()).ok()?, value))
        });
        let (name, value) = parsed.ok_or_else(|| format!("{}:{}: this is no header; write 'Name: value'", path.display(), n + 1))?;
        if ["host", "content-length", "transfer-encoding", "connection"].contains(&name.as_str()) {
            return Err(format!("{}:{}: {name} is set by the request itself", path.display(), n + 1));
        }
        out.push((name, value));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines_and_mistakes_are_told_with_theirs() {
        let read = |text| headers(text, Path::new("/h"));
        let all = read("# token\nAuthorization: Bearer x:y\n\nX-Team:  ops \n").expect("reads");
        assert!(all.len() == 2 && all[0].1 == "Bearer x:y" && all[1].1 == "ops" && all[0].1.is_sensitive());
        for (text, word) in [("A: b\nnonsense", "/h:2: this is no header"), ("a b: c", "/h:1:"), ("Host: x", "set by the request"), ("A: \u{1}", "/h:1:")] {
            assert!(read(text).expect_err(text).contains(word), "{text}");
        }
        assert!(!read("nonsense: \u{7f}s3cret").expect_err("refused").contains("s3cret"), "secrets are in no message");
    }
}
