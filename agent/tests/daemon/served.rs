//! A daemon in a folder of its own, with a store, and ways to ask it.

use crate::place::{Ended, Place, ended};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream, process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Named pipes that stand where a passphrase should.
const PIPES: [&str; 3] = ["a", "b", "c"];
/// Nothing that is waited for takes longer on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A place with a configuration, and its daemon.
pub struct Served {
    pub place: Place,
    child: Option<Child>,
}

impl Served {
    /// With a store `main`, and these lines more.
    pub fn new(more: &str) -> Self {
        let served = Self { place: Place::new(), child: None };
        for pipe in PIPES {
            let path = std::ffi::CString::new(served.place.path(pipe).display().to_string()).expect("no zero");
            nix::unistd::mkfifo(path.as_c_str(), nix::sys::stat::Mode::S_IRWXU).expect("makes a pipe");
        }
        served.configure(more);
        served
    }

    /// With its daemon, which answers.
    pub fn started(more: &str) -> Self {
        let mut served = Self::new(more);
        served.start();
        served
    }

    pub fn configure(&self, more: &str) {
        let (store, key) = (self.place.store(), self.place.path("key"));
        let mut text = format!("stores:\n  main: {{ url: {}, key_file: {} }}\n", store.display(), key.display());
        for pipe in PIPES {
            writeln!(text, "  slow-{pipe}: {{ url: {}, passphrase_file: {} }}", store.display(), self.place.path(pipe).display()).expect("to memory");
        }
        text.push_str(more);
        fs::write(self.config(), text).expect("writes");
    }

    pub fn config(&self) -> PathBuf {
        self.place.path("cairn.yaml")
    }
    pub fn socket(&self) -> PathBuf {
        self.place.path("api.sock")
    }
    pub fn state(&self) -> PathBuf {
        self.place.path("state")
    }

    /// The program with this configuration and socket; its store is named nowhere else.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.place.command(args);
        for variable in ["CAIRN_STORE", "CAIRN_KEY_FILE", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"] {
            command.env_remove(variable);
        }
        command.env("CAIRN_CONFIG", self.config()).env("CAIRN_SOCKET", self.socket());
        // Nobody's libvirt.
        command.env("LIBVIRT_DEFAULT_URI", "test:///default");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        ended(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    pub fn start(&mut self) {
        self.start_by(|command| command);
    }

    /// Starts it with something more, and waits until it answers.
    pub fn start_by(&mut self, more: impl FnOnce(Command) -> Command) {
        let log = File::options().create(true).append(true).open(self.place.path("daemon.log")).expect("opens");
        let mut command = more(self.command(&["daemon", "-v"]));
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("starts"));
        // A child of a daemon that was killed may have its socket for a moment more, and takes callers in that nobody answers.
        let pid = format!("\"pid\":{}", self.pid());
        wait_for("the daemon answers", || self.said("GET /api/v1/health HTTP/1.1\r\nhost: cairn\r\n\r\n").is_ok_and(|text| text.contains(&pid)));
        assert_eq!(self.get("/api/v1/health")["pid"], self.pid());
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("started").id().cast_signed()
    }

    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Kills it, as the kernel would that has no memory left.
    pub fn kill(&mut self) {
        self.signal(9);
        assert_eq!(self.ended().signal(), Some(9));
    }

    /// How it ended, in its limit.
    pub fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("started");
        let began = Instant::now();
        loop {
            match child.try_wait().expect("waits") {
                Some(status) => return status,
                None if began.elapsed() > LIMIT => {
                    child.kill().expect("our own child");
                    panic!("the daemon does not end: {}", self.log());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path("daemon.log")).unwrap_or_default()
    }

    /// A request as anybody may send it; status and body.
    pub fn raw(&self, request: &str) -> (u16, Value) {
        let text = self.said(request).expect("an answer");
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {text:?}"));
        let body = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no body in {text:?}")).1;
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e} in {text:?}")))
    }

    fn said(&self, request: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(request.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nhost: cairn\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    pub fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    /// Why the daemon's health is not good. Not that it cannot hear libvirt's hook: these daemons run beside each other, and one of a host hears it. Nor that
    /// its looks fail, after a while: libvirt's test driver is too old for them.
    pub fn troubles(&self) -> Vec<String> {
        let health = self.get("/api/v1/health");
        let reasons: Vec<String> = serde_json::from_value(health["reasons"].clone()).unwrap_or_else(|e| panic!("{e}: {health}"));
        assert_eq!(health["status"] == "ok", reasons.is_empty(), "{health}");
        reasons.into_iter().filter(|reason| !reason.contains("libvirt's hook") && !reason.contains("looks at domains failed")).collect()
    }

    pub fn job(&self, id: i64) -> Value {
        self.get(&format!("/api/v1/jobs/{id}"))
    }

    /// Has an image saved; the number of the job.
    pub fn save(&self, image: &str, name: &str) -> i64 {
        self.save_into("main", image, name)
    }

    /// The same for a job that waits for its passphrase, until somebody opens the pipe; then it fails with 12.
    pub fn save_slowly(&self, pipe: &str, name: &str) -> i64 {
        self.save_into(&format!("slow-{pipe}"), "nothing", name)
    }

    fn save_into(&self, store: &str, image: &str, name: &str) -> i64 {
        let body = format!("{{\"image\": \"{}\", \"name\": \"{name}\", \"store\": \"{store}\"}}", self.place.path(image).display());
        let (status, said) = self.ask("POST", "/api/v1/backups", &body);
        assert_eq!(status, 202, "{said}");
        said["jobs"][0]["id"].as_i64().expect("a number")
    }

    /// Waits until a job is in a state.
    pub fn wait_state(&self, id: i64, state: &str) -> Value {
        let mut job = Value::Null;
        wait_for_or(
            || {
                job = self.job(id);
                job["state"] == state
            },
            || format!("job {id} is not {state}: {}", self.job(id)),
        );
        job
    }

    /// Waits until a job's process is there; its number.
    pub fn wait_pid(&self, id: i64) -> i32 {
        let job = |served: &Self| served.job(id)["pid"].as_i64();
        wait_for("its process is noted", || job(self).is_some());
        i32::try_from(job(self).expect("seen")).expect("a process")
    }

    /// Stops a job's process (SIGSTOP) as soon as there is one; its number.
    pub fn stop(&self, id: i64) -> i32 {
        let begun = self.state().join(format!("jobs/{id}/process.json"));
        let until = Instant::now() + LIMIT;
        loop {
            let pid = fs::read(&begun).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()?["pid"].as_i64());
            if let Some(pid) = pid.and_then(|pid| i32::try_from(pid).ok()) {
                send(pid, 19);
                return pid;
            }
            assert!(Instant::now() < until, "job {id} does not start: {}", self.job(id));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets whoever waits at a pipe go on, without a passphrase; somebody must be about to wait there.
    pub fn open_pipe(&self, pipe: &str) {
        let mut opened = None;
        // Without a reader it is no pipe that can be written to, yet.
        wait_for("somebody waits at the pipe", || {
            opened = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(self.place.path(pipe)).ok();
            opened.is_some()
        });
    }

    /// Ids of points by name.
    pub fn points(&self, name: &str) -> Vec<String> {
        let listed = self.place.run(&["list", name, "--json"]);
        if listed.code == 15 {
            return Vec::new();
        }
        let listed = listed.expect(0).json();
        listed.as_array().expect("a list").iter().map(|p| p["id"].as_str().expect("an id").to_owned()).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Jobs that a failed test left must not outlive its folder.
            for job in fs::read_dir(self.state().join("jobs")).into_iter().flatten().flatten() {
                if !job.path().join("exit.json").exists() {
                    File::create(job.path().join("cancel")).ok();
                }
            }
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The command in a name space of mounts of its own, after a script; who is not root is it in one of users. The process stays the same.
pub fn apart(command: &Command, script: &str) -> Command {
    let mut out = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        out.args(["--user", "--map-root-user"]);
    }
    out.args(["--mount", "--", "sh", "-c", &format!("{script} && exec \"$0\" \"$@\"")]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => out.env(name, value),
            None => out.env_remove(name),
        };
    }
    out
}

pub fn send(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it lives");
}

pub fn wait_for(what: &str, ready: impl FnMut() -> bool) {
    wait_for_or(ready, || format!("not in {} s: {what}", LIMIT.as_secs()));
}

fn wait_for_or(mut ready: impl FnMut() -> bool, why: impl Fn() -> String) {
    let until = Instant::now() + LIMIT;
    while !ready() {
        assert!(Instant::now() < until, "{}", why());
        std::thread::sleep(Duration::from_millis(20));
    }
}
