//! Whether what serves a run still answers. A process that is stopped, or a store that hangs, breaks no connection: the guest's reads wait, and nothing
//! else tells of it.
//!
//! - [`Pulse`], the supervisor's: our server, and the storage daemon where there is one, answer whoever connects within [`GREET_LIMIT`]
//! - [`Reads`], the server's: no read is under way for longer than [`READ_LIMIT`]; where one is, a file beside the sockets says so
//!
//! Invariants
//! - Nothing here holds up whoever asks: one thread looks, and where it hangs itself that is known.
//!
//! What it must not do: end anything. A store that hangs comes back, and its reads with it.

use super::folder::{RunSockets, read_json};
use crate::point_export::PointExport;
use cairn_nbd::server::{Export, ExportExtent};
use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Read, Write},
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// For the answer of a server: one on a host under heavy load is slow, and not to be called hung.
const GREET_LIMIT: Duration = Duration::from_secs(10);
/// For a read of the store: minutes pass before NFS gives up, and a guest that waits for so long is worth a word.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Beyond its limit a look may take so much longer before it counts as hung itself.
const GRACE: Duration = Duration::from_secs(2);
/// NBD's fixed newstyle handshake (NBD's doc/proto.md): two magic numbers and the server's flags.
const GREETING_BYTES: usize = 18;
/// Its answer to an option that has nothing to say: magic number, option, type, length.
const REPLY_BYTES: usize = 20;
/// The client's flags (fixed newstyle), then NBD_OPT_ABORT without data: who only hangs up is told of in QEMU's log.
const GOODBYE: [u8; 20] = *b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0";
/// Beside the sockets.
const SLOW: &str = "slow.json";

/// What the supervisor knows.
#[derive(Debug, Default)]
pub struct Pulse {
    shared: Arc<Mutex<Look>>,
}

#[derive(Debug, Default)]
struct Look {
    /// Since when one is under way.
    since: Option<Instant>,
    /// When the last one ended.
    ended: Option<Instant>,
    found: Option<String>,
}

impl Pulse {
    /// What was found last; begins another look where it is time for one.
    pub fn look(&self, sockets: &RunSockets, via_daemon: bool) -> Option<String> {
        let mut state = lock(&self.shared);
        match state.since {
            Some(since) if since.elapsed() > GREET_LIMIT * 2 + GRACE => {
                return Some("whether the point is served cannot be found out: a look at it hangs".into());
            }
            Some(_) => {}
            None if state.ended.is_some_and(|at| at.elapsed() < PAUSE) => {}
            None => {
                state.since = Some(Instant::now());
                let (shared, sockets) = (Arc::clone(&self.shared), sockets.clone());
                std::thread::spawn(move || {
                    let found = find(&sockets, via_daemon);
                    let mut state = lock(&shared);
                    *state = Look { since: None, ended: Some(Instant::now()), found };
                });
            }
        }
        state.found.clone()
    }
}

fn find(sockets: &RunSockets, via_daemon: bool) -> Option<String> {
    let mute = |what: &str| Some(format!("the {what} does not answer within {} s, and the guest's reads wait: is it stopped?", GREET_LIMIT.as_secs()));
    if !greets(&sockets.server(), GREET_LIMIT) {
        return mute("server of the run");
    }
    if via_daemon && !greets(&sockets.daemon(), GREET_LIMIT) {
        return mute("storage daemon");
    }
    read_json(&sockets.dir.join(SLOW)).ok().flatten()
}

/// One that is not there at all is another's business.
fn greets(socket: &Path, limit: Duration) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return true };
    // Both fail for a limit of zero alone.
    let _ = (stream.set_read_timeout(Some(limit)), stream.set_write_timeout(Some(limit)));
    let mut talk = || -> io::Result<()> {
        stream.read_exact(&mut [0; GREETING_BYTES])?;
        stream.write_all(&GOODBYE)?;
        stream.read_exact(&mut [0; REPLY_BYTES])
    };
    // One that turns us away lives.
    talk().err().is_none_or(|e| !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Reads that are under way, by their beginning.
#[derive(Default)]
pub struct Reads {
    under_way: Mutex<BTreeMap<u64, Instant>>,
    next: AtomicU64,
}

impl Reads {
    fn begin(&self) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.under_way).insert(number, Instant::now());
        number
    }

    /// How long the oldest has been under way.
    fn oldest(&self) -> Option<Duration> {
        lock(&self.under_way).values().next().map(Instant::elapsed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A disk whose reads are watched.
pub struct Watched {
    /// The disk.
    pub export: PointExport,
    /// Of all disks.
    pub reads: Arc<Reads>,
}

impl Watched {
    fn timed<T>(&self, work: impl FnOnce() -> T) -> T {
        let number = self.reads.begin();
        let result = work();
        lock(&self.reads.under_way).remove(&number);
        result
    }
}

impl Export for Watched {
    fn size_bytes(&self) -> u64 {
        self.export.size_bytes()
    }

    fn description(&self) -> String {
        self.export.description()
    }

    fn extents(&self, range: Range<u64>, extents_max: usize) -> io::Result<Vec<ExportExtent>> {
        self.timed(|| self.export.extents(range, extents_max))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.timed(|| self.export.read_at(offset, into))
    }

    fn read_ready(&self, offset: u64, into: &mut [u8]) -> bool {
        self.export.read_ready(offset, into)
    }

    fn prefetch(&self, range: Range<u64>) {
        self.export.prefetch(range);
    }
}

/// Says of reads that hang in a file beside the sockets, for as long as they do.
pub fn tell(reads: Arc<Reads>, sockets: &RunSockets, store: &Path) {
    let (path, store) = (sockets.dir.join(SLOW), store.display().to_string());
    // Of an earlier server.
    let _ = fs::remove_file(&path);
    std::thread::spawn(move || {
        let mut told = false;
        loop {
            std::thread::sleep(PAUSE);
            told = tell_once(&reads, &path, &store, told);
        }
    });
}

fn tell_once(reads: &Reads, path: &PathBuf, store: &str, told: bool) -> bool {
    let hangs = reads.oldest().is_some_and(|age| age > READ_LIMIT);
    if hangs && !told {
        let text = format!("a read of the store {store} takes longer than {} s, and the guest waits: does it hang?", READ_LIMIT.as_secs());
        // Written for one reader, who takes half of it for none; the folder may be gone already.
        return serde_json::to_string(&text).is_ok_and(|json| fs::write(path, json).is_ok());
    }
    if !hangs && told {
        let _ = fs::remove_file(path);
    }
    hangs && told
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_server_that_says_nothing_is_noticed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("nbd.sock");
        let listener = UnixListener::bind(&path).expect("binds");
        assert!(!greets(&path, Duration::from_millis(100)), "nobody accepts");
        let (first, _) = listener.accept().expect("that one");
        drop(first);
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("accepts");
            client.write_all(b"NBDMAGICIHAVEOPT\0\x03").expect("writes");
            let mut said = [0; GOODBYE.len()];
            client.read_exact(&mut said).expect("reads");
            assert_eq!(said, GOODBYE);
            client.write_all(&[0; REPLY_BYTES]).expect("writes");
            let (refused, _) = listener.accept().expect("accepts");
            drop(refused);
        });
        assert!(greets(&path, Duration::from_secs(10)));
        assert!(greets(&path, Duration::from_secs(10)), "one that is turned away was answered");
        server.join().expect("ends");
        assert!(greets(&dir.path().join("gone"), Duration::from_secs(1)), "told of elsewhere");
    }

    #[test]
    fn a_read_that_hangs_is_told_until_it_ends() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (path, reads) = (dir.path().join(SLOW), Reads::default());
        let long_ago = Instant::now().checked_sub(READ_LIMIT * 2).expect("the machine runs for longer");
        assert!(!tell_once(&reads, &path, "/s", false) && !path.exists());
        lock(&reads.under_way).insert(1, long_ago);
        let told = tell_once(&reads, &path, "/s", false);
        let said: Option<String> = read_json(&path).expect("JSON");
        assert!(told && said.is_some_and(|text| text.contains("/s takes longer than 10 s")));
        assert!(tell_once(&reads, &path, "/s", told));
        lock(&reads.under_way).clear();
        assert!(!tell_once(&reads, &path, "/s", told) && !path.exists());
    }
}
