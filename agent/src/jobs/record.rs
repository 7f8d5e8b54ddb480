//! What a job is: what was ordered, and what has become of it.

use crate::{failure::WARNINGS, schedule::Window};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Number of a job on this host; counts up, and is not used again while anything of the job is kept.
pub type JobId = i64;

/// Most of a message that health shows.
const OWED_CHARS_MAX: usize = 300;
/// Trigger of what somebody asked for by hand.
pub const ASKED: &str = "asked";

/// What kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A point of a domain.
    Backup,
    /// A point of an image or a device.
    BackupImage,
    /// Points that no rule of policies keeps are forgotten; its name is that of the policies.
    Prune,
    /// A store's space is freed; its name is the store's.
    Gc,
    /// A store's packs are read, or a domain's latest point is booted; its name is the store's, or the domain's.
    Verify,
}

impl Kind {
    /// As JSON and the table have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::BackupImage => "backup-image",
            Self::Prune => "prune",
            Self::Gc => "gc",
            Self::Verify => "verify",
        }
    }

    /// From the table.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Backup, Self::BackupImage, Self::Prune, Self::Gc, Self::Verify].into_iter().find(|k| k.word() == word)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for its turn.
    Queued,
    /// Its process lives.
    Running,
    /// Ended with 0.
    Done,
    /// Ended with 3: done, with warnings.
    Warnings,
    /// Ended with another code, or could not be started.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
    /// Its process is gone, and nobody knows how it ended.
    Lost,
}

impl State {
    /// All there are.
    pub const ALL: [Self; 7] = [Self::Queued, Self::Running, Self::Done, Self::Warnings, Self::Failed, Self::Cancelled, Self::Lost];

    /// As JSON and the table have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Warnings => "warnings",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        }
    }

    /// From such a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.word() == word)
    }

    /// Nothing changes any more.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// That of a process that ended with this code.
    pub fn of_exit(code: i32, cancelled: bool) -> Self {
        match code {
            0 => Self::Done,
            3 => Self::Warnings,
            _ if cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// What somebody wants done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What kind of work.
    pub kind: Kind,
    /// Name of the domain, or the name that the image's point gets.
    pub domain: String,
    /// The domain's UUID, where it is known: it outlives a rename.
    pub uuid: Option<String>,
    /// Name of the store.
    pub store: String,
    /// Names of the policies that it is for, if any.
    #[serde(default, rename = "policy", with = "names")]
    pub policies: Vec<String>,
    /// What made it: `asked`, or a trigger of a policy.
    pub trigger: String,
    /// The same in words.
    pub why: String,
    /// Windows of its policies ([`Window::record`]): it begins while one of them is open; none is always.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<String>,
    /// Arguments of the command, without the program.
    pub argv: Vec<String>,
    /// How long it may clean up by itself after a cancel, milliseconds.
    pub cancel_limit_ms: u64,
}

impl Order {
    /// Whether it may begin now. A window that cannot be read is no reason to make no point.
    pub fn may_begin(&self, now_unix_ms: u64) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|text| Window::of_record(text).is_none_or(|window| window.is_open(now_unix_ms)))
    }

    /// Its command is one that orders have; what else lies in a folder is not run.
    pub fn is_ours(&self) -> bool {
        self.argv.first().is_some_and(|command| command == self.kind.word())
    }
}

/// Names in one text, as the table and folders have them: names of policies have no comma.
pub mod names {
    use serde::{Deserialize, Deserializer, Serializer};

    /// One text; none of no names.
    pub fn joined(names: &[String]) -> Option<String> {
        (!names.is_empty()).then(|| names.join(","))
    }

    /// From such a text.
    pub fn split(text: Option<&str>) -> Vec<String> {
        text.map(|t| t.split(',').map(str::to_owned).collect()).unwrap_or_default()
    }

    /// For serde.
    pub fn serialize<S: Serializer>(names: &[String], s: S) -> Result<S::Ok, S::Error> {
        match joined(names) {
            Some(text) => s.serialize_some(&text),
            None => s.serialize_none(),
        }
    }

    /// For serde.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
        Ok(split(Option::<String>::deserialize(d)?.as_deref()))
    }
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// What was ordered.
    pub order: Order,
    /// Where it stands.
    pub state: State,
    /// Exit code; 128 and a signal's number as shells have it.
    pub code: Option<i32>,
    /// Its process, while that lives.
    pub pid: Option<i32>,
    /// Somebody wants it to end.
    pub cancel: bool,
    /// When it was ordered, ms since 1970.
    pub queued_unix_ms: u64,
    /// When its process began.
    pub started_unix_ms: Option<u64>,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// Why it failed; what is odd about it.
    pub message: Option<String>,
    /// The point that it made.
    pub point: Option<String>,
    /// Of another try: what it follows.
    pub again: Option<Again>,
}

/// Another try of a job that failed of what may be over soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// The job before.
    pub of: JobId,
    /// The how manieth try it is; the first has none of this.
    pub tries: u32,
    /// Not before this time, ms since 1970.
    pub not_before_unix_ms: u64,
}

impl Job {
    /// The how manieth try of its order it is.
    pub fn tries(&self) -> u32 {
        self.again.as_ref().map_or(1, |again| again.tries.max(1))
    }

    /// Whether both work on the same thing: only one of them may run at a time.
    pub fn concerns_same(&self, other: &Order) -> bool {
        let mine = &self.order;
        mine.kind == other.kind && (mine.domain == other.domain || (mine.uuid.is_some() && mine.uuid == other.uuid))
    }

    /// Whether it does what an order asks for.
    pub fn is_for(&self, order: &Order) -> bool {
        self.concerns_same(order) && self.order.store == order.store && self.order.policies == order.policies
    }

    /// The domain, by what outlives a rename, where its backup ended and may have left something: a guest that is frozen, say.
    pub fn broken(&self) -> Option<&str> {
        let is_well = |code: i32| code == 0 || code == i32::from(WARNINGS);
        let is_broken = self.state == State::Lost || (self.state.is_over() && self.code.is_some_and(|code| !is_well(code)));
        (is_broken && self.order.kind == Kind::Backup).then(|| self.order.uuid.as_deref().unwrap_or(&self.order.domain))
    }

    /// For health, of one that owes a point: it was lost, or nobody tries it again.
    pub fn owed_words(&self) -> String {
        let (id, kind, domain, store) = (self.id, self.order.kind.word(), crate::output::shown(&self.order.domain), crate::output::shown(&self.order.store));
        let why = match (self.state, &self.message) {
            (State::Lost, _) => "was lost: its processes are gone".to_owned(),
            (_, None) => "failed".to_owned(),
            (_, Some(message)) => {
                let message: String = message.chars().take(OWED_CHARS_MAX).collect();
                format!("failed: {}", crate::output::shown(&message))
            }
        };
        match self.order.kind {
            Kind::Backup | Kind::BackupImage => format!(
                "job {id} ({kind} of {domain} to {store}) {why}; nothing has saved that since. 'cairn job log {id}' has its last words, 'cairn job run' makes another"
            ),
            Kind::Prune | Kind::Gc | Kind::Verify => {
                format!(
                    "job {id} ({kind} of {domain} in {store}) {why}; 'cairn job log {id}' has its last words; the next of its kind that ends well ends this"
                )
            }
        }
    }

    /// As the API has it; progress and the log's path are its folder's.
    pub fn json(&self, log: &std::path::Path, progress: Option<&Value>) -> Value {
        let time = |ms: Option<u64>| ms.map_or(Value::Null, crate::output::rfc3339);
        let o = &self.order;
        json!({
            "id": self.id, "kind": o.kind.word(), "domain": o.domain, "uuid": o.uuid, "store": o.store,
            "policy": o.policies.first(), "policies": o.policies, "trigger": o.trigger, "why": o.why, "windows": o.windows, "command": o.argv, "state": self.state.word(), "code": self.code, "pid": self.pid, "cancel_asked": self.cancel,
            "queued": time(Some(self.queued_unix_ms)), "started": time(self.started_unix_ms), "ended": time(self.ended_unix_ms),
            "message": self.message, "point": self.point, "progress": progress, "log": log.display().to_string(),
            "tries": self.tries(), "retry_of": self.again.as_ref().map(|a| a.of), "not_before": time(self.again.as_ref().map(|a| a.not_before_unix_ms)),
        })
    }
}

/// What is shared by the folder of a running job and its row: the order, and when it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// Its number.
    pub id: JobId,
    /// What was ordered.
    pub order: Order,
    /// When.
    pub queued_unix_ms: u64,
    /// Of another try: what it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// Its process, as the runner notes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The command's process.
    pub pid: i32,
    /// When.
    pub started_unix_ms: u64,
}

/// How it ended, as the runner notes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// See [`Job::code`].
    pub code: i32,
    /// Somebody had asked for it.
    pub cancelled: bool,
    /// When.
    pub ended_unix_ms: u64,
    /// The last that it said, where it failed.
    pub message: Option<String>,
    /// The point that it made.
    pub point: Option<String>,
}

/// Folder of all jobs.
pub fn jobs_dir(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("jobs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.word()), Some(state));
        }
        assert_eq!(State::parse("asleep"), None);
        for kind in [Kind::Backup, Kind::BackupImage, Kind::Prune, Kind::Gc, Kind::Verify] {
            assert_eq!(Kind::parse(kind.word()), Some(kind));
        }
        assert_eq!((Kind::parse("backup-image"), Kind::parse("x")), (Some(Kind::BackupImage), None));
    }

    #[test]
    fn an_order_of_an_earlier_cairn_is_read() {
        let text = r#"{"kind": "backup", "domain": "d", "uuid": null, "store": "s", "policy": "nightly", "trigger": "asked", "why": "w", "argv": [],
            "cancel_limit_ms": 1}"#;
        let mut order: Order = serde_json::from_str(text).expect("reads");
        assert_eq!(order.policies, ["nightly"]);
        for policies in [vec![], vec!["a".to_owned(), "b".to_owned()]] {
            order.policies = policies;
            let text = serde_json::to_string(&order).expect("writes");
            assert_eq!(serde_json::from_str::<Order>(&text).expect("reads"), order);
        }
    }

    #[test]
    fn codes_say_how_it_ended() {
        for (code, cancelled, state) in [
            (0, false, State::Done),
            // Asked too late: what is done is done.
            (0, true, State::Done),
            (3, true, State::Warnings),
            (1, false, State::Failed),
            (1, true, State::Cancelled),
            (130, true, State::Cancelled),
            // The host was shut down: nobody asked for that of the job.
            (130, false, State::Failed),
            (137, true, State::Cancelled),
            (137, false, State::Failed),
        ] {
            assert_eq!(State::of_exit(code, cancelled), state, "{code} {cancelled}");
        }
    }
}
