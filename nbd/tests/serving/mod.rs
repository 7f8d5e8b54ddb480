//! A server of ours over a real image, and what its tests need.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cairn_nbd::server::{Exports, FileExport, Limits, Listener, Server, UnixSocket};
use cairn_nbd::{Address, ConnectOptions};

pub const SIZE_BYTES: u64 = 48 << 20;

pub struct Served {
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    pub image: PathBuf,
    pub server: Server,
}

/// Data of every kind: long runs, short ones, an odd end, holes between.
pub fn image(dir: &Path) -> PathBuf {
    let path = dir.join("disk.raw");
    let file = File::create(&path).expect("create");
    file.set_len(SIZE_BYTES).expect("size");
    let mut state = 7_u64;
    for (at, length) in [(0, 4096), (1 << 20, 3 << 20), (5 << 20, 65536), (20 << 20, 9 << 20), (SIZE_BYTES - 12288, 12288)] {
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        for word in bytes.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.copy_from_slice(&state.to_be_bytes());
        }
        file.write_all_at(&bytes, at).expect("write");
    }
    for at in (40 << 20..42 << 20).step_by(16384) {
        file.write_all_at(&[9; 4096], at).expect("write");
    }
    path
}

pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

pub fn unix(path: &Path) -> UnixSocket {
    UnixSocket { path: path.to_owned(), owner: None, allowed_uids: vec![own_uid()] }
}

impl Served {
    pub fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let image = image(dir.path());
        let mut exports = Exports::new();
        exports.add("vda", Arc::new(FileExport::open(&image).expect("open"))).expect("name");
        Self::with(dir, image, exports, limits)
    }

    pub fn with(dir: tempfile::TempDir, image: PathBuf, exports: Exports, limits: Limits) -> Self {
        let socket = dir.path().join("s");
        let listener = Listener::unix(&unix(&socket)).expect("listen");
        let server = Server::start(vec![listener], exports, limits).expect("start");
        Self { dir, socket, image, server }
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///vda?socket={}", text(&self.socket))
    }

    pub fn options(&self) -> ConnectOptions {
        ConnectOptions::new(Address::Unix(self.socket.clone()), "vda")
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// A program that must succeed; its output.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout").arg("120").arg(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

/// A program that must fail; what it says.
pub fn fails(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout").arg("120").arg(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(!output.status.success() && output.status.code() != Some(124), "{program} {args:?} succeeded or hung");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
