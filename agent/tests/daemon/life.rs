//! One daemon: its start, its signals, its end.

use crate::{
    place::ended,
    served::{LIMIT, Served, send, wait_for},
};
use std::{
    fs::{self, File},
    os::{
        fd::OwnedFd,
        unix::{
            fs::MetadataExt,
            net::{UnixDatagram, UnixListener, UnixStream},
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

#[test]
fn a_second_one_is_refused_with_the_number_of_the_first() {
    let served = Served::started("");
    let second = served.run(&["daemon"]).expect(11);
    assert!(second.err.contains(&format!("process {},", served.pid())) && second.err.contains("systemctl stop"), "{}", second.err);
    // Another state, the same socket.
    let state = served.place.path("other").display().to_string();
    let third = served.run(&["daemon", "--state-dir", &state]).expect(13);
    assert!(third.err.contains("api.sock"), "{}", third.err);
    assert_eq!(served.get("/api/v1/health")["pid"], served.pid());
}

#[test]
fn it_ends_in_time_and_takes_its_socket_away_and_its_jobs_go_on() {
    for signal in [15, 2] {
        let mut served = Served::started("");
        let id = served.save_slowly("a", "slow");
        let pid = served.wait_pid(id);
        // A client that hangs in the middle of its request.
        let mut hung = UnixStream::connect(served.socket()).expect("connects");
        std::io::Write::write_all(&mut hung, b"GET /api").expect("sends");
        let began = Instant::now();
        served.signal(signal);
        let status = served.ended();
        assert!(status.success(), "{status:?}: {}", served.log());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(!served.socket().exists());
        assert!(fs::metadata(format!("/proc/{pid}")).is_ok(), "the job goes on");
        served.open_pipe("a");
        served.start();
        served.wait_state(id, "failed");
    }
}

#[test]
fn a_file_that_never_answers_holds_up_nobody() {
    let mut served = Served::started("");
    let id = served.save_slowly("a", "first");
    served.wait_pid(id);
    // A disk that hangs: opening a pipe that nobody writes to.
    let progress = served.state().join(format!("jobs/{id}/progress.json"));
    let _ = fs::remove_file(&progress);
    nix::unistd::mkfifo(&progress, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    for _ in 0..6 {
        let began = Instant::now();
        assert!(served.job(id)["progress"].is_null());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!(served.get("/api/v1/health")["jobs"]["running"], 1);
    let began = Instant::now();
    served.signal(15);
    served.ended();
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    fs::remove_file(&progress).expect("ours");
    served.start();
    served.open_pipe("a");
    served.wait_state(id, "failed");
}

#[test]
fn a_state_folder_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::new("");
    fs::create_dir_all(served.state()).expect("the folder");
    fs::set_permissions(served.state(), fs::Permissions::from_mode(0o777)).expect("ours");
    let ended = served.run(&["daemon"]);
    assert!(ended.code == 13 && ended.err.contains("others could write"), "{ended:?}");
}

#[test]
fn systemd_hears_when_it_is_ready_reloads_and_ends_and_that_it_lives() {
    let mut served = Served::new("");
    let at = served.place.path("notify.sock");
    let notified = UnixDatagram::bind(&at).expect("binds");
    notified.set_read_timeout(Some(LIMIT)).expect("sets");
    let mut heard = String::new();
    let mut hear = |wanted: &str| {
        while !heard.contains(wanted) {
            let mut bytes = [0; 4096];
            let n = notified.recv(&mut bytes).unwrap_or_else(|e| panic!("{wanted}: {e} after {heard:?}"));
            heard.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
    };
    served.start_by(|mut command| {
        command.env("NOTIFY_SOCKET", &at).env("WATCHDOG_USEC", "3000000");
        command
    });
    hear("READY=1");
    hear("WATCHDOG=1");
    hear("STATUS=jobs: 0 running, 0 waiting");
    served.signal(1);
    hear("RELOADING=1\nMONOTONIC_USEC=");
    served.signal(15);
    hear("STOPPING=1");
    assert!(served.ended().success());
}

#[test]
fn a_socket_that_systemd_hands_over_is_used_and_left() {
    let mut served = Served::new("");
    let listener = UnixListener::bind(served.socket()).expect("binds");
    let inode = |served: &Served| fs::metadata(served.socket()).expect("is there").ino();
    let before = inode(&served);
    served.start_by(|command| handed(&command, listener));
    assert_eq!(inode(&served), before, "no socket of its own");
    assert_eq!(served.troubles(), [""; 0]);
    // A job hears nothing of it.
    let id = served.save("nothing", "x");
    served.wait_state(id, "failed");
    served.signal(15);
    assert!(served.ended().success());
    assert_eq!(inode(&served), before, "it is systemd's");
}

#[test]
fn what_is_no_listening_socket_is_refused() {
    let served = Served::new("");
    let file = File::open(served.config()).expect("opens");
    let command = served.command(&["daemon"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" daemon 3<&0 </dev/null"]).arg(command.get_program());
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let refused = ended(shell.stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped())).expect(2);
    assert!(refused.err.contains("LISTEN_FDS") && refused.err.contains("no socket"), "{}", refused.err);
}

#[test]
fn the_socket_is_for_its_owner_and_a_dead_one_is_replaced() {
    let mut served = Served::started("");
    assert_eq!(fs::metadata(served.socket()).expect("is there").mode() & 0o777, 0o600);
    served.kill();
    assert!(served.socket().exists(), "nobody took it away");
    served.start();
    served.signal(15);
    assert!(served.ended().success());
    // What is no socket is somebody's.
    fs::write(served.socket(), "mine").expect("writes");
    let refused = served.run(&["daemon"]).expect(13);
    assert!(refused.err.contains("no socket"), "{}", refused.err);
    assert_eq!(fs::read_to_string(served.socket()).expect("reads"), "mine");
}

#[test]
fn a_socket_that_is_removed_is_made_anew_and_what_is_anothers_is_left() {
    let mut served = Served::started("");
    for _ in 0..2 {
        fs::remove_file(served.socket()).expect("there");
        wait_for("it listens anew", || UnixStream::connect(served.socket()).is_ok());
        assert_eq!(fs::metadata(served.socket()).expect("is there").mode() & 0o777, 0o600);
        assert_eq!((served.get("/api/v1/health")["pid"].as_i64(), served.troubles()), (Some(served.pid().into()), Vec::new()));
    }
    let left = fs::read_dir(served.socket().parent().expect("a folder"))
        .expect("reads")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(".api.sock"));
    assert_eq!(left.count(), 0, "nothing stays beside it");
    fs::remove_file(served.socket()).expect("there");
    fs::write(served.socket(), "mine").expect("writes");
    wait_for("it says why nobody finds it", || served.log().contains("is there and is no socket"));
    assert_eq!(fs::read_to_string(served.socket()).expect("reads"), "mine");
    fs::remove_file(served.socket()).expect("ours");
    wait_for("it listens anew", || UnixStream::connect(served.socket()).is_ok());
    assert_eq!(served.troubles(), [""; 0]);
    served.signal(15);
    assert!(served.ended().success());
    assert!(!served.socket().exists(), "its own, and it takes it away");
}

#[test]
fn without_a_daemon_commands_say_what_to_do_at_once() {
    let served = Served::new("");
    let began = Instant::now();
    for args in [&["jobs"][..], &["job", "run", "--domain", "web"], &["job", "cancel", "1"], &["job", "log", "1", "--follow"], &["daemon", "--reload"]] {
        let failed = served.run(args).expect(1);
        assert!(
            failed.err.contains("no daemon answers") && failed.err.contains("systemctl start cairn") && failed.err.contains("--socket PATH"),
            "{}",
            failed.err
        );
    }
    // Nor where a dead one left its socket.
    drop(UnixListener::bind(served.socket()).expect("binds"));
    let failed = served.run(&["jobs", "--json"]).expect(1);
    assert!(failed.err.contains("no daemon answers") && failed.err.starts_with("{\"error\""), "{}", failed.err);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

/// The command as systemd starts it: the descriptor is 3, and the number is the process's own.
fn handed(command: &Command, listener: UnixListener) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\" 3<&0 </dev/null"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.stdin(OwnedFd::from(listener));
    shell
}

#[test]
fn a_socket_of_systemds_at_another_path_than_the_configurations_is_answered_at_both() {
    let mut served = Served::new("");
    let other = served.place.path("systemd.sock");
    let listener = UnixListener::bind(&other).expect("binds");
    served.start_by(|command| handed(&command, listener));
    let at = |socket: &Path| served.run(&["jobs", "--json", "--socket", &socket.display().to_string()]).expect(0);
    at(&served.socket());
    at(&other);
    let log = served.log();
    assert!([&other, &served.socket()].iter().all(|path| log.contains(&path.display().to_string())) && log.contains("ListenStream="), "{log}");
    assert_eq!(served.troubles(), [""; 0], "both are answered");
    served.signal(15);
    assert!(served.ended().success());
    assert!(other.exists() && !served.socket().exists(), "each is removed by who made it");
    // Where it cannot answer at both it answers where it can, and says so.
    fs::remove_file(&other).expect("ours");
    let listener = UnixListener::bind(&other).expect("binds");
    fs::write(served.socket(), "mine").expect("writes");
    let (wanted, mut command) = (served.socket(), served.command(&["daemon"]));
    let mut child = handed(command.stdout(Stdio::null()).stderr(Stdio::null()), listener).spawn().expect("starts");
    let mut health = serde_json::Value::Null;
    wait_for("it answers", || {
        let mut stream = UnixStream::connect(&other).expect("listens");
        stream.set_read_timeout(Some(LIMIT)).expect("sets");
        std::io::Write::write_all(&mut stream, b"GET /api/v1/health HTTP/1.1\r\nhost: x\r\n\r\n").expect("sends");
        let text = std::io::read_to_string(stream).unwrap_or_default();
        health = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or_default();
        health["status"].is_string()
    });
    child.kill().expect("our own child");
    child.wait().expect("ends");
    let told = health["reasons"].to_string();
    assert!(
        health["status"] == "degraded" && told.contains(&wanted.display().to_string()) && told.contains("is no socket") && told.contains("ListenStream="),
        "{health}"
    );
}

#[test]
fn a_daemon_whose_state_folder_is_taken_away_begins_nothing_more_and_ends() {
    let mut served = Served::started("daemon: { jobs_max: 1 }\n");
    fs::write(served.place.path("image"), crate::place::noise(200_000, 1)).expect("writes");
    let slow = served.save_slowly("a", "slow");
    served.wait_pid(slow);
    served.save("image", "waits");
    // Another daemon takes its place at once, and the turn of what waits comes at the same moment.
    fs::rename(served.state(), served.place.path("aside")).expect("moved");
    let other = served.place.path("other.sock").display().to_string();
    let mut second = served.command(&["daemon", "--socket", &other]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    served.open_pipe("a");
    let began = Instant::now();
    let status = served.ended();
    assert!(status.code() == Some(1) && began.elapsed() < Duration::from_secs(15), "{status:?} after {:?}", began.elapsed());
    let log = served.log();
    assert!(log.contains(&format!("the state folder {} was removed or replaced", served.state().display())), "{log}");
    wait_for("the new one answers", || UnixStream::connect(&other).is_ok());
    let jobs = served.run(&["jobs", "--all", "--json", "--socket", &other]).expect(0).json();
    assert_eq!(jobs.as_array().expect("a list").len(), 0, "it knows nothing of the other's");
    assert!(served.points("waits").is_empty(), "nobody began it");
    send(second.id().cast_signed(), 15);
    assert!(second.wait().expect("ends").success());
}
