//! QEMU's NBD server is stopped while a pool is connected: it must go on answering.
//!
//! QEMU 7.2 hangs for good, guest and all, when `nbd-server-stop` meets a client that still negotiates (docs/capture.md). A pool that has
//! opened all its connections leaves no such client.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_nbd::{Address, ConnectOptions, Pool};

const LIMIT: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 4;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < LIMIT, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One command; events in between are passed over.
fn execute(monitor: &mut BufReader<UnixStream>, command: &serde_json::Value) -> serde_json::Value {
    writeln!(monitor.get_mut(), "{command}").expect("sent");
    loop {
        let mut line = String::new();
        monitor.read_line(&mut line).expect("the monitor answers in time");
        let reply: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        if reply.get("return").is_some() || reply.get("error").is_some() {
            return reply;
        }
    }
}

/// Server ends of connections to a unix socket.
fn connected(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/net/unix").expect("table of sockets");
    let path = path.to_str().expect("temporary paths are UTF-8");
    table.lines().filter(|line| line.ends_with(path) && line.split_whitespace().nth(5) == Some("03")).count()
}

#[test]
fn a_stopped_server_meets_no_negotiation_of_a_full_pool() {
    let dir = tempfile::tempdir().expect("dir");
    let (qmp, nbd) = (dir.path().join("qmp"), dir.path().join("nbd"));
    let chardev = format!("socket,id=q,path={},server=on,wait=off", qmp.display());
    let listen = format!("addr.type=unix,addr.path={}", nbd.display());
    let arguments = ["--blockdev", "null-co,node-name=n,size=1048576", "--chardev", &chardev, "--monitor", "chardev=q", "--nbd-server", &listen];
    let export = ["--export", "type=nbd,id=e,node-name=n,name=vda"];
    let child = Command::new("qemu-storage-daemon").args(arguments).args(export).stdin(Stdio::null()).spawn().expect("qemu-storage-daemon");
    let _daemon = Daemon(child);

    let mut monitor = BufReader::new(connect(&qmp));
    monitor.get_ref().set_read_timeout(Some(LIMIT)).expect("limit");
    execute(&mut monitor, &serde_json::json!({"execute": "qmp_capabilities"}));

    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let pool = runtime.block_on(async {
        let pool = Pool::connect(ConnectOptions::new(Address::Unix(nbd.clone()), "vda"), CONNECTIONS).await.expect("connects");
        pool.open_all().await.expect("connects as often as it may");
        pool
    });
    assert_eq!(connected(&nbd), CONNECTIONS, "a connection is left for later");

    let stopped = execute(&mut monitor, &serde_json::json!({"execute": "nbd-server-stop"}));
    assert!(stopped.get("return").is_some(), "{stopped}");
    let after = execute(&mut monitor, &serde_json::json!({"execute": "query-version"}));
    assert!(after.get("return").is_some(), "{after}");
    let read = runtime.block_on(pool.read_at(0, &mut [0; 512]));
    assert!(read.is_err(), "the server is gone");
}
