//! Freeze, proof, thaw.
//!
//! Order (docs/capture.md): probe while thawed (a frozen agent answers almost nothing) · freeze · the caller's instant · status must be
//! `frozen` · thaw must thaw more than 0 file systems. A freeze that ran into its limit may still complete later, so a thaw follows every
//! attempt that may have reached the agent, whatever became of it.
//!
//! Certain is a thaw that was answered, and that nothing was sent. An agent that goes away after that proves nothing: it leaves its guest frozen.
//! The job's own thaw comes after libvirt's answer to its freeze, so no freeze comes after it; the guard's may come before ([`crate::late`]).

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::agent::{AgentFailure, FILESYSTEMS_MAX, GuestAgent, call, call_with, shown};
use crate::hooks::{self, Before};
use crate::level::{QuiesceLevel, QuiesceReport};
use crate::scope::Scope;

/// Limit of one question to a thawed agent, seconds.
pub const PROBE_LIMIT_S: u16 = 5;
/// Limit of one status or thaw call, seconds.
pub const THAW_LIMIT_S: u16 = 3;
/// Least limit of the first thaw call after a freeze: the agent thaws at once, but answers only when the guest's own hooks are done. A guest that
/// is given more time for its freeze gets as much here, up to [`THAW_HOOKS_LIMIT_MAX`].
pub const THAW_HOOKS_LIMIT_MIN: Duration = Duration::from_secs(8);
/// Most of it: an agent that is gone is asked again after this time.
pub const THAW_HOOKS_LIMIT_MAX: Duration = Duration::from_secs(30);
/// How often a thaw is tried before it is left to the guard.
pub const THAW_ATTEMPTS_MAX: u32 = 3;
/// Between two of them: an agent that is gone fails at once, and its guest may start it again in a moment.
pub const THAW_PAUSE: Duration = Duration::from_millis(500);
/// Agent command that freezes some file systems only.
pub const FREEZE_LIST: &str = "guest-fsfreeze-freeze-list";

/// What the guest's agent can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Freeze, thaw and status are offered and enabled.
    pub can_freeze: bool,
    /// The guest is frozen, by somebody else: its agent has freezing and nearly everything else disabled until it is thawed.
    pub is_frozen: bool,
    /// Single file systems can be frozen.
    pub can_freeze_list: bool,
    /// Windows: the freeze goes through VSS, so applications are told.
    pub is_windows: bool,
    /// What is mounted, as far as the agent tells.
    pub filesystems: Vec<Filesystem>,
    /// What its hooks recorded last.
    pub hooks: Before,
}

/// A mounted file system; the guest's words, escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filesystem {
    /// Where.
    pub mountpoint: String,
    /// Name of its device; one file system may be mounted at several places. Empty if the agent names none.
    pub device: String,
}

/// What was seen between freeze and thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The status was `frozen` after the point in time was taken.
    pub frozen_after: bool,
    /// File systems that the thaw thawed.
    pub thawed: u32,
}

impl Proof {
    /// Both halves hold: the guest was frozen from before the point in time to after it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.frozen_after && self.thawed > 0
    }
}

/// Asks a thawed agent what it can do.
///
/// # Errors
/// [`AgentFailure`].
pub fn probe(agent: &dyn GuestAgent) -> Result<Probe, AgentFailure> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(default)]
        supported_commands: Vec<Supported>,
    }
    #[derive(Deserialize)]
    struct Supported {
        name: String,
        enabled: bool,
    }
    #[derive(Deserialize)]
    struct Mounted {
        mountpoint: String,
        #[serde(default)]
        name: String,
    }
    #[derive(Deserialize, Default)]
    struct Os {
        #[serde(default)]
        id: String,
    }
    let info: Info = call(agent, "guest-info", PROBE_LIMIT_S)?;
    let offers = |name: &str| info.supported_commands.iter().any(|command| command.name == name && command.enabled);
    let mut mounted: Vec<Mounted> = if offers("guest-get-fsinfo") { call(agent, "guest-get-fsinfo", PROBE_LIMIT_S).unwrap_or_default() } else { Vec::new() };
    mounted.truncate(FILESYSTEMS_MAX);
    let os: Os = if offers("guest-get-osinfo") { call(agent, "guest-get-osinfo", PROBE_LIMIT_S).unwrap_or_default() } else { Os::default() };
    let is_windows = os.id == "mswindows";
    let can_freeze = ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"].into_iter().all(offers);
    Ok(Probe {
        can_freeze,
        // An agent that does not tell has freezing disabled, whatever else.
        is_frozen: !can_freeze && offers("guest-fsfreeze-status") && is_frozen(agent).unwrap_or(false),
        can_freeze_list: offers(FREEZE_LIST),
        is_windows,
        filesystems: mounted.iter().map(|m| Filesystem { mountpoint: shown(&m.mountpoint), device: shown(&m.name) }).collect(),
        hooks: if !is_windows && hooks::COMMANDS.into_iter().all(offers) { hooks::before(agent) } else { Before::Unreadable },
    })
}

/// `frozen` or not.
///
/// # Errors
/// [`AgentFailure`].
pub fn is_frozen(agent: &dyn GuestAgent) -> Result<bool, AgentFailure> {
    let status: String = call(agent, "guest-fsfreeze-status", THAW_LIMIT_S)?;
    Ok(status == "frozen")
}

/// Thaws once; the number of file systems that were frozen.
///
/// # Errors
/// [`AgentFailure`].
pub fn thaw(agent: &dyn GuestAgent, limit: Duration) -> Result<u32, AgentFailure> {
    call(agent, "guest-fsfreeze-thaw", u16::try_from(limit.as_secs()).unwrap_or(THAW_LIMIT_S))
}

/// How long an answer to a thaw is waited for where the time is there: the agent thaws at once, but answers only when the guest's own hooks are done, which begin anew
/// with each thaw. Who waits for less is never answered by a guest with slow hooks.
#[must_use]
pub fn thaw_hooks_limit(freeze_call: Duration) -> Duration {
    freeze_call.clamp(THAW_HOOKS_LIMIT_MIN, THAW_HOOKS_LIMIT_MAX)
}

/// Freezes what the scope says; the number of file systems.
///
/// # Errors
/// [`AgentFailure`]. The guest may be frozen, or become so later, all the same.
pub fn freeze(agent: &dyn GuestAgent, scope: &Scope, limit: Duration) -> Result<u32, AgentFailure> {
    // What people may ask for is less (FREEZE_LIMIT_S, checked where they ask); libvirt's own limit of 0 means "do not wait".
    let limit_s = u16::try_from(limit.as_secs().max(1)).unwrap_or(u16::MAX);
    match scope {
        Scope::All => call(agent, "guest-fsfreeze-freeze", limit_s),
        Scope::Mounts(mounts) => call_with(agent, FREEZE_LIST, &serde_json::json!({ "mountpoints": mounts.there }), limit_s),
    }
}

/// Runs `instant` on a frozen guest and thaws at once, whatever happened. The caller has announced the freeze to its guard and takes the
/// announcement back only if the thaw is certain (`Frozen::is_thawed`).
#[derive(Debug)]
pub struct Frozen<T> {
    /// What `instant` gave.
    pub value: T,
    /// For the point.
    pub report: QuiesceReport,
    /// The guest said that it is thawed. If not, the guard must go on trying.
    pub is_thawed: bool,
    /// It was frozen, or may be, and its agent cannot be reached: the backup is to end, so that libvirt hears of the agent's return (docs/adr/0023).
    pub is_stuck: bool,
}

/// See [`Frozen`]. `limit` bounds the freeze call itself; the guard bounds everything. `instant` is told whether libvirt has answered the freeze, whatever it said.
pub fn frozen<T>(agent: &dyn GuestAgent, probe: &Probe, scope: &Scope, limit: Duration, instant: impl FnOnce(bool) -> T) -> Frozen<T> {
    let start = Instant::now();
    let attempt = freeze(agent, scope, limit);
    // Anything else may be a connection that was lost, with the freeze on its way.
    let value = instant(!matches!(attempt, Err(AgentFailure::Other(_))));
    let frozen_after = attempt.is_ok() && is_frozen(agent).unwrap_or(false);
    let (answer, thaw_error) = match &attempt {
        // Nothing was sent.
        Err(AgentFailure::Absent(_) | AgentFailure::Closed(_)) => (Ok(0), None),
        _ => thaw_surely(agent, thaw_hooks_limit(limit)),
    };
    let is_stuck = answer.as_ref().is_err_and(|last| is_stuck(attempt.is_ok(), last));
    let (thawed, is_thawed) = (*answer.as_ref().unwrap_or(&0), answer.is_ok());
    let freeze_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let proof = Proof { frozen_after, thawed };
    let shortfall = attempt.as_ref().ok().and_then(|count| scope.shortfall(thawed.min(*count)));
    // Of some only the number is known: which of them were frozen cannot be told then.
    let frozen_mounts = if shortfall.is_none() && proof.holds() { scope.mounts().to_vec() } else { Vec::new() };
    let reason = match (&attempt, &thaw_error) {
        (Err(failure), _) => Some(format!("freeze: {failure}")),
        (_, Some(failure)) => Some(format!("thaw: {failure}")),
        // Before the next two: a freeze of nothing is not frozen.
        _ if shortfall.is_some() => shortfall,
        _ if !frozen_after => Some("the guest was no longer frozen after the point in time".to_owned()),
        _ if thawed == 0 => Some("nothing was frozen when the thaw came".to_owned()),
        _ => scope.lack().map(|lack| format!("{lack}; only what is mounted at {} was frozen", scope.mounts().join(", "))),
    };
    let level = match proof.holds() && reason.is_none() {
        false => QuiesceLevel::Crash,
        true if probe.is_windows => QuiesceLevel::Application,
        true => QuiesceLevel::Filesystem,
    };
    Frozen { value, report: QuiesceReport { level, freeze_ms, frozen_filesystems: thawed, frozen_mounts, reason }, is_thawed, is_stuck }
}

/// Of a guest that no thaw is certain of. An agent that answers, if only with an error, is there to be asked again. One that says nothing and never
/// answered the freeze has most likely frozen nothing, and libvirt has it. All others leave a guest frozen behind them, if it was.
fn is_stuck(froze: bool, last: &AgentFailure) -> bool {
    match last {
        AgentFailure::Refused(_) | AgentFailure::Nonsense { .. } => false,
        AgentFailure::Away(_) | AgentFailure::Closed(_) => true,
        AgentFailure::Silent(_) | AgentFailure::Absent(_) | AgentFailure::Other(_) => froze,
    }
}

/// Thaws, a few times if need be: file systems thawed by the first call that was answered, or the last error; and the first one.
fn thaw_surely(agent: &dyn GuestAgent, first_limit: Duration) -> (Result<u32, AgentFailure>, Option<AgentFailure>) {
    let mut first_error = None;
    let mut attempt = 0;
    loop {
        let limit_s = if attempt == 0 { u16::try_from(first_limit.as_secs()).unwrap_or(THAW_LIMIT_S) } else { THAW_LIMIT_S };
        if attempt > 0 {
            agent.pause(THAW_PAUSE);
        }
        match call(agent, "guest-fsfreeze-thaw", limit_s) {
            Ok(count) => return (Ok(count), first_error),
            Err(error) => {
                tracing::warn!(%error, "the guest does not thaw");
                first_error.get_or_insert_with(|| error.clone());
                attempt += 1;
                if attempt == THAW_ATTEMPTS_MAX {
                    return (Err(error), first_error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    /// Says what it was told to say, in order.
    struct Scripted(RefCell<VecDeque<(&'static str, Result<&'static str, AgentFailure>)>>);

    impl GuestAgent for Scripted {
        fn command(&self, json: &str, _limit_s: u16) -> Result<String, AgentFailure> {
            let (expected, reply) = self.0.borrow_mut().pop_front().expect("one more command than scripted");
            assert!(json.contains(expected), "{json} instead of {expected}");
            reply.map(str::to_owned)
        }
        fn pause(&self, _time: Duration) {}
    }

    const PROBE: Probe =
        Probe { can_freeze: true, is_frozen: false, can_freeze_list: true, is_windows: false, filesystems: Vec::new(), hooks: Before::Unreadable };

    fn run(script: Vec<(&'static str, Result<&'static str, AgentFailure>)>) -> Frozen<u8> {
        run_of(&Scope::All, script)
    }

    fn run_of(scope: &Scope, script: Vec<(&'static str, Result<&'static str, AgentFailure>)>) -> Frozen<u8> {
        let agent = Scripted(RefCell::new(script.into()));
        let result = frozen(&agent, &PROBE, scope, Duration::from_secs(1), |_| 7);
        assert!(agent.0.borrow().is_empty(), "commands left over");
        result
    }

    #[test]
    fn a_guest_that_another_froze_is_told_from_one_that_cannot_be_frozen() {
        let enabled = "{\"return\":{\"supported_commands\":[{\"name\":\"guest-fsfreeze-status\",\"enabled\":true},\
            {\"name\":\"guest-fsfreeze-thaw\",\"enabled\":true},{\"name\":\"guest-fsfreeze-freeze\",\"enabled\":false}]}}";
        let probed = |status| {
            let agent = Scripted(RefCell::new([("guest-info", Ok(enabled)), ("freeze-status", status)].into()));
            let found = probe(&agent).expect("an answer");
            (found.can_freeze, found.is_frozen)
        };
        assert_eq!(probed(Ok("{\"return\":\"frozen\"}")), (false, true));
        assert_eq!(probed(Ok("{\"return\":\"thawed\"}")), (false, false));
        assert_eq!(probed(Err(AgentFailure::Silent("x".to_owned()))), (false, false));
    }

    #[test]
    fn a_proved_freeze_counts() {
        let done = run(vec![("freeze-freeze", Ok("{\"return\":2}")), ("freeze-status", Ok("{\"return\":\"frozen\"}")), ("freeze-thaw", Ok("{\"return\":2}"))]);
        assert_eq!((done.value, done.report.level, done.report.frozen_filesystems, done.is_thawed), (7, QuiesceLevel::Filesystem, 2, true));
    }

    /// Its writers give up a freeze by themselves after 10 s; the agent says so when it is asked to thaw, and has nothing to thaw then.
    #[test]
    fn windows_tells_its_applications_unless_its_writers_gave_up() {
        let windows = |thaws: Vec<(&'static str, Result<&'static str, AgentFailure>)>| {
            let before = vec![("freeze-freeze", Ok("{\"return\":1}")), ("freeze-status", Ok("{\"return\":\"frozen\"}"))];
            let agent = Scripted(RefCell::new(before.into_iter().chain(thaws).collect()));
            frozen(&agent, &Probe { is_windows: true, ..PROBE }, &Scope::All, Duration::from_secs(7), |_| 7)
        };
        let good = windows(vec![("freeze-thaw", Ok("{\"return\":1}"))]);
        assert_eq!((good.report.level, good.report.reason, good.is_thawed), (QuiesceLevel::Application, None, true));
        let late = || ("freeze-thaw", Err(AgentFailure::Refused("couldn't hold writes: fsfreeze is limited up to 10 seconds".to_owned())));
        let gave_up = windows(vec![late(), ("freeze-thaw", Ok("{\"return\":0}"))]);
        assert_eq!((gave_up.report.level, gave_up.is_thawed, gave_up.is_stuck), (QuiesceLevel::Crash, true, false));
        assert!(gave_up.report.reason.is_some_and(|reason| reason.contains("limited up to 10 seconds")));
        let goes_on = windows(vec![late(), late(), late()]);
        assert_eq!((goes_on.report.level, goes_on.is_thawed, goes_on.is_stuck), (QuiesceLevel::Crash, false, false), "it is there to be asked again");
    }

    #[test]
    fn a_freeze_without_proof_is_a_crash_point() {
        let gone = run(vec![("freeze-freeze", Ok("{\"return\":2}")), ("freeze-status", Ok("{\"return\":\"thawed\"}")), ("freeze-thaw", Ok("{\"return\":0}"))]);
        assert_eq!(gone.report.level, QuiesceLevel::Crash);
        let nothing =
            run(vec![("freeze-freeze", Ok("{\"return\":0}")), ("freeze-status", Ok("{\"return\":\"frozen\"}")), ("freeze-thaw", Ok("{\"return\":0}"))]);
        assert_eq!(nothing.report.level, QuiesceLevel::Crash);
    }

    #[test]
    fn of_some_file_systems_each_must_be_frozen() {
        let at = |mounts: &[&str]| mounts.iter().map(|&m| m.to_owned()).collect::<Vec<_>>();
        let part = |count: &'static str, thawed: &'static str, wanted: &[&str]| {
            let guest = Probe { filesystems: ["/a", "/b"].map(|m| Filesystem { mountpoint: m.to_owned(), device: m.to_owned() }).to_vec(), ..PROBE };
            let scope = crate::scope::choose(&guest, &at(wanted)).expect("something is there");
            let list = "freeze-list\",\"arguments\":{\"mountpoints\":[\"/a\"";
            run_of(&scope, vec![(list, Ok(count)), ("freeze-status", Ok("{\"return\":\"frozen\"}")), ("freeze-thaw", Ok(thawed))]).report
        };
        let good = part("{\"return\":1}", "{\"return\":1}", &["/a"]);
        assert_eq!((good.level, &good.frozen_mounts, good.reason), (QuiesceLevel::Filesystem, &at(&["/a"]), None));
        let fewer = part("{\"return\":1}", "{\"return\":1}", &["/a", "/b"]);
        assert_eq!((fewer.level, fewer.frozen_mounts.len()), (QuiesceLevel::Crash, 0));
        assert!(fewer.reason.expect("a reason").contains("only 1 of the 2"));
        let lost = part("{\"return\":2}", "{\"return\":1}", &["/a", "/b"]);
        assert!(lost.level == QuiesceLevel::Crash && lost.reason.expect("a reason").contains("only 1 of the 2"));
        let missing = part("{\"return\":1}", "{\"return\":1}", &["/a", "/nope"]);
        assert_eq!((missing.level, &missing.frozen_mounts), (QuiesceLevel::Crash, &at(&["/a"])), "what was frozen is recorded all the same");
        let reason = missing.reason.expect("a reason");
        assert!(reason.contains("/nope (it has: /a, /b)") && reason.contains("at /a was frozen"), "{reason}");
    }

    #[test]
    fn a_freeze_that_ran_out_of_time_is_thawed_all_the_same() {
        let late = run(vec![
            ("freeze-freeze", Err(AgentFailure::Silent("x".to_owned()))),
            ("freeze-thaw", Err(AgentFailure::Silent("x".to_owned()))),
            ("freeze-thaw", Ok("{\"return\":1}")),
        ]);
        assert_eq!((late.report.level, late.is_thawed), (QuiesceLevel::Crash, true));
        let silent = || Err(AgentFailure::Silent("x".to_owned()));
        let stuck = run(vec![("freeze-freeze", silent()), ("freeze-thaw", silent()), ("freeze-thaw", silent()), ("freeze-thaw", silent())]);
        assert!(!stuck.is_thawed && !stuck.is_stuck, "the guard must go on, and the backup may: nothing says that it was ever frozen");
    }

    #[test]
    fn a_backup_of_a_guest_that_stays_frozen_does_not_go_on() {
        let away = || Err(AgentFailure::Away("x".to_owned()));
        let silent = || Err(AgentFailure::Silent("x".to_owned()));
        let refused = || Err(AgentFailure::Refused("x".to_owned()));
        let thaws = |last: [Result<&'static str, AgentFailure>; 3]| last.map(|reply| ("freeze-thaw", reply));
        let froze = |last| run([("freeze-freeze", Ok("{\"return\":2}")), ("freeze-status", away())].into_iter().chain(thaws(last)).collect());
        assert!(froze([away(), away(), away()]).is_stuck && froze([silent(), silent(), silent()]).is_stuck, "it is frozen, and nobody can be asked");
        assert!(!froze([away(), away(), refused()]).is_stuck, "its agent answers");
        let back = froze([away(), silent(), Ok("{\"return\":2}")]);
        assert!(back.is_thawed && !back.is_stuck);
        let sent = |last| run(std::iter::once(("freeze-freeze", silent())).chain(thaws(last)).collect());
        let closed = || Err(AgentFailure::Closed("x".to_owned()));
        assert!(sent([silent(), silent(), away()]).is_stuck, "it went away with the freeze in its hands, perhaps");
        assert!(sent([silent(), silent(), closed()]).is_stuck && froze([closed(), closed(), closed()]).is_stuck, "it had the freeze, and is gone");
        let went = run(vec![("freeze-freeze", away()), ("freeze-thaw", closed()), ("freeze-thaw", closed()), ("freeze-thaw", closed())]);
        assert!(went.is_stuck && !went.is_thawed, "it left when it was asked to freeze");
        assert!(!sent([away(), silent(), silent()]).is_stuck, "most likely it was mute all the time");
    }

    #[test]
    fn whoever_waits_is_told_whether_the_freeze_was_answered() {
        let told = |reply: Result<&'static str, AgentFailure>, rest: Vec<(&'static str, Result<&'static str, AgentFailure>)>| {
            let agent = Scripted(RefCell::new(std::iter::once(("freeze-freeze", reply)).chain(rest).collect()));
            frozen(&agent, &PROBE, &Scope::All, Duration::from_secs(1), |answered| answered).value
        };
        let thaw = || ("freeze-thaw", Ok("{\"return\":0}"));
        assert!(told(Ok("{\"return\":2}"), vec![("freeze-status", Ok("{\"return\":\"frozen\"}")), thaw()]));
        assert!(told(Err(AgentFailure::Silent("x".to_owned())), vec![thaw()]));
        assert!(!told(Err(AgentFailure::Other("the connection was lost".to_owned())), vec![thaw()]), "it may be on its way");
    }

    #[test]
    fn an_agent_that_went_away_after_a_freeze_has_thawed_nothing() {
        let absent = || Err(AgentFailure::Absent("x".to_owned()));
        let gone = || vec![("freeze-thaw", absent()), ("freeze-thaw", absent()), ("freeze-thaw", absent())];
        let answered = vec![("freeze-freeze", Ok("{\"return\":2}")), ("freeze-status", absent())];
        let done = run(answered.into_iter().chain(gone()).collect());
        assert_eq!((done.report.level, done.is_thawed), (QuiesceLevel::Crash, false), "it was frozen, and nobody thawed it");
        assert!(done.report.reason.expect("a reason").starts_with("thaw: "));
        for unknown in [AgentFailure::Silent("x".to_owned()), AgentFailure::Other("x".to_owned())] {
            let sent = run(std::iter::once(("freeze-freeze", Err(unknown.clone()))).chain(gone()).collect());
            assert!(!sent.is_thawed, "it may have come to the agent: {unknown}");
        }
        let back =
            run(vec![("freeze-freeze", Ok("{\"return\":2}")), ("freeze-status", absent()), ("freeze-thaw", absent()), ("freeze-thaw", Ok("{\"return\":2}"))]);
        assert_eq!((back.report.level, back.is_thawed), (QuiesceLevel::Crash, true), "started again, it thawed");
        for unsent in [AgentFailure::Absent("x".to_owned()), AgentFailure::Closed("x".to_owned())] {
            let before = run(vec![("freeze-freeze", Err(unsent.clone()))]);
            assert_eq!((before.report.level, before.is_thawed, before.is_stuck), (QuiesceLevel::Crash, true, false), "nothing was sent: {unsent}");
        }
    }
}
