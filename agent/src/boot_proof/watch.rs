//! Watching a guest come up: how far it is, and whether it can still come further.
//!
//! Invariants
//! - Every wait has an end; a libvirt that is away for a while (a restart of libvirtd) is asked again until then.
//! - The level is what was seen, never what is likely: the agent's answer, or a sign on screen or console of a guest that has read its disks.
//! - A guest whose store is away, or whose overlay has no room, says nothing of its point: that is looked for whenever it comes no further.
//! - Of what the guest says the end is kept, of what it shows a sum.

use super::{
    picture::{Picture, Screenshot},
    tail::Tail,
};
use crate::{
    failure::{FAILED, Failure, INTERRUPTED, Outcome},
    run::{folder::RunSockets, obstacle, record::Record, status::Status},
};
use cairn_hypervisor::{
    Domain, Host,
    ffi::LibvirtError,
    run::{Console, GuestState, isolate::Visible},
};
use cairn_quiesce::agent::{GuestAgent, shown};
use cairn_store::format::{boot_proof::BootLevel, limits::CONSOLE_BYTES_MAX};
use std::{
    hash::{DefaultHasher, Hasher},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(200);
/// Between two questions to the agent; each takes up to [`PING_S`] where none answers.
const PING_PAUSE: Duration = Duration::from_millis(500);
const PING_S: u16 = 2;
/// Between two looks at the screen.
const SCREEN_PAUSE: Duration = Duration::from_secs(2);
/// Between two attempts to reach libvirt.
const TROUBLE_PAUSE: Duration = Duration::from_millis(500);
/// A guest of which no more can be seen has started if it still runs after this.
const STEADY: Duration = Duration::from_secs(10);
/// A guest that a failed read has paused is let go on by the run's supervisor; one that stays paused for so long has met damage.
const IO_ERROR_LIMIT: Duration = Duration::from_secs(30);
/// A boot loader that finds no system reads a few sectors; a system reads its kernel.
const SYSTEM_READ_BYTES_MIN: u64 = 4 << 20;
/// Between two looks at what keeps its reads and writes from being done.
const OBSTACLE_PAUSE: Duration = Duration::from_secs(1);
/// Of a picture that is only compared.
const COMPARED_BYTES_MAX: usize = 32 << 20;

/// Whose guest, and how it can be seen.
pub struct Subject {
    /// Its run.
    pub record: Record,
    /// Its disks.
    pub targets: Vec<String>,
    /// Ways to see how far it is.
    pub visible: Visible,
}

/// A guest that is watched.
pub struct Watch<'a> {
    subject: Subject,
    stop: &'a AtomicBool,
    domain: Option<Domain>,
    console: Option<Console>,
    /// When its processors began to run.
    resumed: Option<Instant>,
    /// The end of what its console said.
    pub said: Tail,
    first_screen: Option<u64>,
    screen_changed: bool,
    asked_agent: Option<Instant>,
    looked_at_screen: Option<Instant>,
    io_error: Option<Instant>,
    looked_for_obstacle: Option<Instant>,
    obstacle: Option<Failure>,
    trouble: Option<String>,
    /// Time to the first sign on screen or console, ms.
    pub screen_ms: Option<u64>,
    /// Time to the first answer of the agent, ms.
    pub agent_ms: Option<u64>,
    /// Bytes it has read from its disks.
    pub read_bytes: u64,
    steady: bool,
}

/// Why a guest comes no further.
type Ended = Option<String>;

impl<'a> Watch<'a> {
    /// Lets a domain run that was started paused, with its console open from the first word on.
    pub fn begin(subject: Subject, domain: Domain, stop: &'a AtomicBool) -> Outcome<Self> {
        let console = if subject.visible.console { domain.open_console().map_err(|e| tracing::info!("no console: {e}")).ok() } else { None };
        let mut watch = Self {
            subject,
            stop,
            domain: Some(domain),
            console,
            resumed: None,
            said: Tail::new(CONSOLE_BYTES_MAX),
            first_screen: None,
            screen_changed: false,
            asked_agent: None,
            looked_at_screen: None,
            io_error: None,
            looked_for_obstacle: None,
            obstacle: None,
            trouble: None,
            screen_ms: None,
            agent_ms: None,
            read_bytes: 0,
            steady: false,
        };
        let until = Instant::now() + IO_ERROR_LIMIT;
        loop {
            let resume = |d: Domain| match d.resume().map_err(|e| libvirt(&e)) {
                // An answer that got lost.
                Err(_) if d.guest_state().is_ok_and(|s| s == GuestState::Running) => Ok(()),
                result => result,
            };
            match watch.domain().and_then(resume) {
                Ok(()) => break,
                Err(f) if Instant::now() > until => return Err(f),
                Err(f) => watch.lost(f),
            }
            watch.pause(TROUBLE_PAUSE)?;
        }
        watch.resumed = Some(Instant::now());
        Ok(watch)
    }

    /// How far it came.
    pub fn level(&self) -> BootLevel {
        match (self.agent_ms, self.screen_ms, self.resumed) {
            (Some(_), ..) => BootLevel::Agent,
            (None, Some(_), _) => BootLevel::Screen,
            (None, None, Some(_)) => BootLevel::Started,
            (None, None, None) => BootLevel::None,
        }
    }

    /// Waits until it comes as far as wanted; the reason if it does not.
    pub fn wait(&mut self, wanted: BootLevel, limit: Duration) -> Outcome<Ended> {
        loop {
            if let Some(reason) = self.look(true)? {
                return Ok(Some(reason));
            }
            if self.level() >= wanted && (wanted > BootLevel::Started || self.steady) {
                return Ok(None);
            }
            if self.elapsed() > limit {
                let missed = match wanted {
                    BootLevel::Agent => "its agent did not answer",
                    BootLevel::Screen => "it read no system from its disks, or neither screen nor console showed a sign",
                    BootLevel::Started | BootLevel::None => "it did not run steadily",
                };
                let trouble = self.trouble.as_ref().map_or_else(String::new, |t| format!(" (libvirt was away at the end: {})", shown(t)));
                return Ok(Some(format!("{missed} within {} s{trouble}", limit.as_secs())));
            }
            self.pause(POLL)?;
        }
    }

    /// While something else is waited for: keeps reading the console, and sees whether the guest still lives.
    pub fn tick(&mut self) -> Outcome<Ended> {
        self.stopped()?;
        self.look(false)
    }

    /// Why what the guest did is no verdict about its point: its reads or writes could not be done for a while, or cannot now.
    pub fn obstacle(&mut self) -> Option<Failure> {
        let record = &self.subject.record;
        let unserved = || {
            let status = Status::read(&RunSockets::of(&record.id)).filter(|s| !s.served)?;
            Some(Failure::new(FAILED, format!("the point is not served: {}", status.problem.unwrap_or_else(|| "its processes say nothing".into()))))
        };
        self.obstacle.take().or_else(|| obstacle::of(record)).or_else(unserved)
    }

    /// The domain, for who asks it other things.
    pub fn domain(&mut self) -> Outcome<Domain> {
        if let Some(domain) = &self.domain {
            return Ok(domain.clone());
        }
        let domain = Host::open(self.subject.record.connect.as_deref())?.domain(&self.subject.record.uuid)?;
        if self.subject.visible.console {
            // What was said meanwhile is lost.
            self.console = domain.open_console().ok();
        }
        self.domain = Some(domain.clone());
        Ok(domain)
    }

    /// What it runs on: libvirt's version, and QEMU's.
    pub fn versions(&mut self) -> Option<(u32, u32)> {
        self.domain().ok()?.versions().ok()
    }

    fn elapsed(&self) -> Duration {
        self.resumed.map_or(Duration::ZERO, |at| at.elapsed())
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn pause(&self, time: Duration) -> Outcome<()> {
        std::thread::sleep(time);
        self.stopped()
    }

    fn stopped(&self) -> Outcome<()> {
        if self.stop.load(Ordering::SeqCst) { Err(Failure::new(INTERRUPTED, "interrupted; the boot proof is taken away")) } else { Ok(()) }
    }

    /// The connection may be broken; the next look makes a new one.
    fn lost(&mut self, f: Failure) {
        tracing::info!("libvirt: {}", f.message);
        self.trouble = Some(f.message);
        self.domain = None;
        self.console = None;
    }

    /// One look at all there is. libvirt's errors are no verdict about the guest.
    fn look(&mut self, everything: bool) -> Outcome<Ended> {
        match self.domain().and_then(|domain| self.look_at(&domain, everything)) {
            Ok(ended) => {
                self.trouble = None;
                Ok(ended)
            }
            Err(f) => {
                self.lost(f);
                self.pause(TROUBLE_PAUSE)?;
                Ok(None)
            }
        }
    }

    fn look_at(&mut self, domain: &Domain, everything: bool) -> Outcome<Ended> {
        self.listen();
        if domain.has_crashed().map_err(|e| libvirt(&e))? {
            return Ok(Some("the guest crashed, by its own words".to_owned()));
        }
        match domain.guest_state().map_err(|e| libvirt(&e))? {
            GuestState::Off => return Ok(Some("the guest is off: it shut down, or QEMU ended".to_owned())),
            GuestState::IoError => {
                if is_due(&mut self.looked_for_obstacle, OBSTACLE_PAUSE)
                    && let Some(f) = obstacle::of(&self.subject.record)
                {
                    self.obstacle = Some(f);
                }
                let since = *self.io_error.get_or_insert_with(Instant::now);
                if since.elapsed() > IO_ERROR_LIMIT {
                    return Ok(Some(
                        "the guest is paused: a read of its disks fails, and fails again; 'cairn verify --data' says whether the point is damaged".to_owned(),
                    ));
                }
            }
            GuestState::Running | GuestState::Paused => self.io_error = None,
        }
        self.steady = self.elapsed() > STEADY;
        if !everything {
            return Ok(None);
        }
        self.read_bytes = self.read_bytes.max(domain.read_bytes(&self.subject.targets));
        if self.subject.visible.agent && self.agent_ms.is_none() && is_due(&mut self.asked_agent, PING_PAUSE) && answers(domain) {
            self.agent_ms = Some(self.elapsed_ms());
        }
        if self.subject.visible.screen
            && !self.screen_changed
            && is_due(&mut self.looked_at_screen, SCREEN_PAUSE)
            && let Some(now) = screen_sum(domain)
        {
            self.screen_changed = *self.first_screen.get_or_insert(now) != now;
        }
        let sign = self.screen_changed || self.said.is_visible();
        if self.screen_ms.is_none() && sign && (self.subject.visible.direct_kernel || self.read_bytes >= SYSTEM_READ_BYTES_MIN) {
            self.screen_ms = Some(self.elapsed_ms());
        }
        Ok(None)
    }

    /// Takes what the console said.
    pub fn listen(&mut self) {
        let said = &mut self.said;
        let open = self.console.as_mut().is_some_and(|c| c.read(&mut |piece| said.push(piece)).unwrap_or(false));
        if !open {
            self.console = None;
        }
    }
}

/// The screen as it is now, as far as it can be had; and why not, otherwise.
pub fn picture(domain: &Domain) -> Result<Picture, String> {
    let mut shot = Screenshot::default();
    domain.screenshot(&mut |piece| shot.push(piece)).map_err(|e| e.to_string())?;
    shot.finish()
}

/// A guest that has an agent answers with an empty object; what else it says is nobody's business.
fn answers(domain: &Domain) -> bool {
    cairn_quiesce::agent::call::<serde::de::IgnoredAny>(domain as &dyn GuestAgent, "guest-ping", PING_S).is_ok()
}

fn screen_sum(domain: &Domain) -> Option<u64> {
    let (mut sum, mut bytes) = (DefaultHasher::new(), 0);
    let whole = domain.screenshot(&mut |piece| {
        sum.write(piece);
        bytes += piece.len();
        bytes < COMPARED_BYTES_MAX
    });
    whole.is_ok().then(|| sum.finish())
}

/// Whether so much time has passed since the last time it was due.
fn is_due(last: &mut Option<Instant>, pause: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= pause);
    if due {
        *last = Some(Instant::now());
    }
    due
}

fn libvirt(e: &LibvirtError) -> Failure {
    Failure::new(FAILED, e.to_string())
}
