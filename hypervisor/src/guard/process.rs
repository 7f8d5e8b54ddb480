//! The guard process itself.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cairn_quiesce::guard::{Actions, CLEAN_UP_LIMIT, Ended, Event, HUNG_PAUSE, RETRY_PAUSE, Reason, Verdict, Watch, call_limit, end, take_over};
use cairn_quiesce::late::{Answer, Late, Thaw};
use cairn_quiesce::record::{self, RECORD_DIR_DEFAULT};
use cairn_quiesce::{channel, freeze};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, setsid};

use super::clean_up;
use super::config::{CONFIG_BYTES_MAX, FROZEN_REMEDY, GuardConfig, GuardTask, message};
use super::scratch_eye::ScratchEye;
use super::words::{Words, let_go_of_stderr, null};
use crate::capture::scratch;
use crate::host::{Host, HostError};

/// How often scratch is looked at; the document says at least every 200 ms.
const TICK: Duration = Duration::from_millis(150);
/// Between two thaws by a guard that lingers, after one that hung: libvirt goes on with a call for 8 s after its caller was given up, and calls must not
/// pile up in it.
const LINGER_PAUSE: Duration = Duration::from_secs(10);
/// The same after one that failed by itself: an agent that went away may be back at any moment.
const LINGER_PAUSE_SHORT: Duration = Duration::from_secs(2);
/// A thaw through libvirt.
const THAW_LIMIT: Duration = Duration::from_secs(3);
/// One clean-up: end of the job, exports, bitmaps.
const CLEAN_UP_CHILD_LIMIT: Duration = Duration::from_secs(120);
/// So many failures are an alarm even after a thaw that succeeded.
const FAILED_THAWS_MAX: u32 = 3;
const POLL: Duration = Duration::from_millis(20);

const EXIT_DONE: u8 = 0;
const EXIT_FAILED: u8 = 1;
/// Of a thaw: answered through libvirt, and nothing was frozen.
const EXIT_NOTHING: u8 = 2;
/// The same, and something was.
const EXIT_THAWED: u8 = 3;
/// How libvirt's library says that nobody listens at libvirt's socket. Everything else may come from a libvirt that lives: too many clients, no answer.
const NOBODY_LISTENS: &str = "Failed to connect socket";

/// Runs what standard input asks for (`cairn guard`); gives the exit code that the process must end with. Standard output is the domain's lock and is
/// never written to.
#[must_use = "a guard reads it from its children"]
pub fn main() -> u8 {
    let task = match read_task() {
        Ok(task) => task,
        Err(problem) => {
            tracing::error!(%problem, "guard: this command is started by `cairn backup` and of no use by itself");
            return EXIT_FAILED;
        }
    };
    match task {
        GuardTask::Watch(config) => watch(&config),
        GuardTask::Thaw { config, limit } => thaw_child(&config, limit),
        GuardTask::CleanUp { config, keep_bitmaps } => clean_up_child(&config, keep_bitmaps),
    }
}

/// A byte a read: the bytes behind the line are messages.
fn read_task() -> Result<GuardTask, String> {
    let mut line = Vec::new();
    let input = socket().map_err(|error| error.to_string())?;
    loop {
        let mut byte = [0];
        (&input).read_exact(&mut byte).map_err(|error| error.to_string())?;
        if byte == *b"\n" {
            return serde_json::from_slice(&line).map_err(|error| error.to_string());
        }
        line.push(byte[0]);
        if line.len() > CONFIG_BYTES_MAX {
            return Err("too long".to_owned());
        }
    }
}

fn socket() -> std::io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}

struct Guard<'a> {
    config: &'a GuardConfig,
    job: OwnedFd,
    scratch: ScratchEye,
    /// A thaw failed and that was said.
    alarmed: bool,
    /// The guest was thawed once; what is tried after that is for a freeze that came late.
    thawed_once: bool,
    failed_thaws: u32,
    /// Whether a freeze may come after a thaw.
    late: Late,
    /// The last thaw did not even fail.
    hung: bool,
    /// When a freeze was announced.
    frozen_at: Option<Instant>,
    /// The admin's program, which was started then.
    help: Option<std::process::Child>,
    /// Where its words go.
    words: Option<Words>,
}

fn watch(config: &GuardConfig) -> u8 {
    // Fails only for a process that leads its group already, which then has a session of its own in all but name.
    if let Err(error) = setsid() {
        tracing::debug!(%error, "setsid");
    }
    // Blocked, not ignored: children start with an empty mask and stay killable.
    if let Err(error) = nix::sys::signal::SigSet::all().thread_block() {
        tracing::warn!(%error, "guard: signals could not be blocked");
    }
    let mut guard = match Guard::open(config) {
        Ok(guard) => guard,
        Err(problem) => {
            tracing::error!(%problem, "guard: cannot watch the backup");
            return EXIT_FAILED;
        }
    };
    guard.words = Words::begin();
    let code = match guard.run() {
        Ok(()) => EXIT_DONE,
        Err(problem) => {
            tracing::error!(%problem, domain = %config.domain, "guard: something is left of the backup; the next backup sweeps");
            EXIT_FAILED
        }
    };
    guard.fall_silent();
    code
}

impl<'a> Guard<'a> {
    fn open(config: &'a GuardConfig) -> Result<Self, String> {
        let pid = i32::try_from(config.job_pid).ok().and_then(Pid::from_raw).ok_or("not a process id")?;
        let job = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
        // While it is our parent, the number cannot have been reused.
        if getppid() != Some(pid) {
            return Err(format!("process {pid:?} is not the one that started this guard"));
        }
        let scratch = ScratchEye::new(&config.scratch_folder);
        Ok(Self {
            config,
            job,
            scratch,
            alarmed: false,
            thawed_once: false,
            failed_thaws: 0,
            late: Late::default(),
            hung: false,
            frozen_at: None,
            help: None,
            words: None,
        })
    }

    fn run(&mut self) -> Result<(), String> {
        let input = socket().map_err(|error| error.to_string())?;
        let mut watch = Watch::new(Instant::now(), Duration::from_millis(self.config.freeze_limit_ms));
        answer(&input);
        loop {
            let event = self.next_event(&input)?;
            let verdict = watch.on(event, Instant::now());
            if event == Event::Freeze {
                self.frozen_at.get_or_insert_with(Instant::now);
                self.late.asked();
                answer(&input);
            }
            if event == Event::FreezeAnswered {
                self.late.answered();
                self.note_answered();
            }
            match verdict {
                Verdict::Watch => {}
                Verdict::Leave => return Ok(()),
                Verdict::Thaw => {
                    if self.thaw() == Thaw::Certain {
                        watch.thawed();
                    } else {
                        watch.thaw_failed(Instant::now(), self.retry_pause());
                    }
                }
                Verdict::Linger => {
                    self.linger(&input);
                    return Ok(());
                }
                Verdict::TakeOver => {
                    self.fall_silent();
                    answer(&input);
                    let ended = take_over(&watch, self);
                    return self.over(ended, "the backup could not clean up", &input);
                }
                Verdict::End(reason) => {
                    tracing::warn!(%reason, domain = %self.config.domain, "guard: ending the backup");
                    if reason == Reason::ScratchFull {
                        self.scratch.tell();
                    }
                    let ended = end(&watch, reason, self);
                    return self.over(ended, &reason.to_string(), &input);
                }
            }
        }
    }

    /// For whoever finds the record when job and guard are gone.
    fn note_answered(&self) {
        if let Err(error) = record::answered(Path::new(RECORD_DIR_DEFAULT), &self.config.domain) {
            tracing::debug!(%error, "guard: the record of the freeze does not say that it was answered");
        }
    }

    /// Whoever reads the job's standard error waits for its end, and must not wait for a guard that goes on.
    fn fall_silent(&mut self) {
        match self.words.take() {
            Some(words) => words.end(),
            None => let_go_of_stderr(),
        }
    }

    /// What is left when all that could be done was done.
    fn over(&mut self, ended: Ended, why: &str, input: &std::fs::File) -> Result<(), String> {
        match ended {
            Ended::Clean => Ok(()),
            Ended::NotThawed => {
                self.linger(input);
                Ok(())
            }
            Ended::Left => Err(why.to_owned()),
        }
    }

    fn retry_pause(&self) -> Duration {
        if self.hung { HUNG_PAUSE } else { RETRY_PAUSE }
    }

    /// The backup is over and its job may go, but the agent has not confirmed a thaw: a freeze that was sent may still complete. The lock is
    /// given back; whoever works on the domain next and sees it thawed closes the record, and that ends this.
    fn linger(&mut self, input: &std::fs::File) {
        // Standard output is the lock.
        if let Err(error) = null().and_then(|null| Ok(rustix::stdio::dup2_stdout(&null)?)) {
            tracing::error!(%error, "guard: the domain's lock is kept until the guest is thawed");
        }
        self.fall_silent();
        answer(input);
        let limit = freeze::thaw_hooks_limit(call_limit(Duration::from_millis(self.config.freeze_limit_ms)));
        let start = Instant::now();
        while start.elapsed() < CLEAN_UP_LIMIT && record::is_open_by(Path::new(RECORD_DIR_DEFAULT), &self.config.domain, self.config.job_pid) {
            if self.thaw_within(limit) == Thaw::Certain {
                return;
            }
            std::thread::sleep(if self.hung { LINGER_PAUSE } else { LINGER_PAUSE_SHORT });
        }
    }

    /// Where nothing else waits for the guard, a slow guest's answer is waited for.
    fn thaw_within(&mut self, limit: Duration) -> Thaw {
        let code = Self::child(&GuardTask::Thaw { config: self.config.clone(), limit }, limit);
        self.hung = code.is_none();
        let thaw = self.late.judge(answer_of(code), Instant::now());
        match thaw {
            Thaw::Certain => close_record(self.config),
            Thaw::ForNow => {}
            Thaw::Failed => {
                self.failed_thaws += 1;
                self.alarm();
            }
        }
        // Thawed for now is no thaw: a freeze that comes after it is the first one that the alarm is for.
        self.thawed_once |= thaw == Thaw::Certain;
        thaw
    }

    /// Once, at the limit, and not for a second thaw that fails because libvirtd has just come back.
    fn alarm(&mut self) {
        let limit = call_limit(Duration::from_millis(self.config.freeze_limit_ms));
        let is_late = self.frozen_at.is_none_or(|at| at.elapsed() >= limit) && (!self.thawed_once || self.failed_thaws >= FAILED_THAWS_MAX);
        if is_late && !std::mem::replace(&mut self.alarmed, true) {
            tracing::error!(domain = %self.config.domain, "guard: the guest may still be frozen; trying again until its agent answers. {FROZEN_REMEDY}");
            self.call_for_help();
        }
    }

    /// Starts the admin's program and does not wait for it: thawing goes on meanwhile.
    fn call_for_help(&mut self) {
        let Some(program) = &self.config.on_stuck_freeze else { return };
        let mut command = Command::new(program);
        command.arg(&self.config.domain).env("CAIRN_DOMAIN_UUID", &self.config.domain).env("CAIRN_URI", &self.config.uri);
        if let Some(stderr) = self.words.as_ref().and_then(Words::stdio) {
            command.stderr(stderr);
        }
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => self.help = Some(child),
            Err(error) => tracing::error!(%error, program = %program.display(), "guard: the program for a stuck freeze does not start"),
        }
    }

    fn next_event(&mut self, input: &std::fs::File) -> Result<Event, String> {
        let mut fds = [PollFd::new(input, PollFlags::IN), PollFd::new(&self.job, PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        let (has_message, job_gone) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if has_message {
            // Messages first: a job that dismissed us and then ended has not died.
            let mut byte = [0];
            return Ok(match (&mut &*input).read(&mut byte) {
                Ok(1) => event_of(byte[0]),
                _ => Event::JobGone,
            });
        }
        if job_gone {
            return Ok(Event::JobGone);
        }
        Ok(if self.scratch.runs_out(Instant::now()) { Event::ScratchFull } else { Event::Tick })
    }

    /// Starts this very program for one task; `None` if it did not end in time and was killed.
    fn child(task: &GuardTask, limit: Duration) -> Option<i32> {
        let mut command = Command::new("/proc/self/exe");
        command.args(std::env::args_os().skip(1)).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().inspect_err(|error| tracing::error!(%error, "guard: cannot start a child")).ok()?;
        let mut line = serde_json::to_vec(task).ok()?;
        line.push(b'\n');
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&line).ok()?;
        }
        let start = Instant::now();
        while start.elapsed() < limit {
            match child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) => std::thread::sleep(POLL),
                Err(_) => return None,
            }
        }
        // It hangs in libvirt. A kill that fails means that it ended just now.
        child.kill().ok();
        child.wait().ok();
        None
    }
}

impl Actions for Guard<'_> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn thaw(&mut self) -> Thaw {
        self.thaw_within(THAW_LIMIT)
    }

    fn kill_job(&mut self, limit: Duration) -> bool {
        match pidfd_send_signal(&self.job, Signal::KILL) {
            Ok(()) => {}
            Err(rustix::io::Errno::SRCH) => return true,
            Err(error) => tracing::error!(%error, "guard: cannot kill the backup process"),
        }
        let mut fds = [PollFd::new(&self.job, PollFlags::IN)];
        let tv_sec = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
        let timeout = rustix::event::Timespec { tv_sec, tv_nsec: i64::from(limit.subsec_nanos()) };
        matches!(poll(&mut fds, Some(&timeout)), Ok(1..))
    }

    fn clean_up(&mut self, keep_bitmaps: bool) -> bool {
        Self::child(&GuardTask::CleanUp { config: self.config.clone(), keep_bitmaps }, CLEAN_UP_CHILD_LIMIT) == Some(0)
    }

    fn pause(&mut self) {
        std::thread::sleep(self.retry_pause());
    }
}

fn answer(mut input: &std::fs::File) {
    // A job that is gone shows at the next poll.
    if let Err(error) = input.write_all(&[message::READY]) {
        tracing::debug!(%error, "guard: the backup process does not listen");
    }
}

/// What a child that was to thaw ended with.
fn answer_of(code: Option<i32>) -> Answer {
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(EXIT_DONE) => Answer::Over,
        Some(EXIT_THAWED) => Answer::Thawed,
        Some(EXIT_NOTHING) => Answer::Nothing,
        _ => Answer::None,
    }
}

fn event_of(byte: u8) -> Event {
    match byte {
        message::BEAT => Event::Beat,
        message::FREEZE => Event::Freeze,
        message::FREEZE_ANSWERED => Event::FreezeAnswered,
        message::THAWED => Event::Thawed,
        message::COMMITTED => Event::Committed,
        message::DISMISS => Event::Dismissed,
        message::HAND_OVER => Event::HandedOver,
        _ => Event::Tick,
    }
}

/// Of this backup's freeze: the next one's is its own.
fn close_record(config: &GuardConfig) {
    let records = Path::new(RECORD_DIR_DEFAULT);
    if record::is_open_by(records, &config.domain, config.job_pid)
        && let Err(error) = record::close(records, &config.domain)
    {
        tracing::warn!(%error, "guard: the record of the freeze stays");
    }
}

fn thaw_past_libvirt(socket: &Path) -> bool {
    if socket.as_os_str().is_empty() {
        return false;
    }
    channel::thaw(socket).inspect_err(|error| tracing::error!(%error, "guard: thaw over the agent's channel")).unwrap_or(false)
}

fn domain_of(config: &GuardConfig) -> Result<Option<crate::domain::Domain>, HostError> {
    match Host::open(Some(&config.uri))?.domain(&config.domain) {
        Ok(domain) if domain.is_running().unwrap_or(true) => Ok(Some(domain)),
        Ok(_) | Err(HostError::NoDomain { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A second connection to the agent's channel locks a living libvirt out of it for good.
fn is_libvirt_gone(error: &HostError) -> bool {
    matches!(error, HostError::Connect { source, .. } if source.message.contains(NOBODY_LISTENS))
}

fn thaw_child(config: &GuardConfig, limit: Duration) -> u8 {
    let domain = match domain_of(config) {
        Ok(Some(domain)) => domain,
        // No guest, nothing frozen.
        Ok(None) => return EXIT_DONE,
        Err(error) => {
            let thawed = is_libvirt_gone(&error) && thaw_past_libvirt(&config.agent_socket);
            tracing::error!(%error, thawed, "guard: no libvirt");
            return if thawed { EXIT_DONE } else { EXIT_FAILED };
        }
    };
    match freeze::thaw(&domain, limit) {
        Ok(0) => {
            tracing::debug!("guard: asked for a thaw, and nothing was frozen");
            EXIT_NOTHING
        }
        Ok(count) => {
            tracing::warn!(count, "guard: thawed the guest's file systems");
            EXIT_THAWED
        }
        Err(error) => {
            tracing::error!(%error, "guard: thaw");
            EXIT_FAILED
        }
    }
}

fn clean_up_child(config: &GuardConfig, keep_bitmaps: bool) -> u8 {
    let result = match domain_of(config) {
        Ok(Some(domain)) if keep_bitmaps => clean_up::finish_committed(config, &domain),
        Ok(Some(domain)) => clean_up::undo(config, &domain),
        Ok(None) => scratch::remove(&config.scratch_folder),
        Err(error) => {
            tracing::error!(%error, "guard: the domain cannot be looked up");
            return EXIT_FAILED;
        }
    };
    match result {
        Ok(()) => EXIT_DONE,
        Err(error) => {
            tracing::error!(%error, "guard: clean-up");
            EXIT_FAILED
        }
    }
}
