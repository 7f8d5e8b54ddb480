//! Serves raw images read-only: `serve --unix PATH | --tcp ADDRESS [--tls DIRECTORY] [--uid N]... NAME=IMAGE...`, until it gets
//! SIGINT or SIGTERM. For tests and measurements; prints `listening ADDRESS` once clients can connect.
//!
//! The TLS directory holds `server-cert.pem`, `server-key.pem` and `ca-cert.pem`, the names that other NBD programs use.

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_nbd::server::{Exports, FileExport, Limits, Listener, Server, TlsIdentity, UnixSocket};
use tokio::signal::unix::{SignalKind, signal};

struct Wish {
    unix: Option<PathBuf>,
    tcp: Option<SocketAddr>,
    tls: Option<PathBuf>,
    uids: Vec<u32>,
    limits: Limits,
    images: Vec<(String, PathBuf)>,
}

fn parse() -> Result<Wish, Box<dyn Error>> {
    let mut wish = Wish { unix: None, tcp: None, tls: None, uids: Vec::new(), limits: Limits::default(), images: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--unix" => wish.unix = Some(value()?.into()),
            "--tcp" => wish.tcp = Some(value()?.parse()?),
            "--tls" => wish.tls = Some(value()?.into()),
            "--uid" => wish.uids.push(value()?.parse()?),
            "--connections" => wish.limits.connections_max = value()?.parse()?,
            "--reply-limit-ms" => wish.limits.reply_limit = Duration::from_millis(value()?.parse()?),
            "--negotiation-limit-ms" => wish.limits.negotiation_limit = Duration::from_millis(value()?.parse()?),
            image => {
                let (name, path) = image.split_once('=').ok_or(format!("{image:?} is not NAME=IMAGE"))?;
                wish.images.push((name.to_owned(), path.into()));
            }
        }
    }
    Ok(wish)
}

async fn listener(wish: &Wish) -> Result<Listener, Box<dyn Error>> {
    let own = nix::unistd::geteuid().as_raw();
    Ok(match (&wish.unix, wish.tcp, &wish.tls) {
        (Some(path), None, None) => {
            let mut allowed_uids = wish.uids.clone();
            allowed_uids.push(own);
            Listener::unix(&UnixSocket { path: path.clone(), owner: None, allowed_uids })?
        }
        (None, Some(address), None) => Listener::tcp_loopback(address).await?,
        (None, Some(address), Some(dir)) => Listener::tcp_tls(address, &identity(dir)).await?,
        _ => return Err("exactly one of --unix and --tcp is needed; --tls goes with --tcp".into()),
    })
}

fn identity(dir: &Path) -> TlsIdentity {
    TlsIdentity { certificate: dir.join("server-cert.pem"), key: dir.join("server-key.pem"), client_authorities: dir.join("ca-cert.pem") }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let wish = parse()?;
    let mut exports = Exports::new();
    for (name, path) in &wish.images {
        exports.add(name.clone(), Arc::new(FileExport::open(path)?))?;
    }
    let listener = listener(&wish).await?;
    let address = listener.tcp_address().map_or_else(|| "unix".to_owned(), |address| address.to_string());
    let server = Server::start(vec![listener], exports, wish.limits)?;
    println!("listening {address}");
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    server.stop().await;
    Ok(())
}
