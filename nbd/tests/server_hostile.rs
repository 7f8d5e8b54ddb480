//! Clients that want to break our server: each ends alone, in time, and an honest client beside it does not notice.

mod serving;

use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cairn_nbd::codec::handshake::{self, encode_go, encode_meta_context, encode_option, option, reply};
use cairn_nbd::codec::transmission::{Request, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command, command_flag, errno};
use cairn_nbd::server::{Export, ExportExtent, Exports, Limits, Listener, Server, ServerError};
use cairn_nbd::{Connection, NbdError};
use serving::{SIZE_BYTES, Served, unix};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client that says what it likes.
struct Raw(UnixStream);

impl Raw {
    /// Connects and answers the greeting.
    fn greeted(served: &Served) -> Self {
        let mut raw = Self::silent(served);
        let greeting = raw.take(18);
        assert_eq!(greeting[..8], handshake::GREETING_MAGIC.to_be_bytes());
        raw.say(&[0, 0, 0, 3]);
        raw
    }

    fn silent(served: &Served) -> Self {
        let stream = UnixStream::connect(&served.socket).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("limit");
        stream.set_write_timeout(Some(PATIENCE)).expect("limit");
        Self(stream)
    }

    /// In transmission.
    fn ready(served: &Served, structured: bool, allocation: bool) -> Self {
        let mut raw = Self::greeted(served);
        if structured {
            assert_eq!(raw.ask(option::STRUCTURED_REPLY, &[]).0, reply::ACK);
        }
        if allocation {
            let payload = encode_meta_context("vda", &["base:allocation".to_owned()]).expect("short");
            assert_eq!(raw.ask(option::SET_META_CONTEXT, &payload).0, reply::ACK);
        }
        assert_eq!(raw.ask(option::GO, &encode_go("vda", &[]).expect("short")).0, reply::ACK);
        raw
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("write");
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("read");
        bytes
    }

    /// The kind of an option's last reply, and how many came before.
    fn ask(&mut self, option: u32, payload: &[u8]) -> (u32, usize) {
        self.say(&encode_option(option, payload));
        for before in 0.. {
            let header = self.take(20);
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4"));
            assert_eq!(word(8), option);
            self.take(word(16) as usize);
            if word(12) == reply::ACK || word(12) & reply::ERROR_BIT != 0 {
                return (word(12), before);
            }
        }
        unreachable!("the loop ends by return")
    }

    fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.say(&Request { flags, command, cookie, offset, length }.encode());
    }

    /// One structured reply to its end: cookie, error, data bytes.
    fn reply(&mut self) -> (u64, u32, usize) {
        let (mut error, mut bytes) = (0, 0);
        loop {
            let header = self.take(20);
            assert_eq!(header[..4], STRUCTURED_REPLY_MAGIC.to_be_bytes());
            let (flags, kind) = (u16::from_be_bytes([header[4], header[5]]), u16::from_be_bytes([header[6], header[7]]));
            let payload = self.take(u32::from_be_bytes(header[16..20].try_into().expect("4")) as usize);
            match kind {
                chunk::OFFSET_DATA => bytes += payload.len() - 8,
                chunk::OFFSET_HOLE => bytes += u32::from_be_bytes(payload[8..12].try_into().expect("4")) as usize,
                kind if kind & chunk::ERROR_BIT != 0 => error = u32::from_be_bytes(payload[..4].try_into().expect("4")),
                _ => {}
            }
            if flags & 1 != 0 {
                return (u64::from_be_bytes(header[8..16].try_into().expect("8")), error, bytes);
            }
        }
    }

    /// The server closes; how long that took.
    fn closed(mut self) -> Duration {
        let start = Instant::now();
        let mut rest = [0; 65536];
        loop {
            match self.0.read(&mut rest) {
                Ok(0) => return start.elapsed(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return start.elapsed(),
                Err(error) => panic!("not closed: {error}"),
            }
        }
    }
}

/// An honest client must be served while the others do what they do.
async fn honest(served: &Served) {
    let start = Instant::now();
    let mut connection = Connection::connect(&served.options()).await.expect("an honest client connects");
    let mut bytes = vec![0; 1 << 20];
    connection.read_at(20 << 20, &mut bytes).await.expect("an honest client reads");
    assert!(bytes.iter().any(|b| *b != 0));
    connection.close().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    status.split(' ').nth(1).expect("resident").parse::<u64>().expect("number") * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_end_their_connection_at_once() {
    let served = Served::start(Limits::default());
    let option = |magic: u64, option: u32, length: u32| [&magic.to_be_bytes()[..], &option.to_be_bytes(), &length.to_be_bytes()].concat();
    let mut flags = Raw::silent(&served);
    flags.say(&[0, 0, 0, 0x80]);
    assert!(flags.closed() < Duration::from_secs(5), "unknown client flags");
    for (what, said) in [
        ("wrong option magic", option(1, option::LIST, 0)),
        ("a huge option", option(handshake::OPTION_MAGIC, option::GO, u32::MAX)),
        ("an option above its limit", option(handshake::OPTION_MAGIC, 99, 65537)),
        ("EXPORT_NAME without an export", encode_option(option::EXPORT_NAME, b"vdz")),
        ("EXPORT_NAME that is no text", encode_option(option::EXPORT_NAME, &[0xff])),
        ("a request instead of an option", Request { flags: 0, command: 0, cookie: 1, offset: 0, length: 1 }.encode().to_vec()),
    ] {
        let mut raw = Raw::greeted(&served);
        raw.say(&said);
        assert!(raw.closed() < Duration::from_secs(5), "{what}");
    }
    let mut raw = Raw::ready(&served, true, false);
    raw.say(&[0x25; 28]);
    assert!(raw.closed() < Duration::from_secs(5), "wrong request magic");
    let mut raw = Raw::ready(&served, true, false);
    raw.request(command::WRITE, 0, 1, 0, (32 << 20) + 1);
    assert!(raw.closed() < Duration::from_secs(5), "a write that is not even skipped");
    let mut raw = Raw::greeted(&served);
    let many: Vec<u8> = (0..1000).flat_map(|_| encode_option(99, &[])).collect();
    raw.0.write_all(&many).ok();
    assert!(raw.closed() < Duration::from_secs(5), "too many options");
    honest(&served).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_refused_one_by_one() {
    let served = Served::start(Limits::default());
    let mut raw = Raw::greeted(&served);
    let go = encode_go("vda", &[]).expect("short");
    let contexts = |names: &[&str]| encode_meta_context("vda", &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("short");
    assert_eq!(raw.ask(99, b"anything").0, reply::ERR_UNSUP);
    assert_eq!(raw.ask(option::STARTTLS, &[]).0, reply::ERR_POLICY);
    assert_eq!(raw.ask(option::LIST, b"x").0, reply::ERR_INVALID);
    assert_eq!(raw.ask(option::LIST, &[]), (reply::ACK, 1));
    assert_eq!(raw.ask(option::SET_META_CONTEXT, &contexts(&["base:allocation"])).0, reply::ERR_INVALID, "without structured replies");
    assert_eq!(raw.ask(option::STRUCTURED_REPLY, b"x").0, reply::ERR_INVALID);
    assert_eq!(raw.ask(option::STRUCTURED_REPLY, &[]).0, reply::ACK);
    for payload in [&go[..go.len() - 1], &[&go[..], &[0]].concat(), &[0xff; 6], &[]] {
        assert_eq!(raw.ask(option::INFO, payload).0 & reply::ERROR_BIT, reply::ERROR_BIT, "{payload:?}");
    }
    assert_eq!(raw.ask(option::INFO, &encode_go("vdz", &[]).expect("short")).0, reply::ERR_UNKNOWN);
    assert_eq!(raw.ask(option::INFO, &encode_go("vda", &[0, 1, 2, 3, 77]).expect("short")), (reply::ACK, 4));
    assert_eq!(raw.ask(option::LIST_META_CONTEXT, &contexts(&[])), (reply::ACK, 1));
    assert_eq!(raw.ask(option::LIST_META_CONTEXT, &contexts(&["base:"])), (reply::ACK, 1));
    assert_eq!(raw.ask(option::LIST_META_CONTEXT, &contexts(&["qemu:"])), (reply::ACK, 0));
    assert_eq!(raw.ask(option::SET_META_CONTEXT, &contexts(&["base:"])), (reply::ACK, 0), "SET knows no wildcard");
    assert_eq!(raw.ask(option::SET_META_CONTEXT, &contexts(&["base:allocation", "x:y"])), (reply::ACK, 1));
    let mut too_many = contexts(&[]);
    let at = too_many.len() - 4;
    too_many[at..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(raw.ask(option::SET_META_CONTEXT, &too_many).0, reply::ERR_TOO_BIG);
    // The failed SET took the choice back.
    assert_eq!(raw.ask(option::GO, &go), (reply::ACK, 1));
    raw.request(command::BLOCK_STATUS, 0, 5, 0, 4096);
    assert_eq!(raw.reply(), (5, errno::EINVAL, 0));
    let mut raw = Raw::greeted(&served);
    assert_eq!(raw.ask(option::ABORT, &[]).0, reply::ACK);
    assert!(raw.closed() < Duration::from_secs(5));
    // The old way in: 8 bytes of size, 2 of flags, 124 zeroes unless they were declined.
    let mut raw = Raw::silent(&served);
    raw.take(18);
    raw.say(&[0, 0, 0, 1]);
    raw.say(&encode_option(option::EXPORT_NAME, b"vda"));
    assert_eq!(raw.take(134)[..8], SIZE_BYTES.to_be_bytes());
    raw.request(command::READ, 0, 3, 1 << 20, 512);
    assert_eq!(raw.take(16), [&SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &3_u64.to_be_bytes()].concat());
    assert!(raw.take(512).iter().any(|b| *b != 0));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_refused_with_the_right_error_and_the_next_is_served() {
    let served = Served::start(Limits::default());
    let mut raw = Raw::ready(&served, true, true);
    let df = command_flag::DF;
    for (what, command, flags, offset, length, expected) in [
        ("beyond the end", command::READ, 0, SIZE_BYTES - 1, 2, errno::EINVAL),
        ("an offset that overflows", command::READ, 0, u64::MAX, 2, errno::EINVAL),
        ("above the maximum", command::READ, 0, 0, (32 << 20) + 1, errno::EOVERFLOW),
        ("DF above a piece", command::READ, df, 0, (512 << 10) + 1, errno::EOVERFLOW),
        ("FUA was not offered", command::READ, command_flag::FUA, 0, 512, errno::EINVAL),
        ("status of nothing", command::BLOCK_STATUS, 0, 0, 0, errno::EINVAL),
        ("status beyond the end", command::BLOCK_STATUS, 0, 1, u32::MAX, errno::EINVAL),
        ("cache beyond the end", command::CACHE, 0, SIZE_BYTES, 1, errno::EINVAL),
        ("trim", command::TRIM, 0, 0, 4096, errno::EPERM),
        ("zeroes", command::WRITE_ZEROES, 0, 0, 4096, errno::EPERM),
        ("unknown", 77, 0, 0, 0, errno::EINVAL),
        ("a read of nothing", command::READ, 0, SIZE_BYTES, 0, 0),
        ("flush", command::FLUSH, 0, 0, 0, 0),
        ("cache", command::CACHE, 0, 0, 1 << 20, 0),
    ] {
        raw.request(command, flags, 7, offset, length);
        assert_eq!(raw.reply(), (7, expected, 0), "{what}");
    }
    raw.request(command::WRITE, 0, 8, 0, 100_000);
    raw.say(&[1; 100_000]);
    assert_eq!(raw.reply(), (8, errno::EPERM, 0));
    raw.request(command::READ, df, 9, 0, 512 << 10);
    assert_eq!(raw.reply(), (9, 0, 512 << 10));
    raw.request(command::READ, 0, 10, 12345, 32 << 20);
    assert_eq!(raw.reply(), (10, 0, 32 << 20));
    raw.request(command::DISC, 0, 11, 0, 0);
    assert!(raw.closed() < Duration::from_secs(5));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_negotiators_are_closed_in_time_and_keep_nobody_out() {
    let limits = Limits { negotiation_limit: Duration::from_secs(3), negotiating_max: 16, ..Limits::default() };
    let served = Served::start(limits);
    let start = Instant::now();
    let mut slow: Vec<Raw> = (0..10).map(|_| Raw::silent(&served)).collect();
    // One byte now and then, as slowloris does.
    let drip = encode_option(option::GO, &encode_go("vda", &[]).expect("short"));
    for byte in [&[0, 0, 0, 3][..], &drip].concat().iter().take(8) {
        for raw in &mut slow {
            raw.say(&[*byte]);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    honest(&served).await;
    for raw in slow {
        raw.closed();
    }
    let took = start.elapsed();
    assert!((Duration::from_millis(2900)..Duration::from_secs(10)).contains(&took), "{took:?}");
    // A crowd: the oldest give way, whoever negotiates at once gets in.
    let crowd: Vec<Raw> = (0..500).map(|_| Raw::silent(&served)).collect();
    honest(&served).await;
    drop(crowd);
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_have_a_most_and_places_come_back() {
    let served = Served::start(Limits { connections_max: 8, ..Limits::default() });
    let held: Vec<Raw> = (0..8).map(|_| Raw::ready(&served, true, false)).collect();
    assert_eq!(served.server.connections(), 8);
    let mut one_more = Raw::greeted(&served);
    assert_eq!(one_more.ask(option::GO, &encode_go("vda", &[]).expect("short")).0, reply::ERR_POLICY);
    assert_eq!(one_more.ask(option::INFO, &encode_go("vda", &[]).expect("short")).0, reply::ACK, "to ask takes no place");
    drop(held);
    let start = Instant::now();
    while served.server.connections() > 0 {
        assert!(start.elapsed() < PATIENCE, "places of clients that went do not come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..2000 {
        drop(UnixStream::connect(&served.socket));
    }
    honest(&served).await;
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_at_once_are_all_answered_in_bounded_memory() {
    let served = Served::start(Limits::default());
    honest(&served).await;
    let before = resident_bytes();
    let raw = Raw::ready(&served, true, false);
    let mut sender = Raw(raw.0.try_clone().expect("clone"));
    let (sent, mut receiver) = (10_000_u64, raw);
    let sending = std::thread::spawn(move || {
        for cookie in 0..sent {
            sender.request(command::READ, 0, cookie, 20 << 20, 64 << 10);
        }
    });
    // Nothing is read for a while: only what the limits allow may have been taken in.
    tokio::time::sleep(Duration::from_secs(1)).await;
    honest(&served).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    // Chunks of different replies may come in any order; cookies tell them apart.
    let mut seen = vec![false; usize::try_from(sent).expect("10,000")];
    for _ in 0..sent {
        let (cookie, error, bytes) = receiver.reply();
        assert_eq!((error, bytes), (0, 64 << 10));
        assert!(!std::mem::replace(&mut seen[usize::try_from(cookie).expect("small")], true), "{cookie} twice");
    }
    sending.join().expect("sender");
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_closed_and_holds_nobody_up() {
    let limits = Limits { reply_limit: Duration::from_secs(2), shared_bytes: 8 << 20, ..Limits::default() };
    let served = Served::start(limits);
    let mut stuck: Vec<Raw> = (0..20).map(|i| Raw::ready(&served, i % 2 == 0, false)).collect();
    for raw in &mut stuck {
        for cookie in 0..20 {
            raw.request(command::READ, 0, cookie, 20 << 20, 8 << 20);
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    honest(&served).await;
    let start = Instant::now();
    while served.server.connections() > 0 {
        assert!(start.elapsed() < Duration::from_secs(15), "{} are still there", served.server.connections());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    honest(&served).await;
    drop(stuck);
    // Half a request and then nothing.
    let served = Served::start(Limits { request_limit: Duration::from_millis(500), ..Limits::default() });
    let mut half = Raw::ready(&served, true, false);
    half.say(&[0x25, 0x60, 0x95]);
    assert!(half.closed() < Duration::from_secs(5));
    let mut write = Raw::ready(&served, true, false);
    write.request(command::WRITE, 0, 1, 0, 1 << 20);
    write.say(&[0; 1000]);
    assert!(write.closed() < Duration::from_secs(5));
    served.server.stop().await;
}

/// Blocks as long as it is told, fails, panics, tells nonsense.
struct Odd {
    reads: AtomicUsize,
}

impl Export for Odd {
    fn size_bytes(&self) -> u64 {
        1 << 40
    }
    fn extents(&self, range: Range<u64>, _: usize) -> io::Result<Vec<ExportExtent>> {
        Ok(vec![ExportExtent { range: range.start..range.end + 1, zero: true }])
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match offset >> 30 {
            0 => into.fill(1),
            1 => return Err(io::Error::other("damaged")),
            2 => panic!("a defect of the export"),
            3 => return Err(io::ErrorKind::OutOfMemory.into()),
            _ => std::thread::sleep(Duration::from_secs(2)),
        }
        Ok(())
    }
}

fn odd(limits: Limits) -> (Served, Arc<Odd>) {
    let export = Arc::new(Odd { reads: AtomicUsize::new(0) });
    let mut exports = Exports::new();
    exports.add("vda", export.clone()).expect("name");
    let dir = tempfile::tempdir().expect("dir");
    let image = dir.path().join("none");
    (Served::with(dir, image, exports, limits), export)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_that_fails_or_panics_costs_that_request_alone() {
    let (served, _) = odd(Limits::default());
    let mut raw = Raw::ready(&served, true, true);
    for (offset, length, expected) in
        [(2 << 30, 512, errno::EIO), (3 << 30, 512, errno::ENOMEM), (1 << 30, 512, errno::EIO), (0, 64 << 10, errno::EIO), (5, 512, 0)]
    {
        raw.request(command::READ, 0, 1, offset, length);
        let (_, error, bytes) = raw.reply();
        assert_eq!((error, bytes), (expected, if expected == 0 { 512 } else { 0 }), "{offset} {length}");
    }
    raw.request(command::BLOCK_STATUS, 0, 2, 0, 4096);
    assert_eq!(raw.reply(), (2, errno::EIO, 0), "nonsense is not passed on");
    // A long simple reply that fails before its first byte says so, one that fails in the middle can only end.
    let mut simple = Raw::ready(&served, false, false);
    simple.request(command::READ, 0, 3, 1 << 30, 1 << 20);
    assert_eq!(simple.take(16)[4..8], errno::EIO.to_be_bytes());
    simple.request(command::READ, 0, 4, 2 << 30, 1 << 20);
    assert_eq!(simple.take(16)[4..8], errno::EIO.to_be_bytes(), "a panic is an error too");
    simple.request(command::READ, 0, 5, (1 << 30) - (512 << 10), 1 << 20);
    assert_eq!(simple.take(16 + (512 << 10))[4..8], [0; 4]);
    assert!(simple.closed() < Duration::from_secs(5));
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_answers_what_is_in_flight_within_its_limit() {
    let (served, export) = odd(Limits::default());
    let mut raw = Raw::ready(&served, true, false);
    let idle = Raw::ready(&served, true, false);
    let negotiating = Raw::greeted(&served);
    raw.request(command::READ, 0, 1, 4 << 30, 512);
    while export.reads.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let start = Instant::now();
    let socket = served.socket.clone();
    served.server.stop().await;
    assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(raw.reply(), (1, 0, 512), "what was in flight is answered");
    for other in [raw, idle, negotiating] {
        other.closed();
    }
    assert!(!socket.exists());
    // An export that does not come back is not waited for.
    let (served, export) = odd(Limits { stop_limit: Duration::from_millis(200), ..Limits::default() });
    let mut raw = Raw::ready(&served, true, false);
    raw.request(command::READ, 0, 1, 4 << 30, 512);
    while export.reads.load(Ordering::Relaxed) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let start = Instant::now();
    served.server.stop().await;
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    raw.closed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_private_and_never_taken_from_a_living_server() {
    let served = Served::start(Limits::default());
    let mode = std::fs::metadata(&served.socket).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(Listener::unix(&unix(&served.socket)), Err(ServerError::Taken { .. })));
    assert!(matches!(Listener::unix(&unix(&served.image)), Err(ServerError::NoSocket { .. })));
    assert!(matches!(Listener::unix(&unix(&served.dir.path().join("none/s"))), Err(ServerError::Unix { .. })));
    let public = Listener::tcp_loopback("0.0.0.0:0".parse().expect("address")).await;
    assert!(matches!(public, Err(ServerError::PlainTcp { .. })));
    // What a killed server leaves behind is replaced.
    let stale = served.dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bind"));
    let listener = Listener::unix(&unix(&stale)).expect("the stale socket is replaced");
    let second = Server::start(vec![listener], Exports::new(), Limits::default()).expect("start");
    // Somebody else's socket under the same name is left alone at the end.
    std::fs::remove_file(&stale).expect("remove");
    let _other = std::os::unix::net::UnixListener::bind(&stale).expect("bind");
    second.stop().await;
    assert!(stale.exists());
    served.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_users_are_refused() {
    if serving::own_uid() != 0 {
        eprintln!("skipped: only root can be another user");
        return;
    }
    let served = Served::start(Limits::default());
    for path in [served.dir.path(), &served.socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("rights");
    }
    let uri = format!("--size nbd+unix:///vda?socket={}", serving::text(&served.socket));
    let stranger =
        |uid: &str| std::process::Command::new("setpriv").args(["--reuid", uid, "--clear-groups", "nbdinfo"]).args(uri.split(' ')).output().expect("setpriv");
    assert!(!stranger("65534").status.success(), "the socket's rights alone are not enough");
    served.server.stop().await;
    let socket = served.dir.path().join("t");
    let listener =
        Listener::unix(&cairn_nbd::server::UnixSocket { path: socket.clone(), owner: Some((65534, 65534)), allowed_uids: vec![65534] }).expect("listen");
    let mut exports = Exports::new();
    exports.add("vda", Arc::new(cairn_nbd::server::FileExport::open(&served.image).expect("open"))).expect("name");
    let server = Server::start(vec![listener], exports, Limits::default()).expect("start");
    let uri = format!("--size nbd+unix:///vda?socket={}", serving::text(&socket));
    let owner = std::process::Command::new("setpriv").args(["--reuid", "65534", "--clear-groups", "nbdinfo"]).args(uri.split(' ')).output().expect("setpriv");
    assert!(owner.status.success(), "{}", String::from_utf8_lossy(&owner.stderr));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_dropped_takes_its_connections_with_it() {
    let served = Served::start(Limits::default());
    let raw = Raw::ready(&served, true, false);
    let options = served.options();
    drop(served.server);
    assert!(raw.closed() < Duration::from_secs(5));
    // Its socket goes just behind its connections, which who comes in between sees.
    let start = Instant::now();
    while !matches!(Connection::connect(&options).await, Err(NbdError::Connect { .. })) {
        assert!(start.elapsed() < Duration::from_secs(5), "somebody listens still");
    }
}
