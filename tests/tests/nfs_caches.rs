//! What one client sees of what the other has just done, through the store's own storage code on a true NFS mount.
//!
//! The guests run this same program: [`in_the_guest`] connects to the host and does as it is told, line by line, so that the order of the two
//! clients' steps is certain.

use cairn_lab::nfs::rig::Image;
use cairn_lab::nfs::{Client, Rig, Setup};
use cairn_lab::{Options, cairn, lab_test};
use cairn_store::format::{ObjectName, SessionId};
use cairn_store::platform::{Durability, LocalPlatform, Platform};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

const HELPER: &str = env!("CARGO_BIN_EXE_cairn-lab");
/// Folder of the tests on the mount; no store.
const FOLDER: &str = "/mnt/nfs/caches";
/// In the guest: where the host listens.
const HOST_VARIABLE: &str = "CAIRN_LAB_NFS_HOST";
const STEP_LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 60;
/// A month in a session id's milliseconds, somewhat more: each round has a folder of its own.
const MONTH_MS: u64 = 32 * 86_400_000;

fn options() -> Options {
    Options { guest: false, ..Options::small() }
}

/// The session of a round; rounds of `apart` lie in folders of their own.
fn session(round: u64, apart: bool) -> SessionId {
    let time_ms = 1_800_000_000_000 + if apart { round * MONTH_MS } else { 0 };
    let mut id = [0; 16];
    id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
    id[8..].copy_from_slice(&round.to_be_bytes());
    SessionId(id)
}

/// The guest's side of a connection, as the host has it.
struct Peer {
    lines: BufReader<TcpStream>,
}

impl Peer {
    fn start(client: &Client, listener: &TcpListener) -> Self {
        let port = listener.local_addr().expect("bound").port();
        let command = format!("mkdir -p {FOLDER} && {HOST_VARIABLE}=10.0.2.2:{port} suite --exact in_the_guest --ignored --nocapture");
        client.spawn(&command).expect("starts");
        listener.set_nonblocking(true).expect("its own socket");
        let begin = Instant::now();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(begin.elapsed() < STEP_LIMIT, "the program in the guest does not connect: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        stream.set_nonblocking(false).expect("its own socket");
        stream.set_nodelay(true).expect("its own socket");
        stream.set_read_timeout(Some(STEP_LIMIT)).expect("its own socket");
        Self { lines: BufReader::new(stream) }
    }

    /// One step; gives the answer. Steps end one after the other, so that whatever one client did is complete before the other begins.
    fn step(&mut self, line: &str) -> String {
        self.lines.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        self.lines.read_line(&mut answer).expect("an answer in time");
        let answer = answer.trim_end().to_owned();
        assert!(answer.starts_with("ok"), "{line}: {answer:?}");
        answer
    }

    fn sees(&mut self, line: &str, file: &str) -> bool {
        self.step(line).split_whitespace().any(|word| word == file)
    }
}

fn peers(rig: &Rig) -> [Peer; 2] {
    [0, 1].map(|index| Peer::start(&rig.clients[index], &TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port")))
}

#[test]
#[ignore = "the part that runs in a guest; the other tests of this file start it there"]
fn in_the_guest() {
    let address = std::env::var(HOST_VARIABLE).expect("started in a guest by the other tests of this file");
    let stream = TcpStream::connect(address).expect("the host listens");
    stream.set_nodelay(true).expect("its own socket");
    let platform = LocalPlatform::open(Path::new(FOLDER)).expect("the mount");
    let mut out = stream.try_clone().expect("another handle");
    for line in BufReader::new(stream).lines() {
        let line = line.expect("text");
        let words: Vec<&str> = line.split(' ').collect();
        let answer = obey(&platform, &words).unwrap_or_else(|error| format!("failed: {error}"));
        out.write_all(format!("{}\n", answer.replace('\n', " ")).as_bytes()).expect("the host is there");
    }
}

fn obey(platform: &LocalPlatform, words: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
    let register = |number: &str, apart| Ok::<_, std::num::ParseIntError>(ObjectName::register(&session(number.parse()?, apart)));
    match words {
        ["create", number, apart] => {
            let name = register(number, *apart == "apart")?;
            Ok(format!("ok {:?}", platform.create(&name, name.as_str().as_bytes(), Durability::Now)?))
        }
        ["list", dir] => Ok(format!("ok {}", platform.list(dir)?.iter().map(|name| name.file()).collect::<Vec<_>>().join(" "))),
        ["folders", dir] => Ok(format!("ok {}", platform.list_dirs(dir)?.join(" "))),
        ["read", number, apart] => {
            let found = platform.read(&register(number, *apart == "apart")?, 1000)?;
            Ok(if found.is_some() { "ok there".into() } else { "ok missing".into() })
        }
        ["size", number, apart] => Ok(if platform.size(&register(number, *apart == "apart")?)?.is_some() { "ok there".into() } else { "ok missing".into() }),
        ["discard", number, apart] => {
            let deleting = platform.deleting().ok_or("this storage can delete")?;
            Ok(format!("ok {}", deleting.discard(&register(number, *apart == "apart")?, 1)?))
        }
        ["plain", dir] => {
            let names: Result<Vec<_>, _> = std::fs::read_dir(Path::new(FOLDER).join(dir))?.collect();
            Ok(format!("ok {}", names?.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")))
        }
        ["plain-read", number, apart] => {
            let there = std::fs::File::open(Path::new(FOLDER).join(register(number, *apart == "apart")?.as_str())).is_ok();
            Ok(if there { "ok there".into() } else { "ok missing".into() })
        }
        _ => Err(format!("unknown step {words:?}").into()),
    }
}

/// Rounds of "two lists, one creates, two lists again"; gives how often a plain listing and ours missed it.
fn stale_lists(first: &mut Peer, second: &mut Peer, rounds: std::ops::Range<u64>) -> (u64, u64) {
    let dir = ObjectName::register(&session(0, false)).dir().to_owned();
    let (mut plain_stale, mut stale) = (0, 0);
    for round in rounds {
        let name = ObjectName::register(&session(round, false));
        second.step(&format!("list {dir}"));
        second.step(&format!("plain {dir}"));
        first.step(&format!("create {round} together"));
        plain_stale += u64::from(!second.sees(&format!("plain {dir}"), name.file()));
        stale += u64::from(!second.sees(&format!("list {dir}"), name.file()));
    }
    (plain_stale, stale)
}

/// Rounds of "two looks at a pack, one discards it, two looks again": a backup must not come to rely on it.
fn stale_sizes(first: &mut Peer, second: &mut Peer, rounds: std::ops::Range<u64>) -> (u64, u64) {
    let (mut plain_stale, mut stale) = (0, 0);
    for round in rounds {
        assert_eq!(second.step(&format!("size {round} apart")), "ok there");
        assert_eq!(second.step(&format!("plain-read {round} apart")), "ok there");
        assert_eq!(first.step(&format!("discard {round} apart")), "ok true");
        plain_stale += u64::from(second.step(&format!("plain-read {round} apart")) == "ok there");
        stale += u64::from(second.step(&format!("size {round} apart")) == "ok there");
    }
    (plain_stale, stale)
}

lab_test!(a_completed_create_is_in_the_next_listing_however_coarse_the_servers_times, options(), |lab| {
    let rig = Rig::start(&lab, HELPER, Setup { round_ns: Some(1_000_000_000), ..Setup::default() });
    let [mut first, mut second] = peers(&rig);
    first.step("create 0 together");
    let begin = Instant::now();
    let (plain, ours) = stale_lists(&mut first, &mut second, 1..ROUNDS + 1);
    println!(
        "times in steps of 1 s: plain listings stale {plain}/{ROUNDS}, ours {ours}/{ROUNDS}, {} ms a round",
        begin.elapsed().as_millis() / u128::from(ROUNDS)
    );
    assert_eq!(ours, 0);
});

lab_test!(what_was_missing_before_is_found_once_it_is_made, options(), |lab| {
    let mut rig = Rig::start(&lab, HELPER, Setup::default());
    {
        let [mut first, mut second] = peers(&rig);
        // The folder above all months is missing as well at first.
        assert_eq!(second.step("folders c"), "ok");
        let (mut plain_stale, mut stale) = (0, 0);
        for round in 0..ROUNDS {
            let name = ObjectName::register(&session(round, true));
            let (dir, month) = (name.dir(), name.dir().trim_start_matches("c/"));
            assert_eq!(second.step(&format!("list {dir}")), "ok");
            assert_eq!(second.step(&format!("plain-read {round} apart")), "ok missing");
            first.step(&format!("create {round} apart"));
            plain_stale += u64::from(second.step(&format!("plain-read {round} apart")) == "ok missing");
            // In turn, since each of them ends what this host believed.
            stale += u64::from(match round % 3 {
                0 => second.step(&format!("read {round} apart")) != "ok there",
                1 => !second.sees(&format!("list {dir}"), name.file()),
                _ => !second.sees("folders c", month),
            });
        }
        println!("missing before: plain opens stale {plain_stale}/{ROUNDS}, ours {stale}/{ROUNDS}");
        assert_eq!(stale, 0);
        let (plain, ours) = stale_sizes(&mut first, &mut second, 0..ROUNDS);
        println!("discarded: plain opens stale {plain}/{ROUNDS}, ours {ours}/{ROUNDS}");
        assert_eq!(ours, 0);
        first.step("create 0 together");
        let (plain, ours) = stale_lists(&mut first, &mut second, 1000..1000 + ROUNDS);
        println!("default options: plain listings stale {plain}/{ROUNDS}, ours {ours}/{ROUNDS}");
        assert_eq!(ours, 0);
    }
    mount_options(&mut rig);
});

/// `soft` is refused, `nocto` is warned about, a read-only mount is enough for reading.
fn mount_options(rig: &mut Rig) {
    rig.cairn(0, "init /mnt/nfs/store");
    rig.backup(0, &Image { common: 1, own: 2, mib: 2 });
    let (port, list) = (rig.server.port(), "CAIRN_STORE=/mnt/nfs/store CAIRN_KEY_FILE=/mnt/nfs/main.key cairn list");
    for (mount, code, word) in [
        ("soft", i64::from(cairn::REFUSED), "'soft'"),
        ("softerr", i64::from(cairn::REFUSED), "'softerr'"),
        ("hard,nocto", i64::from(cairn::DONE), "'nocto'"),
        ("hard", i64::from(cairn::DONE), ""),
    ] {
        rig.clients[1].unmount().expect("unmount");
        rig.clients[1].mount(port, mount).expect("mount");
        let done = rig.clients[1].exec(list).expect("it ends");
        assert_eq!(done.code, code, "{mount}: {done:?}");
        assert!(done.stderr.contains(word) && !done.stderr.contains("panicked"), "{mount}: {}", done.stderr);
        assert_eq!(done.stderr.matches("nocto").count(), usize::from(mount.contains("nocto")), "said once: {}", done.stderr);
    }
    rig.clients[1].unmount().expect("unmount");
    rig.clients[1].mount(port, "hard,ro").expect("mount");
    let [(id, image)] = &rig.points(1)[..] else { panic!("one point") };
    rig.assert_restores(1, id, image);
}
