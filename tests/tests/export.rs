//! Points of images: handed out whole, compared with each other, and brought back in place. Clients are those that people have.

use cairn_lab::cairn::{Cairn, DONE, NOT_FOUND, REFUSED, USAGE, WARNINGS};
use cairn_lab::loops::Loop;
use cairn_lab::suite::assert_refused;
use cairn_lab::{Lab, Options, lab_test, process, reference};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 300 * MIB;

struct Points {
    cairn: Cairn,
    image: PathBuf,
    /// Copies of the image at both points.
    references: [PathBuf; 2],
    ids: Vec<String>,
}

fn noise(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len / 8).flat_map(|_| next().to_le_bytes()).collect()
}

fn copy(from: &Path, to: &Path) {
    process::run_ok(Command::new("cp").arg("--sparse=always").arg(from).arg(to), LIMIT).expect("copies");
}

/// A sparse image with islands of data; between the points one MiB changed, one became zero, and the last bytes.
fn points(lab: &Lab) -> Points {
    let cairn = Cairn::new(lab, "store").expect("a program under test");
    cairn.init().expect("init");
    let image = lab.dir().join("disk.raw");
    let file = File::create(&image).expect("creates");
    file.set_len(SIZE).expect("size");
    for n in 0..10 {
        file.write_all_at(&noise(n + 1, 8 * MIB), n * 30 * MIB).expect("writes");
    }
    let save = |name: &str| {
        let reference = lab.dir().join(name);
        copy(&image, &reference);
        cairn.ok(&["backup-image", &image.to_string_lossy(), "--name", "disk"]).expect("backup");
        reference
    };
    let first = save("first.raw");
    file.write_all_at(&noise(100, MIB), 61 * MIB).expect("writes");
    file.write_all_at(&vec![0; MIB as usize], 121 * MIB).expect("writes");
    file.write_all_at(&noise(101, 4096), SIZE - 4096).expect("writes");
    let second = save("second.raw");
    let ids = cairn.points("disk").expect("list");
    Points { cairn, image, references: [first, second], ids }
}

fn no_guest() -> Options {
    Options { guest: false, ..Options::small() }
}

/// An export that is being served.
struct Served {
    child: Child,
    uri: String,
}

fn serve(cairn: &Cairn, args: &[&str]) -> Served {
    let mut command = cairn.command(&[&["export"], args, &["--json"]].concat());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut text = String::new();
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    // One object; it is written as a whole before the first client is served.
    while !text.trim_end().ends_with('}') {
        assert!(lines.read_line(&mut text).expect("reads") > 0, "it ended: {text}");
    }
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    Served { child, uri: told["uri"].as_str().expect("an address").to_owned() }
}

impl Served {
    /// Ends it; gives what it said besides.
    fn stop(mut self) -> String {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("our own child");
        let status = process::wait_limit(&mut self.child, "export", LIMIT).expect("it ends");
        assert_eq!(process::exit_code(status), DONE, "the end that was asked for is a good one");
        let mut said = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        said
    }
}

fn tool(command: &mut Command) -> String {
    process::run_ok(command, LIMIT).expect("the tool is content")
}

lab_test!(files_streams_and_nbd_hold_the_point, no_guest(), |lab| {
    let p = points(&lab);
    let (raw, qcow2) = (lab.dir().join("out.raw"), lab.dir().join("out.qcow2"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    p.cairn.ok(&["export", &p.ids[0], "--raw", &text(&raw)]).expect("export");
    assert_eq!(reference::difference(&p.references[0], &raw).expect("readable"), None);
    let meta = raw.metadata().expect("there");
    assert!(meta.blocks() * 512 < SIZE / 2, "sparse: {} of {SIZE}", meta.blocks() * 512);
    assert_refused(&p.cairn.run(&["export", &p.ids[1], "--raw", &text(&raw)]).expect("it ends"), REFUSED, "--force");
    p.cairn.ok(&["export", &p.ids[1], "--disk", "disk0", "--qcow2", &text(&qcow2)]).expect("export");
    tool(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2"]).arg(&p.references[1]).arg(&qcow2));
    assert_refused(&p.cairn.run(&["export", &p.ids[1], "--disk", "vdz", "--raw", "-"]).expect("it ends"), NOT_FOUND, "vdz");

    // The stream, to a file that is not made by us.
    let streamed = lab.dir().join("streamed.raw");
    let mut command = p.cairn.command(&["export", &p.ids[1], "--raw", "-"]);
    let mut child = command.stdin(Stdio::null()).stdout(File::create(&streamed).expect("creates")).spawn().expect("starts");
    assert!(process::wait_limit(&mut child, "export to a stream", LIMIT).expect("it ends").success());
    assert_eq!(reference::difference(&p.references[1], &streamed).expect("readable"), None);
    // A reader that leaves: quiet, and no failure.
    let mut command = p.cairn.command(&["export", &p.ids[1], "--raw", "-"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut start = vec![0; 1 << 20];
    let mut pipe = child.stdout.take().expect("piped");
    pipe.read_exact(&mut start).expect("reads");
    drop(pipe);
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    let status = process::wait_limit(&mut child, "export to a closed pipe", LIMIT).expect("it ends");
    assert_eq!((process::exit_code(status), said.as_str()), (DONE, ""));

    let socket = lab.dir().join("nbd.sock");
    let served = serve(&p.cairn, &[&p.ids[1], "--nbd", &text(&socket)]);
    println!("{}", served.uri);
    tool(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&p.references[1]).arg(&served.uri));
    let copied = lab.dir().join("copied.raw");
    tool(Command::new("nbdcopy").arg(&served.uri).arg(&copied));
    assert_eq!(reference::difference(&p.references[1], &copied).expect("readable"), None);
    let map = tool(Command::new("nbdinfo").args(["--map", "--totals"]).arg(&served.uri));
    println!("{map}");
    assert!(map.contains("data") && map.contains("zero"), "{map}");
    assert!(tool(Command::new("nbdinfo").arg(&served.uri)).contains("is_read_only: true"));
    assert!(!served.stop().contains("plain text"), "a socket is for root and its owner alone");
    assert!(!socket.exists(), "it leaves no socket");
    let served = serve(&p.cairn, &[&p.ids[0], "--nbd", "tcp://127.0.0.1:0"]);
    tool(Command::new("qemu-img").args(["compare", "-f", "raw", "-F", "raw"]).arg(&p.references[0]).arg(&served.uri));
    let said = served.stop();
    assert!(said.contains("plain text") && said.contains("--tls-cert"), "{said}");
    over_tls(&p, &lab.dir());
    assert_refused(&p.cairn.run(&["export", &p.ids[0], "--nbd", "tcp://0.0.0.0:0"]).expect("it ends"), USAGE, "TLS");
});

/// An authority with a server and a client, named as NBD programs expect them.
fn authority(dir: &Path) {
    std::fs::create_dir_all(dir).expect("folder");
    let openssl = |args: &str| tool(Command::new("openssl").args(args.split_whitespace()).current_dir(dir));
    let new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("{new} -x509 -days 2 -subj /CN=authority -keyout ca-key.pem -out ca-cert.pem"));
    for (who, more) in [("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")] {
        std::fs::write(dir.join("ext"), format!("basicConstraints=CA:FALSE\n{more}\n")).expect("written");
        openssl(&format!("{new} -subj /CN={who} -keyout {who}-key.pem -out request.pem"));
        let signed = "-CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext";
        openssl(&format!("x509 -req -in request.pem {signed} -out {who}-cert.pem"));
    }
}

/// On any address with TLS, for clients with a certificate alone.
fn over_tls(p: &Points, dir: &Path) {
    let certificates = dir.join("certificates");
    authority(&certificates);
    let file = |name: &str| certificates.join(name).to_string_lossy().into_owned();
    let (certificate, key, ca) = (file("server-cert.pem"), file("server-key.pem"), file("ca-cert.pem"));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca];
    let served = serve(&p.cairn, &[&[p.ids[1].as_str(), "--nbd", "tcp://0.0.0.0:0"][..], &tls].concat());
    println!("{}", served.uri);
    let uri = served.uri.replace("0.0.0.0", "localhost");
    let copied = dir.join("copied-by-tls.raw");
    tool(Command::new("nbdcopy").arg(format!("{uri}?tls-certificates={}", certificates.display())).arg(&copied));
    assert_eq!(reference::difference(&p.references[1], &copied).expect("readable"), None);
    for stranger in [uri.clone(), uri.replace("nbds:", "nbd:")] {
        let output = process::run(Command::new("nbdinfo").arg(&stranger), LIMIT).expect("it ends");
        assert!(!output.status.success(), "{stranger} was served: {}", output.text());
    }
    assert!(!served.stop().contains("plain text"));
}

fn as_disk0(path: &Path) -> String {
    format!("disk0={}", path.display())
}

lab_test!(a_device_comes_back_in_place, no_guest(), |lab| {
    let p = points(&lab);
    let file = lab.dir().join("device");
    let tail = noise(200, 8 * MIB);
    copy(&p.references[1], &file);
    File::options().write(true).open(&file).and_then(|f| f.write_all_at(&tail, SIZE)).expect("a longer one");
    let device = Loop::over(&file).expect("a loop device");
    let disk = as_disk0(Path::new(device.path()));
    let restore = ["restore", &p.ids[0], "--in-place", "--disk", &disk];
    assert_refused(&p.cairn.run(&restore).expect("it ends"), REFUSED, "the rest of the device becomes zero");
    assert_eq!(std::fs::read(&file).expect("reads").split_off(usize::try_from(SIZE).expect("small")), tail, "nothing was written");
    let told = p.cairn.json(&[&restore[..], &["--force", "--verify"]].concat()).expect("restore in place");
    println!("{told}");
    // Two MiB that changed or became data again; of the rest only what was not zero.
    assert_eq!((&told["disks"][0]["written"], &told["disks"][0]["verified"]), (&(2 * MIB).into(), &true.into()));
    drop(device);
    let now = std::fs::read(&file).expect("reads");
    let (disk, rest) = now.split_at(usize::try_from(SIZE).expect("small"));
    assert!(disk == std::fs::read(&p.references[0]).expect("reads"), "the device is not the point");
    assert!(rest.len() == tail.len() && rest.iter().all(|byte| *byte == 0), "the rest is not zero");

    File::options().write(true).open(&file).and_then(|f| f.set_len(SIZE - MIB)).expect("a shorter one");
    let device = Loop::over(&file).expect("a loop device");
    let disk = as_disk0(Path::new(device.path()));
    let output = p.cairn.run(&["restore", &p.ids[0], "--in-place", "--disk", &disk, "--force"]).expect("it ends");
    assert_refused(&output, REFUSED, "make it larger first");
    drop(device);
});

lab_test!(differences_are_told_and_images_come_back_in_place, no_guest(), |lab| {
    let p = points(&lab);
    let [a, b] = [&p.ids[0], &p.ids[1]];
    let diff = |args: &[&str]| {
        let output = p.cairn.run(&[&["diff"], args, &["--json"]].concat()).expect("it ends");
        (output.code(), serde_json::from_str::<serde_json::Value>(&output.text()).expect("JSON"))
    };
    let (code, told) = diff(&[a, b, "--ranges"]);
    let disk = &told["disks"][0];
    println!("{told}");
    assert_eq!((code, &told["equal"], &disk["in"]), (WARNINGS, &false.into(), &"both".into()));
    let ranges: Vec<(u64, u64)> =
        disk["ranges"].as_array().expect("ranges").iter().map(|r| (r["offset"].as_u64().expect("number"), r["length"].as_u64().expect("number"))).collect();
    let holds = |from: u64, to: u64| ranges.iter().any(|(offset, length)| *offset <= from && offset + length >= to);
    assert!(holds(61 * MIB, 62 * MIB) && holds(121 * MIB, 122 * MIB) && holds(SIZE - 4096, SIZE), "{ranges:?}");
    let bytes: u64 = ranges.iter().map(|r| r.1).sum();
    assert!(disk["bytes"] == bytes && bytes < 4 * MIB, "{disk}");
    let (code, told) = diff(&[a, a]);
    assert_eq!((code, &told["equal"], &told["disks"][0]["bytes"]), (DONE, &true.into(), &0.into()));
    let people = p.cairn.run(&["diff", a, b]).expect("it ends");
    assert!(people.text().contains("ranges") && people.code() == WARNINGS, "{}", people.text());
    assert_refused(&p.cairn.run(&["diff", a, b, "--disk", "vda"]).expect("it ends"), NOT_FOUND, "vda");

    let told = p.cairn.json(&["restore", a, "--in-place", "--dry-run"]).expect("dry run");
    let disk = &told["disks"][0];
    // The MiB that changed, the one that became zero, the last block: to the byte.
    assert_eq!((&disk["written"], &disk["zeroed"]), (&(2 * MIB).into(), &4096.into()), "{told}");
    assert_eq!(reference::difference(&p.references[1], &p.image).expect("readable"), None);
    let told = p.cairn.json(&["restore", a, "--in-place", "--verify"]).expect("restore in place");
    assert_eq!(reference::difference(&p.references[0], &p.image).expect("readable"), None);
    assert_eq!((&told["disks"][0]["written"], &told["disks"][0]["unchanged"]), (&(2 * MIB).into(), &(SIZE - 2 * MIB - 4096).into()));
    let other = lab.dir().join("other.raw");
    copy(&p.references[0], &other);
    p.cairn.ok(&["restore", b, "--in-place", "--disk", &format!("disk0={}", other.display())]).expect("restore in place");
    assert_eq!(reference::difference(&p.references[1], &other).expect("readable"), None);
    assert_refused(&p.cairn.run(&["restore", b, "--in-place", "--start"]).expect("it ends"), USAGE, "image");
});
