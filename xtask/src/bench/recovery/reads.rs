//! Reads of a disk over NBD: out of the store by `cairn export`, and of the plain file by `qemu-nbd` and `nbdkit`.

use super::super::measure::{cold_cache, measured};
use super::super::tools::Tool;
use crate::error::{Error, Result};
use cairn_lab::process::{run_ok, wait_for};
use serde_json::Value;
use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const START_LIMIT: Duration = Duration::from_secs(60);
const FIO_LIMIT: Duration = Duration::from_secs(180);
const RANDOM_S: u32 = 15;
const NAMES: [&str; 3] = ["cairn export", "qemu-nbd", "nbdkit file"];

/// What one server did.
struct Reads {
    name: &'static str,
    sequential_s: f64,
    cold: Random,
    warm: Random,
}

/// 4 KiB at random places, 16 at a time.
struct Random {
    per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// A server, ended with the value.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and then its client said so.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All servers one after the other.
pub fn table(ours: &Tool, source: &Path, dir: &Path) -> Result<String> {
    let mut out = format!(
        "## Reads over NBD\n\nOne unix socket each; `qemu-nbd` and `nbdkit` serve the image itself. Sequential: `nbdcopy` of the whole disk. Random: fio, 4 KiB over the \
         whole disk, 16 at a time, {RANDOM_S} s, the same places for all; warm is the same again with the same server.\n\n\
         | | sequential s | random cold, reads/s | p50 ms | p99 ms | random warm, reads/s | p50 ms | p99 ms |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for name in NAMES {
        let r = one(name, ours, source, dir)?;
        let random = |r: &Random| format!("{:.0} | {:.2} | {:.2}", r.per_s, r.p50_ms, r.p99_ms);
        let _ = writeln!(out, "| {} | {:.1} | {} | {} |", r.name, r.sequential_s, random(&r.cold), random(&r.warm));
    }
    Ok(out)
}

fn one(name: &'static str, ours: &Tool, source: &Path, dir: &Path) -> Result<Reads> {
    let socket = dir.join("nbd.sock");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    cold_cache();
    let server = start(name, ours, source, &socket)?;
    let sequential_s = measured(Command::new("nbdcopy").arg(&uri).arg("null:"), &dir.join("nbdcopy.log"))?.wall_s;
    stop(server, &socket)?;
    cold_cache();
    let server = start(name, ours, source, &socket)?;
    let (cold, warm) = (random(&uri)?, random(&uri)?);
    stop(server, &socket)?;
    Ok(Reads { name, sequential_s, cold, warm })
}

fn start(name: &str, ours: &Tool, source: &Path, socket: &Path) -> Result<Server> {
    let mut command = match name {
        "cairn export" => ours.export(socket),
        "qemu-nbd" => {
            let mut c = Command::new("qemu-nbd");
            c.args(["-r", "-t", "-e", "16", "-f", "raw", "-k"]).arg(socket).arg(source);
            c
        }
        _ => {
            let mut c = Command::new("nbdkit");
            c.args(["-f", "-r", "-U"]).arg(socket).arg("file").arg(source);
            c
        }
    };
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut server = Server(started.map_err(|e| Error::failed(format!("cannot start {name}: {e}")))?);
    wait_for(&format!("{name} to listen"), START_LIMIT, Duration::from_millis(20), || {
        if let Ok(Some(status)) = server.0.try_wait() {
            return Err(cairn_lab::Error::answer(name, format!("it ended, {status}")));
        }
        Ok(UnixStream::connect(socket).ok())
    })?;
    Ok(server)
}

fn stop(server: Server, socket: &Path) -> Result<()> {
    drop(server);
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::failed(format!("cannot remove {}: {e}", socket.display()))),
        _ => Ok(()),
    }
}

fn random(uri: &str) -> Result<Random> {
    let mut fio = Command::new("fio");
    fio.args(["--name=read", "--ioengine=nbd", "--rw=randread", "--bs=4k", "--iodepth=16", "--time_based", "--randseed=7", "--output-format=json"]);
    fio.arg(format!("--runtime={RANDOM_S}")).arg(format!("--uri={uri}"));
    let said = run_ok(&mut fio, FIO_LIMIT)?;
    parse(&said).ok_or_else(|| Error::failed(format!("fio said what is not understood: {}", said.chars().take(500).collect::<String>())))
}

fn parse(said: &str) -> Option<Random> {
    // Its engine may print a line of its own before.
    let json: Value = serde_json::from_str(said.get(said.find('{')?..)?).ok()?;
    let read = &json["jobs"][0]["read"];
    let percentile = |p: &str| Some(read["clat_ns"]["percentile"][p].as_f64()? / 1e6);
    Some(Random { per_s: read["iops"].as_f64()?, p50_ms: percentile("50.000000")?, p99_ms: percentile("99.000000")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_fio_are_read() {
        let said = r#"note
{"jobs": [{"read": {"iops": 12.5, "clat_ns": {"percentile": {"50.000000": 1500000, "99.000000": 9000000}}}}]}"#;
        let r = parse(said).expect("understood");
        assert!((r.per_s - 12.5).abs() < 1e-9 && (r.p50_ms - 1.5).abs() < 1e-9 && (r.p99_ms - 9.0).abs() < 1e-9);
        assert!(parse("{}").is_none());
    }
}
