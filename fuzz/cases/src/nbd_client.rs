//! The whole NBD client against a server that says the case's bytes, whatever it is asked, and then closes.
//!
//! One listening socket a thread (an abstract one: nothing is left behind), one connection a case. The server reads what the client sends, so that
//! neither waits for the other; since it closes, a client that waits for more than was said would be a client that hangs.

use cairn_nbd::{Address, ConnectOptions, Connection, NbdError, StructuredReplies, TimeLimits, list_exports, list_meta_contexts};
use std::os::linux::net::SocketAddrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// Nobody sleeps here: whoever meets this limit has been waiting for nothing.
const LIMIT: Duration = Duration::from_secs(5);
/// Bytes of one block status request.
const STATUS_BYTES: u32 = 1 << 20;
/// Bytes of one read.
const READ_BYTES: u64 = 5000;

struct Bench {
    runtime: Runtime,
    listener: UnixListener,
    address: Address,
}

impl Bench {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cairn-fuzz-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a short name");
        let listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("an abstract socket of our own name");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            UnixListener::from_std(listener).expect("a listening socket")
        };
        Self { runtime, listener, address: Address::Unix(PathBuf::from(format!("\0{name}"))) }
    }
}

/// First byte: what the client wants (open with contexts, open without, exports, contexts of an export); the rest is what the server says.
pub fn nbd_client(data: &[u8]) -> bool {
    thread_local! {
        static BENCH: Bench = Bench::new();
    }
    let Some((wish, said)) = data.split_first() else { return false };
    BENCH.with(|bench| {
        let mut options = ConnectOptions::new(bench.address.clone(), "e");
        options.limits = TimeLimits { connect: LIMIT, handshake: LIMIT, reply: LIMIT };
        bench.runtime.block_on(async { tokio::join!(client(*wish, options), server(&bench.listener, said)).0 })
    })
}

async fn server(listener: &UnixListener, said: &[u8]) {
    let (stream, _) = listener.accept().await.expect("the client connects before anything else");
    let (mut from, mut to) = stream.into_split();
    let speak = async {
        // A client that has heard enough is gone.
        if to.write_all(said).await.is_ok() {
            to.shutdown().await.ok();
        }
    };
    let listen = async {
        let mut heard = [0; 512];
        while from.read(&mut heard).await.is_ok_and(|count| count > 0) {}
    };
    tokio::join!(speak, listen);
}

async fn client(wish: u8, mut options: ConnectOptions) -> bool {
    match wish % 4 {
        0 => {
            options = options.context("base:allocation").context("qemu:dirty-bitmap:b");
            work(heard(Connection::connect(&options).await)).await
        }
        1 => {
            options.structured = StructuredReplies::Prefer;
            work(heard(Connection::connect(&options).await)).await
        }
        2 => heard(list_exports(&options).await).is_some(),
        _ => heard(list_meta_contexts(&options, "").await).is_some(),
    }
}

/// A result, if there is one; the error must be about what was said.
fn heard<T>(result: Result<T, NbdError>) -> Option<T> {
    if let Err(error) = &result {
        assert!(!matches!(error, NbdError::Timeout { .. } | NbdError::Connect { .. }), "{error}");
    }
    result.ok()
}

/// Asks everything that a capture asks.
async fn work(connection: Option<Connection>) -> bool {
    let Some(mut connection) = connection else { return false };
    let info = *connection.info();
    let block = u64::from(info.block_sizes.minimum);
    assert!(info.size_bytes.is_multiple_of(block) && info.read_bytes_max() > 0);
    assert!(u64::from(info.read_bytes_max()).is_multiple_of(block));
    let most = info.size_bytes.min(u64::from(STATUS_BYTES));
    let length = u32::try_from(most - most % block).expect("at most STATUS_BYTES");
    if length > 0 {
        for status in heard(connection.block_status(0, length).await).unwrap_or_default() {
            let sum: u64 = status.runs.iter().map(|run| run.0).sum();
            assert!(!status.runs.is_empty() && sum <= u64::from(length), "{status:?} of {length}");
        }
    }
    if connection.is_usable() {
        let mut into = vec![0; usize::try_from(info.size_bytes.min(READ_BYTES)).expect("at most READ_BYTES")];
        let read = connection.read_at(info.size_bytes - into.len() as u64, &mut into).await;
        heard(read);
    }
    connection.close().await;
    true
}
