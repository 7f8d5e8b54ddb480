//! A scripted server that lies. Every lie must end in an error that says so, within the time limits, with the connection closed.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cairn_nbd::codec::handshake::{self, Info, encode_info, encode_option_reply, option, reply};
use cairn_nbd::codec::transmission::{ChunkHeader, Descriptor, REQUEST_BYTES, Request, SimpleReply, chunk, encode_block_status, encode_error};
use cairn_nbd::{Address, ConnectOptions, Connection, NbdError, Pool, StructuredReplies, TimeLimits};

const SIZE_BYTES: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_millis(400);

struct Scripted {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Scripted {
    fn start(script: impl FnOnce(UnixStream) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).expect("bind");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("accept");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("time limit");
            script(stream);
        });
        Self { _dir: dir, socket, thread: Some(thread) }
    }

    fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new(Address::Unix(self.socket.clone()), "e");
        options.limits = TimeLimits { connect: LIMIT, handshake: LIMIT, reply: LIMIT };
        options
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A script that panicked is a broken test.
            assert!(thread.join().is_ok() || std::thread::panicking(), "the scripted server panicked");
        }
    }
}

/// Greets and answers options in good order until GO; context ids are 10, 11, ...
fn polite(stream: &mut UnixStream) {
    stream.write_all(&handshake::encode_greeting(3)).expect("greeting");
    let mut flags = [0; 4];
    stream.read_exact(&mut flags).expect("client flags");
    loop {
        let (kind, payload) = read_option(stream);
        match kind {
            option::STRUCTURED_REPLY => answer(stream, kind, reply::ACK, &[]),
            option::SET_META_CONTEXT => {
                let (_, queries) = handshake::decode_meta_context(&payload).expect("queries");
                for (index, query) in queries.iter().enumerate() {
                    let mut body = (10 + u32::try_from(index).expect("few")).to_be_bytes().to_vec();
                    body.extend_from_slice(query.as_bytes());
                    answer(stream, kind, reply::META_CONTEXT, &body);
                }
                answer(stream, kind, reply::ACK, &[]);
            }
            option::GO => {
                answer(stream, kind, reply::INFO, &encode_info(Info::Export { size_bytes: SIZE_BYTES, flags: 1 }));
                answer(stream, kind, reply::ACK, &[]);
                return;
            }
            other => panic!("unexpected option {other}"),
        }
    }
}

fn read_option(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut header = [0; handshake::OPTION_HEADER_BYTES];
    stream.read_exact(&mut header).expect("option");
    let (kind, length) = handshake::decode_option_header(&header).expect("option header");
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).expect("option payload");
    (kind, payload)
}

fn answer(stream: &mut UnixStream, option: u32, kind: u32, payload: &[u8]) {
    stream.write_all(&encode_option_reply(option, kind, payload)).expect("option reply");
}

fn request(stream: &mut UnixStream) -> Request {
    let mut bytes = [0; REQUEST_BYTES];
    stream.read_exact(&mut bytes).expect("request");
    Request::decode(&bytes).expect("request")
}

fn send_chunk(stream: &mut UnixStream, cookie: u64, done: bool, kind: u16, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("short");
    let header = ChunkHeader { flags: u16::from(done), kind, cookie, length };
    // A client that has seen the lie already is gone: its side of the test judges, not this one.
    stream.write_all(&[&header.encode()[..], payload].concat()).ok();
}

fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], bytes].concat()
}

fn hole(offset: u64, length: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &length.to_be_bytes()[..]].concat()
}

/// Waits until the client closed: a connection in an unknown state must not stay open.
fn expect_closed(stream: &mut UnixStream) {
    let mut byte = [0];
    assert!(!matches!(stream.read(&mut byte), Ok(1)), "the client went on after a lie");
}

/// One read of 8 KiB at 4096 against `lie`; afterwards the client must have closed.
async fn read_lie(lie: impl FnOnce(&mut UnixStream, Request) + Send + 'static) -> NbdError {
    let server = Scripted::start(move |mut stream| {
        polite(&mut stream);
        let asked = request(&mut stream);
        lie(&mut stream, asked);
        expect_closed(&mut stream);
    });
    let mut connection = Connection::connect(&server.options()).await.expect("handshake");
    let start = Instant::now();
    let error = connection.read_at(4096, &mut [0; 8192]).await.expect_err("a lie was believed");
    assert!(start.elapsed() < LIMIT * 3, "took {:?}", start.elapsed());
    assert!(!connection.is_usable(), "{error}: the connection is still in use");
    let again = connection.read_at(0, &mut [0; 512]).await.expect_err("poisoned");
    assert!(matches!(again, NbdError::Poisoned { .. }), "{again}");
    error
}

#[tokio::test]
async fn lies_in_read_replies_are_caught() {
    let violation = |error: NbdError| {
        assert!(matches!(error, NbdError::Violation { .. } | NbdError::Malformed { .. }), "{error}");
    };
    // Before, behind, across the end of the request, at an offset that overflows.
    for offset in [0, 4095, 12288, 8192, u64::MAX - 10] {
        violation(
            read_lie(move |s, r| {
                send_chunk(s, r.cookie, true, chunk::OFFSET_DATA, &data(offset, &[1; 8192]));
            })
            .await,
        );
    }
    violation(read_lie(|s, r| send_chunk(s, r.cookie, true, chunk::OFFSET_HOLE, &hole(4096, u32::MAX))).await);
    violation(read_lie(|s, r| send_chunk(s, r.cookie, true, chunk::OFFSET_HOLE, &hole(4096, 0))).await);
    // Not all of it, though DONE.
    violation(
        read_lie(|s, r| {
            send_chunk(s, r.cookie, true, chunk::OFFSET_DATA, &data(4096, &[1; 100]));
        })
        .await,
    );
    violation(read_lie(|s, r| send_chunk(s, r.cookie, true, chunk::NONE, &[])).await);
    // Twice.
    violation(
        read_lie(|s, r| {
            send_chunk(s, r.cookie, false, chunk::OFFSET_DATA, &data(4096, &[1; 8192]));
            send_chunk(s, r.cookie, true, chunk::OFFSET_HOLE, &hole(5000, 10));
        })
        .await,
    );
    // Another request's cookie, a foreign magic, an unknown type, a length no chunk has.
    violation(
        read_lie(|s, r| {
            send_chunk(s, r.cookie + 1, true, chunk::OFFSET_DATA, &data(4096, &[1; 8192]));
        })
        .await,
    );
    violation(read_lie(|s, _| s.write_all(&[0xaa; 20]).expect("write")).await);
    violation(read_lie(|s, r| send_chunk(s, r.cookie, true, 99, &[])).await);
    violation(
        read_lie(|s, r| {
            let header = ChunkHeader { flags: 1, kind: chunk::OFFSET_DATA, cookie: r.cookie, length: u32::MAX };
            s.write_all(&header.encode()).expect("write");
        })
        .await,
    );
    // A simple reply after structured ones were agreed on; block status as the answer to a read.
    violation(
        read_lie(|s, r| {
            s.write_all(&SimpleReply { error: 0, cookie: r.cookie }.encode()).expect("write");
        })
        .await,
    );
    let status = encode_block_status(10, &[Descriptor { length: 1, status: 0 }]);
    violation(read_lie(move |s, r| send_chunk(s, r.cookie, true, chunk::BLOCK_STATUS, &status)).await);
    // Endless empty pieces.
    violation(
        read_lie(|s, r| {
            let error = encode_error(5, "x").expect("short");
            for _ in 0..5000 {
                let header = ChunkHeader { flags: 0, kind: chunk::ERROR, cookie: r.cookie, length: u32::try_from(error.len()).expect("short") };
                if s.write_all(&[&header.encode()[..], &error].concat()).is_err() {
                    return;
                }
            }
        })
        .await,
    );
}

#[tokio::test]
async fn a_reply_without_its_end_runs_into_the_limit() {
    let error = read_lie(|s, r| {
        send_chunk(s, r.cookie, false, chunk::OFFSET_DATA, &data(4096, &[1; 8192]));
    })
    .await;
    assert!(matches!(error, NbdError::Timeout { .. }), "{error}");
    let error = read_lie(|s, r| {
        s.write_all(&ChunkHeader { flags: 1, kind: chunk::OFFSET_DATA, cookie: r.cookie, length: 8200 }.encode()).expect("w");
    })
    .await;
    assert!(matches!(error, NbdError::Timeout { .. }), "{error}");
    let error = read_lie(|s, _| s.shutdown(std::net::Shutdown::Write).expect("shutdown")).await;
    assert!(matches!(error, NbdError::Stream { .. }), "{error}");
}

#[tokio::test]
async fn pieces_in_any_order_and_an_error_leave_the_connection_usable() {
    let server = Scripted::start(|mut s| {
        polite(&mut s);
        let r = request(&mut s);
        send_chunk(&mut s, r.cookie, false, chunk::OFFSET_HOLE, &hole(8192, 4096));
        send_chunk(&mut s, r.cookie, false, chunk::OFFSET_DATA, &data(4096, &[7; 1000]));
        send_chunk(&mut s, r.cookie, false, chunk::OFFSET_DATA, &data(5096, &[8; 3096]));
        send_chunk(&mut s, r.cookie, true, chunk::NONE, &[]);
        let r = request(&mut s);
        let mut error = encode_error(5, "bad sector").expect("short");
        error.extend_from_slice(&5000_u64.to_be_bytes());
        send_chunk(&mut s, r.cookie, false, chunk::ERROR_OFFSET, &error);
        send_chunk(&mut s, r.cookie, true, chunk::OFFSET_DATA, &data(4096, &[1; 100]));
        let r = request(&mut s);
        send_chunk(&mut s, r.cookie, true, chunk::OFFSET_DATA, &data(0, &[9; 512]));
        let r = request(&mut s);
        assert_eq!(r.command, 2, "the client says goodbye");
    });
    let mut connection = Connection::connect(&server.options()).await.expect("handshake");
    let mut buffer = [1; 8192];
    connection.read_at(4096, &mut buffer).await.expect("a good reply in pieces");
    assert!(buffer[..1000].iter().all(|b| *b == 7) && buffer[1000..4096].iter().all(|b| *b == 8) && buffer[4096..].iter().all(|b| *b == 0));
    let error = connection.read_at(4096, &mut buffer).await.expect_err("EIO");
    assert!(error.to_string().contains("EIO") && error.to_string().contains("bad sector"), "{error}");
    connection.read_at(0, &mut buffer[..512]).await.expect("an orderly error closes nothing");
    assert_eq!(buffer[0], 9);
    connection.close().await;
}

async fn status_lie(lie: impl FnOnce(&mut UnixStream, Request) + Send + 'static) -> NbdError {
    let server = Scripted::start(move |mut stream| {
        polite(&mut stream);
        let asked = request(&mut stream);
        lie(&mut stream, asked);
        expect_closed(&mut stream);
    });
    let options = server.options().context("base:allocation").context("qemu:dirty-bitmap:b");
    let mut connection = Connection::connect(&options).await.expect("handshake");
    let error = connection.block_status(0, 65536).await.expect_err("a lie was believed");
    assert!(!connection.is_usable(), "{error}");
    error
}

#[tokio::test]
async fn lies_in_block_status_are_caught() {
    let one = |id: u32, length: u32| encode_block_status(id, &[Descriptor { length, status: 0 }]);
    let cases: Vec<Vec<Vec<u8>>> = vec![
        vec![one(99, 65536), one(10, 65536)],                     // unknown context
        vec![one(10, 65536)],                                     // one context unanswered
        vec![one(10, 65536), one(10, 65536)],                     // one context twice
        vec![one(10, 0), one(11, 65536)],                         // a run of nothing
        vec![[one(10, 65536), vec![0]].concat(), one(11, 65536)], // half a descriptor
        vec![10_u32.to_be_bytes().to_vec(), one(11, 65536)],      // no descriptor
    ];
    for (index, case) in cases.into_iter().enumerate() {
        let error = status_lie(move |s, r| {
            let last = case.len() - 1;
            for (at, payload) in case.iter().enumerate() {
                send_chunk(s, r.cookie, at == last, chunk::BLOCK_STATUS, payload);
            }
        })
        .await;
        assert!(matches!(error, NbdError::Violation { .. } | NbdError::Malformed { .. }), "case {index}: {error}");
    }
    let error = status_lie(|s, r| {
        s.write_all(&SimpleReply { error: 0, cookie: r.cookie }.encode()).expect("write");
    })
    .await;
    assert!(matches!(error, NbdError::Violation { .. }), "{error}");
}

#[tokio::test]
async fn lies_in_the_handshake_are_caught() {
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("wrong magic", vec![0x11; 18]),
        ("oldstyle", [&handshake::GREETING_MAGIC.to_be_bytes()[..], &handshake::OLDSTYLE_MAGIC.to_be_bytes()[..], &[0, 0]].concat()),
        ("not fixed newstyle", handshake::encode_greeting(0).to_vec()),
        ("wrong reply magic", [&handshake::encode_greeting(3)[..], &[0x22; 20][..]].concat()),
        ("huge reply", {
            let mut header = encode_option_reply(option::STRUCTURED_REPLY, reply::ACK, &[]);
            header[16..].copy_from_slice(&u32::MAX.to_be_bytes());
            [&handshake::encode_greeting(3)[..], &header[..]].concat()
        }),
        ("answers another option", [&handshake::encode_greeting(3)[..], &encode_option_reply(option::LIST, reply::ACK, &[])[..]].concat()),
    ];
    for (name, bytes) in lies {
        let server = Scripted::start(move |mut stream| {
            stream.write_all(&bytes).expect("write");
            // Whatever the client still sends is drained until it closes.
            let mut sink = Vec::new();
            stream.read_to_end(&mut sink).ok();
        });
        let error = Connection::connect(&server.options()).await.expect_err(name);
        assert!(!matches!(error, NbdError::Timeout { .. }), "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_silent_runs_into_the_limit() {
    let server = Scripted::start(|mut stream| expect_closed(&mut stream));
    let start = Instant::now();
    let error = Connection::connect(&server.options()).await.expect_err("silent");
    assert!(matches!(error, NbdError::Timeout { .. }), "{error}");
    assert!(start.elapsed() < LIMIT * 3);
}

#[tokio::test]
async fn without_structured_replies_plain_reads_work_and_maps_are_refused() {
    fn old(mut stream: UnixStream, serve: bool) {
        stream.write_all(&handshake::encode_greeting(3)).expect("greeting");
        stream.read_exact(&mut [0; 4]).expect("flags");
        let (kind, _) = read_option(&mut stream);
        answer(&mut stream, kind, reply::ERR_UNSUP, b"no");
        if !serve {
            return expect_closed(&mut stream);
        }
        let (kind, _) = read_option(&mut stream);
        answer(&mut stream, kind, reply::INFO, &encode_info(Info::Export { size_bytes: SIZE_BYTES, flags: 1 }));
        answer(&mut stream, kind, reply::ACK, &[]);
        let asked = request(&mut stream);
        stream.write_all(&SimpleReply { error: 0, cookie: asked.cookie }.encode()).expect("reply");
        stream.write_all(&[3; 4096]).expect("data");
        let asked = request(&mut stream);
        stream.write_all(&SimpleReply { error: 5, cookie: asked.cookie }.encode()).expect("reply");
    }
    let server = Scripted::start(|stream| old(stream, true));
    let mut connection = Connection::connect(&server.options()).await.expect("plain");
    let mut buffer = [0; 4096];
    connection.read_at(0, &mut buffer).await.expect("read");
    assert!(buffer.iter().all(|b| *b == 3) && !connection.is_structured());
    let error = connection.read_at(0, &mut buffer).await.expect_err("EIO");
    assert!(matches!(error, NbdError::Server { .. }), "{error}");
    let server = Scripted::start(|stream| old(stream, false));
    let mut options = server.options();
    options.structured = StructuredReplies::Require;
    let error = Connection::connect(&options).await.expect_err("required");
    assert!(matches!(error, NbdError::NoStructuredReplies { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_read_closes_its_connection() {
    let server = Scripted::start(|mut stream| {
        polite(&mut stream);
        let asked = request(&mut stream);
        // Half of the reply, then nothing: the client gives up in the middle.
        let bytes = ChunkHeader { flags: 1, kind: chunk::OFFSET_DATA, cookie: asked.cookie, length: 8 + 4096 }.encode();
        stream.write_all(&bytes).expect("header");
        expect_closed(&mut stream);
    });
    let pool = Pool::connect(server.options(), 1).await.expect("handshake");
    let mut buffer = vec![0; 4096];
    let dropped = tokio::time::timeout(Duration::from_millis(50), pool.read_at(0, &mut buffer)).await;
    assert!(dropped.is_err(), "nobody answered");
    // expect_closed in the script fails the test if the socket stayed open.
}
