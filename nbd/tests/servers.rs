//! Against the servers people have: qemu-nbd, qemu-storage-daemon, nbdkit; `qemu-img`, `qemu-io` and `nbdinfo` as oracles.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cairn_nbd::codec::transmission::{STATE_DIRTY, STATE_ZERO};
use cairn_nbd::{Address, ConnectOptions, Connection, NbdError, Pool, TimeLimits, list_exports, list_meta_contexts};

const SIZE_BYTES: u64 = 64 << 20;
const START_LIMIT: Duration = Duration::from_secs(10);

/// A server process, killed by its own handle when the test ends.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve(socket: &Path, program: &str, args: &[&str]) -> Server {
    let child = Command::new(program).args(args).stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{program}: {e}"));
    let server = Server { child, socket: socket.to_owned() };
    let start = Instant::now();
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(start.elapsed() < START_LIMIT, "{program} does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

impl Server {
    fn options(&self, export: &str) -> ConnectOptions {
        ConnectOptions::new(Address::Unix(self.socket.clone()), export)
    }
}

/// A qcow2 with data, explicit zeroes, holes, and a bitmap "b" that saw the second half of the writes.
fn image(dir: &Path) -> PathBuf {
    let path = dir.join("disk.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "64M"]);
    run("qemu-io", &["-c", "write -P 1 0 1M", "-c", "write -P 2 5M 192k", "-c", "write -z 8M 1M", text(&path)]);
    run("qemu-img", &["bitmap", "--add", text(&path), "b"]);
    run("qemu-io", &["-c", "write -P 3 10M 3M", "-c", "write -z 512k 64k", "-c", "write -P 4 63M 1M", text(&path)]);
    path
}

/// (offset, length, type) as `nbdinfo --map` tells.
fn oracle_map(socket: &Path, export: &str, context: &str) -> Vec<(u64, u64, u64)> {
    let uri = format!("nbd+unix:///{export}?socket={}", text(socket));
    let json: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &format!("--map={context}"), &uri])).expect("JSON");
    let field = |entry: &serde_json::Value, name: &str| entry[name].as_u64().expect("number");
    let raw = json.as_array().expect("array").iter().map(|e| (field(e, "offset"), field(e, "length"), field(e, "type")));
    let mut merged: Vec<(u64, u64, u64)> = Vec::new();
    for (offset, length, kind) in raw {
        match merged.last_mut() {
            Some(last) if last.2 == kind => last.1 += length,
            _ => merged.push((offset, length, kind)),
        }
    }
    merged
}

async fn our_map(pool: &Pool, context: &str, granularity: u32) -> Vec<(u64, u64, u64)> {
    let mut cursor = pool.map(context, granularity, 0..pool.info().size_bytes);
    let mut out = Vec::new();
    while let Some(extent) = cursor.next().await.expect("map") {
        out.push((extent.range.start, extent.range.end - extent.range.start, u64::from(extent.status)));
    }
    out
}

async fn compare_content(options: ConnectOptions, raw: &Path) {
    let reference = std::fs::read(raw).expect("reference");
    let pool = Pool::connect(options, 4).await.expect("pool");
    assert_eq!(pool.info().size_bytes, SIZE_BYTES);
    let mut ours = vec![0xee; reference.len()];
    pool.read_at(0, &mut ours).await.expect("read all");
    assert!(ours == reference, "content differs");
    // Odd places and lengths.
    for (offset, length) in [(1, 1), (65535, 2), (12345, 300_001), (SIZE_BYTES - 3, 3)] {
        let mut piece = vec![0; length];
        pool.read_at(offset, &mut piece).await.expect("odd read");
        let at = usize::try_from(offset).expect("64 MiB");
        assert!(piece == reference[at..at + length], "{length} bytes at {offset}");
    }
    let beyond = pool.read_at(SIZE_BYTES - 1, &mut [0; 2]).await.expect_err("beyond the end");
    assert!(matches!(beyond, NbdError::OutOfRange { .. }), "{beyond}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_nbd_serves_content_map_and_bitmap() {
    let dir = tempfile::tempdir().expect("dir");
    let disk = image(dir.path());
    let raw = dir.path().join("disk.raw");
    run("qemu-img", &["convert", "-O", "raw", text(&disk), text(&raw)]);
    let socket = dir.path().join("s");
    let server = serve(&socket, "qemu-nbd", &["-t", "-r", "-e", "8", "-A", "-B", "b", "-x", "vda", "-k", text(&socket), "-f", "qcow2", text(&disk)]);
    compare_content(server.options("vda"), &raw).await;
    let options = server.options("vda").context("base:allocation").context("qemu:dirty-bitmap:b");
    let pool = Pool::connect(options, 4).await.expect("pool");
    for (context, granularity) in [("base:allocation", 0), ("qemu:dirty-bitmap:b", 65536)] {
        assert_eq!(our_map(&pool, context, granularity).await, oracle_map(&socket, "vda", context), "{context}");
    }
    let dirty: u64 = our_map(&pool, "qemu:dirty-bitmap:b", 65536).await.iter().filter(|e| e.2 == u64::from(STATE_DIRTY)).map(|e| e.1).sum();
    assert_eq!(dirty, (3 << 20) + (64 << 10) + (1 << 20), "the bitmap saw three writes");
    let map = our_map(&pool, "base:allocation", 0).await;
    assert!(map.iter().any(|e| e.0 == 512 << 10 && e.1 == 64 << 10 && e.2 & u64::from(STATE_ZERO) != 0), "zeroes written over data show: {map:?}");
    assert_eq!(list_exports(&server.options("")).await.expect("list"), vec!["vda".to_owned()]);
    let contexts = list_meta_contexts(&server.options("vda"), "").await.expect("contexts");
    assert!(contexts.contains(&"qemu:dirty-bitmap:b".to_owned()), "{contexts:?}");
    let missing = Connection::connect(&server.options("vda").context("qemu:dirty-bitmap:none")).await.expect_err("missing");
    assert!(matches!(missing, NbdError::ContextMissing { .. }), "{missing}");
    let missing = Connection::connect(&server.options("vdz")).await.expect_err("missing");
    assert!(matches!(missing, NbdError::NoSuchExport { .. }), "{missing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_storage_daemon_takes_writes() {
    let dir = tempfile::tempdir().expect("dir");
    let raw = dir.path().join("disk.raw");
    std::fs::File::create(&raw).expect("create").set_len(SIZE_BYTES).expect("size");
    let socket = dir.path().join("s");
    let blockdev = format!("driver=file,node-name=f,filename={},discard=unmap", text(&raw));
    let nbd = format!("addr.type=unix,addr.path={}", text(&socket));
    let server = serve(
        &socket,
        "qemu-storage-daemon",
        &[
            "--blockdev",
            &blockdev,
            "--blockdev",
            "driver=raw,node-name=r,file=f,discard=unmap",
            "--nbd-server",
            &nbd,
            "--export",
            "type=nbd,id=e,node-name=r,name=vda,writable=on",
        ],
    );
    let mut connection = Connection::connect(&server.options("vda").context("base:allocation")).await.expect("connect");
    let block: Vec<u8> = (0..3 << 20).map(|i: u32| (i % 251) as u8).collect();
    connection.write_at(1 << 20, &block).await.expect("write");
    connection.write_zeroes(2 << 20, 65536, true).await.expect("zeroes");
    connection.trim(32 << 20, 1 << 20).await.expect("trim");
    connection.flush().await.expect("flush");
    let mut expected = vec![0; usize::try_from(SIZE_BYTES).expect("64 MiB")];
    expected[1 << 20..4 << 20].copy_from_slice(&block);
    expected[2 << 20..(2 << 20) + 65536].fill(0);
    let mut back = vec![0; 3 << 20];
    connection.read_at(1 << 20, &mut back).await.expect("read");
    assert!(back == expected[1 << 20..4 << 20]);
    let unaligned = connection.write_at(SIZE_BYTES, &[0; 512]).await.expect_err("beyond");
    assert!(matches!(unaligned, NbdError::OutOfRange { .. }), "{unaligned}");
    let status = connection.block_status(0, 1 << 20).await.expect("status");
    assert_eq!(status[0].runs.iter().map(|run| run.0).sum::<u64>(), 1 << 20);
    connection.close().await;
    drop(server);
    assert!(std::fs::read(&raw).expect("image") == expected, "the image holds what was written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdkit_with_constraints_serves_the_same_content() {
    let dir = tempfile::tempdir().expect("dir");
    let raw = dir.path().join("disk.raw");
    run("qemu-img", &["convert", "-O", "raw", text(&image(dir.path())), text(&raw)]);
    let socket = dir.path().join("s");
    let file = format!("file={}", text(&raw));
    let args = ["-f", "-r", "-U", text(&socket), "--filter=blocksize-policy", "file", &file];
    let server = serve(
        &socket,
        "nbdkit",
        &[&args[..], &["blocksize-minimum=4096", "blocksize-preferred=8192", "blocksize-maximum=32768", "blocksize-error-policy=error"]].concat(),
    );
    compare_content(server.options(""), &raw).await;
    drop(server);
    let socket = dir.path().join("t");
    let server = serve(&socket, "nbdkit", &["-f", "-r", "--no-sr", "-U", text(&socket), "file", &file]);
    compare_content(server.options(""), &raw).await;
    let refused = Connection::connect(&server.options("").context("base:allocation")).await.expect_err("no structured replies");
    assert!(matches!(refused, NbdError::NoStructuredReplies { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_serves_as_well() {
    let dir = tempfile::tempdir().expect("dir");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
    let socket = dir.path().join("none");
    let child = Command::new("nbdkit").args(["-f", "-i", "127.0.0.1", "-p", &port.to_string(), "pattern", "64M"]).spawn().expect("nbdkit");
    let server = Server { child, socket };
    let options = ConnectOptions::new(Address::Tcp { host: "127.0.0.1".to_owned(), port }, "");
    let start = Instant::now();
    let mut connection = loop {
        match Connection::connect(&options).await {
            Ok(connection) => break connection,
            Err(NbdError::Connect { .. }) if start.elapsed() < START_LIMIT => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut buffer = vec![0; 1 << 20];
    connection.read_at(8 << 20, &mut buffer).await.expect("read");
    // The pattern plugin writes the offset, big-endian, every 8 bytes.
    for (index, word) in buffer.chunks_exact(8).enumerate() {
        assert_eq!(word, ((8 << 20) + index as u64 * 8).to_be_bytes());
    }
    connection.close().await;
    drop(server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_delays_of_a_server_end_in_time() {
    let dir = tempfile::tempdir().expect("dir");
    let socket = dir.path().join("s");
    let trigger = dir.path().join("trigger");
    let errors = format!("error-file={}", text(&trigger));
    let args = ["-f", "-U", text(&socket), "--filter=error", "memory", "64M", "error=EIO", "error-pread-rate=100%"];
    let server = serve(&socket, "nbdkit", &[&args[..], &[&errors]].concat());
    let pool = Pool::connect(server.options(""), 4).await.expect("pool");
    let mut buffer = vec![1; 1 << 20];
    pool.read_at(0, &mut buffer).await.expect("no error yet");
    std::fs::write(&trigger, b"").expect("trigger");
    let error = pool.read_at(0, &mut buffer).await.expect_err("EIO");
    assert!(matches!(error, NbdError::Server { .. }), "{error}");
    std::fs::remove_file(&trigger).expect("trigger");
    pool.read_at(0, &mut buffer).await.expect("the pool recovers");
    assert!(buffer.iter().all(|b| *b == 0));
    drop(server);
    let broken = pool.read_at(0, &mut buffer).await.expect_err("the server is gone");
    assert!(matches!(broken, NbdError::Stream { .. } | NbdError::Connect { .. }), "{broken}");

    let socket = dir.path().join("t");
    let slow = serve(&socket, "nbdkit", &["-f", "-U", text(&socket), "--filter=delay", "memory", "64M", "rdelay=30"]);
    let mut options = slow.options("");
    options.limits = TimeLimits { reply: Duration::from_millis(300), ..TimeLimits::default() };
    let pool = Pool::connect(options, 4).await.expect("pool");
    let start = Instant::now();
    let error = pool.read_at(0, &mut buffer).await.expect_err("stalled");
    assert!(matches!(error, NbdError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
