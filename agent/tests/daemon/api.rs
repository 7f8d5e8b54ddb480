//! The API against all sorts of clients.

use crate::served::Served;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

#[test]
fn whatever_is_asked_wrongly_gets_an_object() {
    let served = Served::started("");
    let long = format!("/api/v1/jobs?{}", "x".repeat(10_000));
    let path = format!("/api/v1/jobs/{}", "9".repeat(10_000));
    let (too_long, endless) = (format!("/api/v1/jobs/{}", "9".repeat(20_000)), format!("/api/v1/jobs/{}", "9".repeat(70_000)));
    let large = format!("{{\"domain\": \"{}\"}}", "x".repeat(70_000));
    for (method, path, body, status) in [
        ("GET", "/", "", 404),
        ("GET", "/api/v2/health", "", 404),
        ("POST", "/api/v1/health", "", 405),
        ("GET", "/api/v1/reload", "", 405),
        ("PUT", "/api/v1/jobs", "", 405),
        ("DELETE", "/api/v1/jobs/1", "", 405),
        ("NONSENSE", "/api/v1/jobs", "", 405),
        ("GET", "/api/v1/jobs/x", "", 400),
        ("GET", "/api/v1/jobs/%ff", "", 400),
        ("GET", "/api/v1/jobs/%ff/log", "", 400),
        ("POST", "/api/v1/jobs/%c3%28/cancel", "", 400),
        ("GET", "/api/v1/jobs/%", "", 400),
        ("GET", "/api/v1/%ff", "", 404),
        ("GET", "/api/v1/jobs/99999999999999999999", "", 400),
        ("GET", "/api/v1/jobs/1/2/3", "", 404),
        ("GET", "/api/v1/jobs/", "", 404),
        ("GET", &path, "", 400),
        ("GET", &too_long, "", 431),
        ("GET", &endless, "", 431),
        ("GET", "no-path", "", 404),
        ("GET", "/api/v1/jobs/99", "", 404),
        ("GET", "/api/v1/jobs?state=asleep", "", 400),
        ("GET", "/api/v1/jobs?nonsense=1", "", 400),
        ("GET", &long, "", 400),
        ("GET", "/api/v1/jobs/99/log", "", 404),
        ("GET", "/api/v1/jobs/1/log?offset=-1", "", 400),
        ("POST", "/api/v1/jobs/99/cancel", "", 404),
        ("POST", "/api/v1/backups", "", 400),
        ("POST", "/api/v1/backups", "{", 400),
        ("POST", "/api/v1/backups", "[]", 400),
        ("POST", "/api/v1/backups", "{\"domain\": \"a\", \"shell\": \"x\"}", 400),
        ("POST", "/api/v1/backups", "{\"domain\": \"a\\nb\"}", 400),
        ("POST", "/api/v1/backups", "{\"image\": \"relative\", \"name\": \"x\"}", 400),
        ("POST", "/api/v1/backups", "{\"domain\": \"a\", \"store\": \"nosuch\"}", 404),
        ("POST", "/api/v1/reconcile", "{\"x\": 1}", 400),
        ("POST", "/api/v1/reconcile", "{\"domain\": \"a\\u0000b\"}", 400),
        ("POST", "/api/v1/backups", "{\"image\": \"/a\\u0000b\", \"name\": \"x\", \"store\": \"main\"}", 400),
        ("POST", "/api/v1/backups", &large, 413),
    ] {
        let (got, said) = served.ask(method, path, body);
        assert_eq!(got, status, "{method} {path:.80} {body:.80}: {said}");
        assert!(said["error"].is_string() && said["code"].is_u64() && said["kind"].is_string(), "{method} {path:.80}: {said}");
    }
    // Whatever a body is called, it is read as JSON; and heads that are wrong in themselves.
    for (request, status) in [
        ("POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 1\r\n\r\n{", 400),
        ("POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ncontent-type: application/xml\r\ncontent-length: 4\r\n\r\n<a/>", 400),
        ("POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ncontent-type: \u{e4}\r\ncontent-length: 2\r\n\r\n{}", 400),
        ("POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ncontent-length: nonsense\r\n\r\n{}", 400),
        ("POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        ("nonsense\r\n\r\n", 400),
        ("GET /api/v1/jobs HTTP/9.9\r\n\r\n", 400),
        ("GET /api/v1/jo bs HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("GET /api/v1/jobs/\u{7f}\u{1} HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("GET /api/v1/jobs HTTP/1.1\r\nhost: x\r\n", 408),
    ] {
        let (got, said) = served.raw(request);
        assert_eq!(got, status, "{request:?}: {said}");
        assert!(said["error"].is_string() && said["code"].is_u64() && said["kind"].is_string(), "{request:?}: {said}");
    }
    assert!(served.get("/api/v1/jobs").as_array().expect("a list").is_empty(), "nothing came of any of it");
    assert!(served.get("/api/v1/domains").is_array());
    assert_eq!(served.ask("POST", "/api/v1/reconcile", "{}").0, 202);
    assert_eq!(served.troubles(), [""; 0]);
}

#[test]
fn clients_that_hang_keep_nobody_waiting_for_long() {
    let served = Served::started("");
    let hung: Vec<UnixStream> = (0..70)
        .map(|n| {
            let mut stream = UnixStream::connect(served.socket()).expect("connects");
            let half: &[u8] = if n % 2 == 0 { b"" } else { b"POST /api/v1/backups HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{" };
            stream.write_all(half).expect("sends");
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(served.troubles(), [""; 0]);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // All of them are told to go, in their time.
    for mut stream in hung {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
        let mut said = Vec::new();
        stream.read_to_end(&mut said).expect("is closed");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn nonsense_and_endless_heads_end_the_connection_only() {
    let served = Served::started("");
    for bytes in [&b"\x16\x03\x01\x02\x00nonsense\r\n\r\n"[..], &[b'a'; 100_000], &b"GET / HTTP/1.1\r\n"[..]] {
        let mut stream = UnixStream::connect(served.socket()).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets");
        // It may be closed before all is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(served.troubles(), [""; 0]);
}

#[test]
fn a_log_is_read_in_pieces() {
    let served = Served::started("");
    let id = served.save("nothing", "x");
    served.wait_state(id, "failed");
    let whole = served.get(&format!("/api/v1/jobs/{id}/log"));
    let text = whole["text"].as_str().expect("text");
    assert!(whole["over"] == true && whole["offset"] == 0 && whole["next_offset"] == text.len(), "{whole}");
    let rest = served.get(&format!("/api/v1/jobs/{id}/log?offset=10"));
    assert_eq!(rest["text"], text[10..]);
    let end = served.get(&format!("/api/v1/jobs/{id}/log?offset={}", text.len()));
    assert_eq!((end["text"].as_str(), &end["next_offset"]), (Some(""), &whole["next_offset"]));
}
