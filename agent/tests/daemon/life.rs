//! One daemon: its start, its signals, its end.

use crate::{
    place::ended,
    served::{LIMIT, Served},
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
    served.start_by(|command| {
        // As systemd does it: the descriptor is 3, and the number is the process's own.
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
    });
    assert_eq!(inode(&served), before, "no socket of its own");
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
fn without_a_daemon_commands_say_what_to_do_at_once() {
    let served = Served::new("");
    let began = Instant::now();
    for args in [&["jobs"][..], &["job", "run", "--domain", "web"], &["job", "cancel", "1"], &["job", "log", "1", "--follow"], &["daemon", "--reload"]] {
        let failed = served.run(args).expect(1);
        assert!(failed.err.contains("no daemon answers") && failed.err.contains("systemctl start cairn"), "{}", failed.err);
    }
    // Nor where a dead one left its socket.
    drop(UnixListener::bind(served.socket()).expect("binds"));
    let failed = served.run(&["jobs", "--json"]).expect(1);
    assert!(failed.err.contains("no daemon answers") && failed.err.starts_with("{\"error\""), "{}", failed.err);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}
