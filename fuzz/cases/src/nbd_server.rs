//! The whole NBD server against a client that says the case's bytes and then no more.
//!
//! A second, simpler reader of the client's bytes tells what must come back: answers to each option in turn, and for each request exactly one
//! reply, in any order, unless the bytes end in something that is no message; then the server may close before all replies went out.

use cairn_nbd::codec::handshake::{
    self as hs, FLAG_NO_ZEROES, GREETING_BYTES, decode_client_flags, decode_option_header, decode_option_reply_header, option, reply,
};
use cairn_nbd::codec::limits::NAME_BYTES_MAX;
use cairn_nbd::codec::transmission::{REQUEST_BYTES, Request, STRUCTURED_REPLY_MAGIC, command};
use cairn_nbd::server::{Export, ExportExtent, Exports, Limits, Listener, Server};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

/// Nobody sleeps here: whoever meets this limit has been waiting for nothing.
const LIMIT: Duration = Duration::from_secs(5);
const SIZE_BYTES: u64 = 8192;
/// Options and requests of a case that are looked at: more says nothing new.
const CASE_BYTES_MAX: usize = 8192;

/// Zero in its first half.
struct Small;

impl Export for Small {
    fn size_bytes(&self) -> u64 {
        SIZE_BYTES
    }
    fn description(&self) -> String {
        "small".to_owned()
    }
    fn extents(&self, range: Range<u64>, _: usize) -> io::Result<Vec<ExportExtent>> {
        let middle = (SIZE_BYTES / 2).clamp(range.start, range.end);
        let parts = [(range.start..middle, true), (middle..range.end, false)];
        Ok(parts.into_iter().filter(|(range, _)| !range.is_empty()).map(|(range, zero)| ExportExtent { range, zero }).collect())
    }
    fn read_at(&self, _: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(7);
        Ok(())
    }
    fn read_ready(&self, offset: u64, into: &mut [u8]) -> bool {
        offset.is_multiple_of(2) && self.read_at(offset, into).is_ok()
    }
}

struct Bench {
    runtime: Runtime,
    address: SocketAddr,
    _server: Server,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cairn-fuzz-server-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let listener = UnixListener::bind_addr(&address).expect("an abstract socket of our own name");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let server = {
            let _inside = runtime.enter();
            let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("a process knows itself"));
            let listener = Listener::unix_given(listener, vec![uid]).expect("a listening socket");
            let mut exports = Exports::new();
            exports.add("e", Arc::new(Small)).expect("a short name");
            Server::start(vec![listener], exports, Limits::default()).expect("the defaults fit")
        };
        Self { runtime, address, _server: server }
    }
}

/// All that a client says.
pub fn nbd_server(data: &[u8]) -> bool {
    thread_local! {
        static BENCH: Bench = Bench::new();
    }
    let said = &data[..data.len().min(CASE_BYTES_MAX)];
    BENCH.with(|bench| {
        let stream = std::os::unix::net::UnixStream::connect_addr(&bench.address).expect("the server listens");
        stream.set_nonblocking(true).expect("a socket can be non-blocking");
        let heard = bench.runtime.block_on(async { tokio::time::timeout(LIMIT, talk(stream, said)).await.expect("the server does not end") });
        check(said, &heard)
    })
}

async fn talk(stream: std::os::unix::net::UnixStream, said: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = UnixStream::from_std(stream).expect("a stream").into_split();
    let speak = async {
        // A server that has heard enough is gone.
        if to.write_all(said).await.is_ok() {
            to.shutdown().await.ok();
        }
    };
    let listen = async {
        let mut heard = Vec::new();
        // What came before a reset counts.
        from.read_to_end(&mut heard).await.ok();
        heard
    };
    tokio::join!(speak, listen).1
}

/// Takes `count` bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N).and_then(|bytes| bytes.try_into().ok())
}

fn check(mut said: &[u8], mut heard: &[u8]) -> bool {
    // Closing with bytes unread resets the connection, which may take what was sent before: then there is less to check, never something else.
    let Some(greeting) = take(&mut heard, GREETING_BYTES) else { return false };
    assert_eq!(greeting, hs::encode_greeting(hs::FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
    let Some(Ok(no_zeroes)) = array::<4>(&mut said).map(decode_client_flags) else {
        assert!(heard.is_empty(), "an answer to no flags");
        return false;
    };
    let Some(structured) = options(&mut said, &mut heard, no_zeroes) else { return true };
    requests(said, heard, structured);
    true
}

/// Walks the options and their answers; whether replies will be structured once transmission has begun.
fn options(said: &mut &[u8], heard: &mut &[u8], no_zeroes: bool) -> Option<bool> {
    let mut structured = false;
    loop {
        let header = array::<{ hs::OPTION_HEADER_BYTES }>(said);
        let parsed = header.and_then(|header| decode_option_header(&header).ok());
        let whole = parsed.and_then(|(option, length)| Some((option, take(said, length as usize)?)));
        let Some((option, payload)) = whole else {
            assert!(heard.is_empty(), "an answer to no option");
            return None;
        };
        if option == option::EXPORT_NAME {
            let known = payload.is_empty() || payload == b"e";
            if heard.is_empty() {
                return None;
            }
            assert!(known, "an unknown export is served");
            let size = take(heard, if no_zeroes { 10 } else { 134 }).expect("the whole answer to EXPORT_NAME");
            assert_eq!(size[..8], SIZE_BYTES.to_be_bytes());
            return Some(structured);
        }
        let end = answers(heard, option)?;
        match (option, end) {
            (option::STRUCTURED_REPLY, reply::ACK) => structured = true,
            (option::GO, reply::ACK) => return Some(structured),
            (option::ABORT, _) => {
                assert!(heard.is_empty() && end == reply::ACK);
                return None;
            }
            _ => {}
        }
    }
}

/// The last answer's kind; `None` where the server closed.
fn answers(heard: &mut &[u8], option: u32) -> Option<u32> {
    loop {
        if heard.is_empty() {
            return None;
        }
        let header = array::<{ hs::OPTION_REPLY_HEADER_BYTES }>(heard).expect("whole answers");
        let header = decode_option_reply_header(&header).expect("answers that our client reads");
        let payload = take(heard, header.length as usize).expect("whole answers");
        assert_eq!(header.option, option);
        if header.kind == reply::ACK || header.kind & reply::ERROR_BIT != 0 {
            assert!(payload.len() <= NAME_BYTES_MAX && std::str::from_utf8(payload).is_ok());
            return Some(header.kind);
        }
    }
}

fn requests(mut said: &[u8], mut heard: &[u8], structured: bool) {
    // Cookie -> replies that are due; simple ones with the lengths of reads that may follow them.
    let mut due: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut orderly = true;
    while !said.is_empty() {
        let request = array::<REQUEST_BYTES>(&mut said).and_then(|bytes| Request::decode(&bytes).ok());
        let Some(request) = request else {
            orderly = false;
            break;
        };
        if request.command == command::DISC {
            // What lies unread behind it resets the connection.
            orderly = said.is_empty();
            break;
        }
        if request.command == command::WRITE && take(&mut said, request.length as usize).is_none() {
            orderly = false;
            break;
        }
        let data = if request.command == command::READ { request.length as usize } else { 0 };
        due.entry(request.cookie).or_default().push(data);
    }
    if !structured && due.values().any(|lengths| lengths.windows(2).any(|w| w[0] != w[1])) {
        // Simple replies to requests of one cookie and different lengths cannot be told apart.
        return;
    }
    while !heard.is_empty() {
        let cookie = if structured { structured_end(&mut heard) } else { simple(&mut heard, &due) };
        match cookie {
            Some(Some(cookie)) => {
                let left = due.get_mut(&cookie).expect("a reply to a request that was made");
                left.pop().expect("one reply a request");
            }
            Some(None) => {}
            None => {
                assert!(!orderly, "a reply is cut off");
                return;
            }
        }
    }
    assert!(!orderly || due.values().all(Vec::is_empty), "requests without a reply: {due:?}");
}

/// A chunk; its cookie if it was the last of its reply.
fn structured_end(heard: &mut &[u8]) -> Option<Option<u64>> {
    let header = take(heard, 20)?;
    assert_eq!(header[..4], STRUCTURED_REPLY_MAGIC.to_be_bytes());
    let cookie = u64::from_be_bytes(header[8..16].try_into().expect("8 bytes"));
    take(heard, u32::from_be_bytes(header[16..].try_into().expect("4 bytes")) as usize)?;
    Some((header[5] & 1 != 0).then_some(cookie))
}

/// A simple reply, and the data of as many bytes as were asked for.
fn simple(heard: &mut &[u8], due: &HashMap<u64, Vec<usize>>) -> Option<Option<u64>> {
    let header = take(heard, 16)?;
    let cookie = u64::from_be_bytes(header[8..].try_into().expect("8 bytes"));
    let lengths = due.get(&cookie).expect("a reply to a request that was made");
    if header[4..8] == [0; 4] {
        take(heard, lengths.last().copied().unwrap_or(0))?;
    }
    Some(Some(cookie))
}
