//! Our server against the clients people have: nbdinfo, nbdcopy, qemu-img, qemu-io, fio, nbdkit's nbd plugin, and our own.

mod serving;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cairn_nbd::server::{Exports, FileExport, Limits, Listener, Server};
use cairn_nbd::{Address, ConnectOptions, Connection, NbdError, Pool, StructuredReplies, list_exports, list_meta_contexts};
use serving::{SIZE_BYTES, Served, fails, run, text};

/// (offset, length, zero) merged, of a client's map.
fn merged(parts: impl Iterator<Item = (u64, u64, bool)>) -> Vec<(u64, u64, bool)> {
    let mut out: Vec<(u64, u64, bool)> = Vec::new();
    for (offset, length, zero) in parts {
        match out.last_mut() {
            Some(last) if last.2 == zero && last.0 + last.1 == offset => last.1 += length,
            _ => out.push((offset, length, zero)),
        }
    }
    out
}

/// The file system's own word.
fn reference_map(image: &Path) -> Vec<(u64, u64, bool)> {
    let json: serde_json::Value = serde_json::from_str(&run("qemu-img", &["map", "-f", "raw", "--output=json", text(image)])).expect("JSON");
    merged(
        json.as_array()
            .expect("array")
            .iter()
            .map(|e| (e["start"].as_u64().expect("start"), e["length"].as_u64().expect("length"), !e["data"].as_bool().expect("data"))),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_is_told_everything() {
    let served = Served::start(Limits::default());
    let json: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", &served.uri()])).expect("JSON");
    assert_eq!((json["protocol"].as_str(), json["structured"].as_bool(), json["TLS"].as_bool()), (Some("newstyle-fixed"), Some(true), Some(false)), "{json}");
    let export = &json["exports"][0];
    assert_eq!((export["export-name"].as_str(), export["export-size"].as_u64()), (Some("vda"), Some(SIZE_BYTES)), "{export}");
    for (flag, expected) in [
        ("is_read_only", true),
        ("can_multi_conn", true),
        ("can_df", true),
        ("can_flush", true),
        ("can_cache", true),
        ("can_fua", false),
        ("can_trim", false),
        ("can_zero", false),
        ("is_rotational", false),
    ] {
        assert_eq!(export[flag].as_bool(), Some(expected), "{flag}: {export}");
    }
    assert_eq!(
        (export["block_size_minimum"].as_u64(), export["block_size_preferred"].as_u64(), export["block_size_maximum"].as_u64()),
        (Some(1), Some(65536), Some(32 << 20))
    );
    assert_eq!(export["contexts"][0].as_str(), Some("base:allocation"), "{export}");
    let json: serde_json::Value = serde_json::from_str(&run("nbdinfo", &["--json", "--map", &served.uri()])).expect("JSON");
    let parts = json.as_array().expect("array").iter();
    let map = merged(parts.map(|e| (e["offset"].as_u64().expect("offset"), e["length"].as_u64().expect("length"), e["type"].as_u64() == Some(3))));
    assert_eq!(map, reference_map(&served.image));
    let list = run("nbdinfo", &["--list", "--json", &format!("nbd+unix://?socket={}", text(&served.socket))]);
    assert!(list.contains("\"vda\"") && list.contains("raw image"), "{list}");
    let unknown = fails("nbdinfo", &[&format!("nbd+unix:///vdz?socket={}", text(&served.socket))]);
    assert!(unknown.contains("No such file or directory for export: vdz"), "{unknown}");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_by_nbdcopy_and_qemu_img_are_identical() {
    let served = Served::start(Limits::default());
    let reference = std::fs::read(&served.image).expect("reference");
    let same = |name: &str| std::fs::read(served.dir.path().join(name)).expect("copy") == reference;
    let copy = |name: &str| text(&served.dir.path().join(name)).to_owned();
    run("nbdcopy", &[&served.uri(), &copy("a")]);
    assert!(same("a"), "nbdcopy");
    run("nbdcopy", &["--connections=8", "--requests=64", "--request-size=33554432", &served.uri(), &copy("b")]);
    assert!(same("b"), "nbdcopy with the largest requests");
    run("nbdcopy", &["--synchronous", "--allocated", &served.uri(), &copy("c")]);
    assert!(same("c"), "nbdcopy, one request after the other");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &served.uri(), &copy("d")]);
    assert!(same("d"), "qemu-img convert");
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", "-m", "16", "-W", "-S", "0", &served.uri(), &copy("e")]);
    assert!(same("e"), "qemu-img convert out of order");
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &served.uri(), text(&served.image)]);
    let json: serde_json::Value = serde_json::from_str(&run("qemu-img", &["map", "-f", "raw", "--output=json", &served.uri()])).expect("JSON");
    let parts = json.as_array().expect("array").iter();
    let map = merged(parts.map(|e| (e["start"].as_u64().expect("start"), e["length"].as_u64().expect("length"), !e["data"].as_bool().expect("data"))));
    assert_eq!(map, reference_map(&served.image), "qemu-img map");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_reads_and_is_kept_from_writing() {
    let served = Served::start(Limits::default());
    let reference = std::fs::read(&served.image).expect("reference");
    let at = 41 << 20;
    assert_eq!(reference[at], 9);
    run("qemu-io", &["-r", "-f", "raw", "-c", &format!("read -P 9 {at} 4k"), "-c", "read -P 0 10M 5M", "-c", "read 1 333", "-c", "flush", &served.uri()]);
    let refused = fails("qemu-io", &["-f", "raw", "-c", "write 0 4k", &served.uri()]);
    assert!(refused.contains("read-only") || refused.contains("denied") || refused.contains("not permitted"), "{refused}");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_reads_from_many_connections() {
    let served = Served::start(Limits::default());
    let uri = format!("--uri={}", served.uri());
    let common = ["--name=r", "--ioengine=nbd", "--iodepth=32", "--time_based=1", "--runtime=2", "--output-format=json", "--thread"];
    for more in [["--rw=randread", "--bs=4k", "--numjobs=4"], ["--rw=read", "--bs=1m", "--numjobs=2"]] {
        let output = run("fio", &[&common[..], &more[..], &[&uri]].concat());
        // The engine prints a word of its own first.
        let json: serde_json::Value = serde_json::from_str(&output[output.find('{').expect("JSON")..]).expect("JSON");
        for job in json["jobs"].as_array().expect("jobs") {
            assert_eq!(job["error"].as_u64(), Some(0), "{job}");
            assert!(job["read"]["total_ios"].as_u64() > Some(0));
        }
    }
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_through_nbdkit_and_simple_replies_is_identical() {
    let served = Served::start(Limits::default());
    let middle = served.dir.path().join("middle");
    let child = Command::new("nbdkit").args(["-f", "-r", "-U", text(&middle), "nbd", &format!("uri={}", served.uri())]).spawn().expect("nbdkit");
    let mut middle_server = Killed(child);
    while std::os::unix::net::UnixStream::connect(&middle).is_err() {
        assert!(middle_server.0.try_wait().expect("wait").is_none(), "nbdkit ended");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &format!("nbd+unix:///?socket={}", text(&middle)), text(&served.image)]);
    drop(middle_server);
    let reference = std::fs::read(&served.image).expect("reference");
    let mut options = served.options();
    options.structured = StructuredReplies::Never;
    let mut connection = Connection::connect(&options).await.expect("connect");
    let mut all = vec![0xee; reference.len()];
    connection.read_at(0, &mut all).await.expect("read");
    assert!(all == reference, "simple replies");
    connection.close().await;
    served.server.stop().await;
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_reads_maps_and_is_told_of_errors() {
    let served = Served::start(Limits::default());
    let reference = std::fs::read(&served.image).expect("reference");
    let pool = Pool::connect(served.options().context("base:allocation"), 4).await.expect("pool");
    let mut all = vec![0xee; reference.len()];
    pool.read_at(0, &mut all).await.expect("read");
    assert!(all == reference);
    let mut cursor = pool.map("base:allocation", 0, 0..SIZE_BYTES);
    let mut map = Vec::new();
    while let Some(extent) = cursor.next().await.expect("map") {
        map.push((extent.range.start, extent.range.end - extent.range.start, extent.status != 0));
    }
    assert_eq!(merged(map.into_iter()), reference_map(&served.image));
    pool.close().await;
    assert_eq!(list_exports(&served.options()).await.expect("list"), ["vda"]);
    assert_eq!(list_meta_contexts(&served.options(), "").await.expect("contexts"), ["base:allocation"]);
    let missing = Connection::connect(&served.options().context("qemu:dirty-bitmap:b")).await.expect_err("unknown context");
    assert!(matches!(missing, NbdError::ContextMissing { .. }), "{missing}");
    // The image is cut off behind the server's back: reads fail, the connection stays.
    let mut connection = Connection::connect(&served.options()).await.expect("connect");
    std::fs::OpenOptions::new().write(true).open(&served.image).expect("open").set_len(1 << 20).expect("cut");
    let error = connection.read_at(2 << 20, &mut [0; 4096]).await.expect_err("gone");
    assert!(matches!(error, NbdError::Server { .. }), "{error}");
    connection.read_at(0, &mut [0; 4096]).await.expect("the rest is there");
    connection.close().await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_exports_on_several_listeners() {
    let dir = tempfile::tempdir().expect("dir");
    let first = serving::image(dir.path());
    let second = dir.path().join("second");
    std::fs::write(&second, vec![5; 1_000_001]).expect("write");
    let empty = dir.path().join("empty");
    std::fs::write(&empty, b"").expect("write");
    let mut exports = Exports::new();
    for (name, path) in [("vda", &first), ("vdb", &second), ("empty", &empty)] {
        exports.add(name, Arc::new(FileExport::open(path).expect("open"))).expect("name");
    }
    let listeners = vec![
        Listener::unix(&serving::unix(&dir.path().join("s"))).expect("unix"),
        Listener::tcp_loopback("127.0.0.1:0".parse().expect("address")).await.expect("tcp"),
    ];
    let port = listeners[1].tcp_address().expect("TCP").port();
    let server = Server::start(listeners, exports, Limits::default()).expect("start");
    let uri = format!("nbd://127.0.0.1:{port}/vdb");
    run("nbdcopy", &[&uri, text(&dir.path().join("copy"))]);
    assert!(std::fs::read(dir.path().join("copy")).expect("copy") == vec![5; 1_000_001], "an odd size");
    let size = run("nbdinfo", &["--size", &format!("nbd+unix:///empty?socket={}", text(&dir.path().join("s")))]);
    assert_eq!(size.trim(), "0");
    let options = ConnectOptions::new(Address::Tcp { host: "127.0.0.1".to_owned(), port }, "vda");
    assert_eq!(list_exports(&options).await.expect("list"), ["empty", "vda", "vdb"]);
    let mut connection = Connection::connect(&options).await.expect("connect");
    let mut bytes = vec![0; 4096];
    connection.read_at(0, &mut bytes).await.expect("read");
    assert!(bytes == std::fs::read(&first).expect("reference")[..4096]);
    let default = ConnectOptions { export: String::new(), ..options };
    assert!(matches!(Connection::connect(&default).await.expect_err("no default among three"), NbdError::NoSuchExport { .. }));
    server.stop().await;
}
