//! What the suites of the program share: a store of its own, the program itself, and ways to hurt real files.
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Nothing here takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// How the program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    /// Fails unless it ended with this code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    /// What it said on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {:?}", self.out))
    }
}

/// A store in a folder of its own, and a state of its own.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    /// Encrypted, empty.
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().expect("temp dir") };
        place.run(&["init", &place.store().display().to_string()]).expect(0);
        place
    }
    /// A library that moves the clock of the program it is loaded into, made with the host's C compiler.
    pub fn clock_library(&self) -> PathBuf {
        let (source, library) = (self.path("clock.c"), self.path("clock.so"));
        let code = "#define _GNU_SOURCE\n#include <time.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
        int clock_gettime(clockid_t id, struct timespec *t) {\n\
              int r = (int)syscall(SYS_clock_gettime, id, t);\n\
              if (r == 0 && id == CLOCK_REALTIME) t->tv_sec += atol(getenv(\"CLOCK_SHIFT_S\"));\n\
              return r;\n}\n";
        fs::write(&source, code).expect("writes");
        let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().expect("cc runs");
        assert!(made.success(), "cc");
        library
    }
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// The program on this store.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
        for variable in ["CAIRN_PASSPHRASE_FILE", "CAIRN_LOG", "LIBVIRT_DEFAULT_URI"] {
            command.env_remove(variable);
        }
        command.env("CAIRN_STORE", self.store()).env("CAIRN_KEY_FILE", self.path("key")).env("CAIRN_STATE_DIR", self.path("state"));
        command.args(args).stdin(Stdio::null());
        command
    }
    pub fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }
    /// A point of an image with this content; its id.
    pub fn save(&self, name: &str, content: &[u8]) -> String {
        let image = self.path("image.raw");
        fs::write(&image, content).expect("writes");
        let saved = self.run(&["backup-image", &image.display().to_string(), "--name", name, "--json"]).expect(0).json();
        saved["id"].as_str().expect("an id").to_owned()
    }
    /// Every file below a folder of the store, sorted.
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut out = Vec::new();
        walk(&self.store().join(below), &mut out);
        out.sort();
        out
    }
    /// Records of sessions and collections; one that is just being written is none yet.
    pub fn records(&self) -> usize {
        let is_whole = |f: &&PathBuf| !f.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        self.files("gc").iter().filter(is_whole).count()
    }
    /// Every folder of the store.
    pub fn folders(&self) -> Vec<PathBuf> {
        let mut out: Vec<PathBuf> = vec![self.store()];
        let mut n = 0;
        while let Some(dir) = out.get(n).cloned() {
            out.extend(fs::read_dir(dir).expect("lists").map(|e| e.expect("an entry").path()).filter(|p| p.is_dir()));
            n += 1;
        }
        out
    }
    /// The one file below a folder whose name contains the text.
    pub fn file(&self, below: &str, contains: &str) -> PathBuf {
        let found: Vec<_> = self.files(below).into_iter().filter(|f| f.display().to_string().contains(contains)).collect();
        assert_eq!(found.len(), 1, "{below} {contains}: {found:?}");
        found.into_iter().next().expect("counted")
    }
}

/// Runs a command that was set up; one that does not end is killed and fails.
pub fn ended(command: &mut Command) -> Ended {
    let mut child = command.spawn().expect("starts");
    let began = Instant::now();
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let status = loop {
        match child.try_wait().expect("waits") {
            Some(status) => break status,
            None if began.elapsed() > LIMIT => {
                child.kill().expect("our own child");
                panic!("{command:?} hangs");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let text =
        |reader: Option<std::thread::JoinHandle<Vec<u8>>>| reader.map_or_else(String::new, |r| String::from_utf8_lossy(&r.join().expect("reads")).into_owned());
    // A signal shows as shells show it.
    let code = status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).expect("no code, so a signal"));
    Ended { code, out: text(out), err: text(err) }
}

fn drain(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("reads");
        bytes
    })
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_type().expect("type").is_dir() { walk(&e.path(), out) } else { out.push(e.path()) }
    }
}

/// From now on every read of this file ends with EIO, as on a disk with a bad sector: no address so low is mapped in any process.
pub fn make_unreadable(file: &Path) {
    fs::remove_file(file).expect("removes");
    std::os::unix::fs::symlink("/proc/self/mem", file).expect("links");
}

/// One byte in the middle is another.
pub fn flip(file: &Path) {
    let mut bytes = fs::read(file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(file, bytes).expect("writes");
}

/// Bytes that do not compress, the same for a seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}
