//! `cairn export`: a disk of a point as a raw stream, an image file, or over NBD until the user has enough.

use super::Done;
use crate::{
    cli::{self, Common, Format},
    context::open_store,
    domain::chain,
    failure::{FAILED, Failure, Outcome, USAGE},
    interrupt,
    output::{self, Bar},
    point_export::PointExport,
    points,
    restore::{self, Options, Place, Work},
};
use cairn_nbd::server::{Exports, Limits, Listener, Server, TlsIdentity, UnixSocket};
use cairn_store::{BlockSource, Point, PointSource, Progress, Store, StoreError, format::register::DiskEntry};
use std::{
    io::{self, Write},
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// How often Ctrl-C is looked for.
const POLL_MS: u64 = 100;
/// Handed to standard output at a time.
const PIECE_BYTES: usize = 4 << 20;
const TCP: &str = "tcp://";

/// Hands a disk out.
pub fn run(common: &Common, o: &cli::Export) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, unreadable) = store.points_and_damage()?;
    let p = points::select(&all, &o.point)?;
    let _pin = store.pin(&[p.id])?;
    let disks = store.disks(p)?;
    let entry = choose(o.disk.as_deref(), p, &disks)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    if let Some(address) = &o.nbd {
        serve(common, o, &store, p, entry, address, &runtime, &progress)?;
    } else if let Some(path) = o.raw.as_deref().filter(|path| *path == Path::new("-")) {
        debug_assert_eq!(path, Path::new("-"));
        interrupt::watch(&runtime, &progress, "nothing")?;
        stream(common, &store, entry, &progress)?;
    } else if o.qcow2.as_deref() == Some(Path::new("-")) {
        return Err(Failure::usage("--qcow2 -: an image is not written from front to end; give a file ('--raw -' streams, './-' is a file of that name)"));
    } else {
        interrupt::watch(&runtime, &progress, "a file that ends in .cairn-partial")?;
        let (path, format) = o.raw.as_ref().map(|p| (p, Format::Raw)).or(o.qcow2.as_ref().map(|p| (p, Format::Qcow2))).ok_or_else(no_way)?;
        to_file(common, o, &store, p, entry, (path, format), &runtime, &progress)?;
    }
    for d in &unreadable {
        say!("cairn: warning: {}; if the newest point is the one that cannot be read, this was an older one: {}", output::shown(d), p.id);
    }
    Ok(if unreadable.is_empty() { Done::Clean } else { Done::WithWarnings })
}

fn no_way() -> Failure {
    Failure::usage("give one of --raw, --qcow2, --nbd")
}

fn choose<'a>(wanted: Option<&str>, p: &Point, disks: &'a [DiskEntry]) -> Outcome<&'a DiskEntry> {
    let have = || disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, disks) {
        (Some(target), _) => {
            disks.iter().find(|d| d.target == target).ok_or_else(|| Failure::not_found(format!("point {} has no disk '{target}', it has {}", p.id, have())))
        }
        (None, [one]) => Ok(one),
        (None, _) => Err(Failure::usage(format!("point {} has the disks {}; name one with --disk", p.id, have()))),
    }
}

/// A reader that leaves wanted no more.
fn stream(common: &Common, store: &Store, entry: &DiskEntry, progress: &Arc<Progress>) -> Outcome<()> {
    if common.json {
        return Err(Failure::usage("--json and --raw - both want standard output"));
    }
    let bar = Bar::start(common, "export", progress);
    let source = PointSource::new(store, entry)?;
    progress.total_bytes.fetch_add(entry.size_bytes, Ordering::Relaxed);
    let (mut stdout, mut piece, mut at) = (io::stdout().lock(), vec![0; PIECE_BYTES], 0);
    while at < entry.size_bytes {
        if progress.cancel.load(Ordering::SeqCst) {
            return Err(StoreError::Interrupted.into());
        }
        let len = usize::try_from(entry.size_bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let piece = &mut piece[..len];
        source.read_at(at, piece).map_err(|e| not_read(&entry.target, at, e))?;
        match stdout.write_all(piece) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|e| Failure::new(FAILED, format!("cannot write to standard output: {e}; what it took is not the whole disk")))?,
        }
        at += len as u64;
        progress.done_bytes.store(at, Ordering::Relaxed);
    }
    drop(bar);
    stdout.flush().map_err(|e| Failure::new(FAILED, format!("cannot write to standard output: {e}; what it took is not the whole disk")))
}

/// Damage keeps its code on its way through the source's errors.
fn not_read(target: &str, at: u64, e: io::Error) -> Failure {
    match e.downcast::<StoreError>() {
        Ok(e) => e.into(),
        Err(e) => Failure::new(FAILED, format!("disk {target}: reading at {at}: {e}")),
    }
}

#[expect(clippy::too_many_arguments, reason = "what a restore of one disk needs")]
fn to_file(
    common: &Common,
    o: &cli::Export,
    store: &Store,
    p: &Point,
    entry: &DiskEntry,
    (path, format): (&std::path::PathBuf, Format),
    runtime: &tokio::runtime::Runtime,
    progress: &Arc<Progress>,
) -> Outcome<()> {
    let path = std::path::absolute(path).map_err(|e| Failure::usage(format!("{}: {e}", path.display())))?;
    let options = Options { disks: vec![(entry.target.clone(), Place::Path(path))], format: Some(format), force: o.force, ..Options::default() };
    let prepared = restore::prepare(Work { common, store, journal: None }, p, &options)?;
    let bar = Bar::start(common, "export", progress);
    let (restored, written) = prepared.run(runtime, progress)?;
    drop(bar);
    for (d, r) in written.iter().zip(&restored.reports) {
        let path = d.path.display();
        if common.json {
            output::print_json(&serde_json::json!({
                "id": p.id.to_string(), "name": p.summary.name, "target": d.entry.target, "path": path.to_string(), "size": d.entry.size_bytes,
                "written": r.written_bytes,
            }));
        } else if !common.quiet {
            out!("{}: {} of {} {} written to {path}", output::shown(&d.entry.target), output::bytes(d.entry.size_bytes), output::shown(&p.summary.name), p.id);
        }
    }
    Ok(())
}

/// Serves until Ctrl-C or SIGTERM.
#[expect(clippy::too_many_arguments, reason = "point, disk and address of one export")]
fn serve(
    common: &Common,
    o: &cli::Export,
    store: &Store,
    p: &Point,
    entry: &DiskEntry,
    address: &str,
    runtime: &tokio::runtime::Runtime,
    progress: &Arc<Progress>,
) -> Outcome<()> {
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
    let mut exports = Exports::new();
    let description: String = format!("{} {} {}", output::shown(&p.summary.name), p.id, entry.target).chars().take(200).collect();
    exports.add(entry.target.clone(), Arc::new(PointExport { source: Arc::new(PointSource::new(store, entry)?), description })).map_err(|e| fail(&e))?;
    let server = runtime.block_on(async {
        let listener = listen(o, address).await?;
        let at = listener.tcp_address();
        Server::start(vec![listener], exports, Limits::default()).map(|s| (s, at)).map_err(|e| fail(&e))
    });
    let (server, at) = server?;
    let uri = match (at, &o.tls_cert) {
        (Some(at), None) => format!("nbd://{at}/{}", entry.target),
        (Some(at), Some(_)) => format!("nbds://{at}/{}", entry.target),
        (None, _) => format!("nbd+unix:///{}?socket={}", entry.target, unix_path(address)),
    };
    if common.json {
        output::print_json(&serde_json::json!({
            "id": p.id.to_string(), "name": p.summary.name, "target": entry.target, "size": entry.size_bytes, "uri": uri,
        }));
    } else if !common.quiet {
        out!("{}: {} of {} {} at {uri} until Ctrl-C", output::shown(&entry.target), output::bytes(entry.size_bytes), output::shown(&p.summary.name), p.id);
    }
    if at.is_some() && o.tls_cert.is_none() && !common.quiet {
        say!("cairn: this is plain text without a password: every user and program of this host can read the disk, and nobody else (--tls-cert is for others)");
    }
    wait_for_end(runtime, progress)?;
    runtime.block_on(server.stop());
    Ok(())
}

/// The end that was asked for is the command's good end.
fn wait_for_end(runtime: &tokio::runtime::Runtime, progress: &Arc<Progress>) -> Outcome<()> {
    interrupt::watch(runtime, progress, "a socket, which the next export to the same place replaces")?;
    while !progress.cancel.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
    Ok(())
}

fn unix_path(address: &str) -> &str {
    address.strip_prefix("unix:").unwrap_or(address)
}

async fn listen(o: &cli::Export, address: &str) -> Outcome<Listener> {
    let fail = |e: cairn_nbd::server::ServerError| {
        let code = if matches!(e, cairn_nbd::server::ServerError::PlainTcp { .. }) { USAGE } else { FAILED };
        Failure::new(code, chain(&e))
    };
    let identity = match (&o.tls_cert, &o.tls_key, &o.tls_ca) {
        (Some(certificate), Some(key), Some(ca)) => Some(TlsIdentity { certificate: certificate.clone(), key: key.clone(), client_authorities: ca.clone() }),
        _ => None,
    };
    let Some(place) = address.strip_prefix(TCP) else {
        if identity.is_some() {
            return Err(Failure::usage("TLS is for tcp://HOST:PORT; a unix socket is served to root and its owner alone"));
        }
        let path = std::path::absolute(unix_path(address)).map_err(|e| Failure::usage(format!("--nbd {address}: {e}")))?;
        let allowed_uids = vec![nix::unistd::geteuid().as_raw()];
        return Listener::unix(&UnixSocket { path, owner: None, allowed_uids }).map_err(fail);
    };
    let place = resolve(place)?;
    match identity {
        Some(identity) => Listener::tcp_tls(place, &identity).await.map_err(fail),
        None => Listener::tcp_loopback(place).await.map_err(fail),
    }
}

fn resolve(place: &str) -> Outcome<SocketAddr> {
    let wrong = |why: String| Failure::usage(format!("--nbd tcp://{place}: {why}; write tcp://HOST:PORT, as in tcp://127.0.0.1:10809"));
    place.to_socket_addrs().map_err(|e| wrong(e.to_string()))?.next().ok_or_else(|| wrong("no address of that name".into()))
}
