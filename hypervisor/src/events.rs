//! What libvirt tells by itself: domains that start, stop, are defined; block jobs; agents; the end of the connection.
//!
//! Events are hints: one may be lost while the connection is down. Whoever acts on them looks at all domains now and then as well.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use virt_sys as sys;

use crate::ffi::Named;
use crate::ffi::events::{self, Raw, Registration, Sink};
use crate::host::{Host, HostError};

/// Seconds between two signs of life of the connection, and how many may be missing: a libvirtd that hangs is noticed within half a minute.
const KEEP_ALIVE_S: i32 = 5;
const KEEP_ALIVE_MISSED_MAX: u32 = 5;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something of a domain.
    Domain {
        /// UUID in its usual form.
        uuid: String,
        /// Name at that moment.
        name: String,
        /// What.
        what: What,
    },
    /// The connection is gone: daemon ended, hung, or closed it.
    Closed {
        /// In words.
        why: &'static str,
    },
}

/// What happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The definition is new or another one.
    Defined {
        /// By a rename.
        renamed: bool,
    },
    /// The definition is gone.
    Undefined {
        /// By a rename.
        renamed: bool,
    },
    /// QEMU runs.
    Started(Start),
    /// The guest's processors stand still.
    Suspended {
        /// A disk of it could not be read or written.
        io_error: bool,
    },
    /// They go on.
    Resumed,
    /// QEMU has ended.
    Stopped(Stop),
    /// The guest has shut down; QEMU may still be there.
    ShuttingDown,
    /// The guest crashed, and QEMU is still there.
    Crashed,
    /// A block job of a disk has another state.
    BlockJob {
        /// Target.
        disk: String,
        /// Whether it ended, in whatever way.
        ended: bool,
    },
    /// The guest's agent came or went.
    Agent {
        /// It is there.
        connected: bool,
    },
    /// Another one.
    Other,
}

/// How QEMU came to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// From nothing.
    Booted,
    /// From another host.
    Migrated,
    /// From saved memory.
    Restored,
    /// From a snapshot.
    Snapshot,
    /// Otherwise.
    Other,
}

/// How QEMU came to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The guest shut down in good order.
    Shutdown,
    /// Somebody ended it.
    Destroyed,
    /// It crashed.
    Crashed,
    /// It went to another host.
    Migrated,
    /// Its memory was saved.
    Saved,
    /// QEMU failed.
    Failed,
    /// To a snapshot that is off.
    Snapshot,
    /// Otherwise.
    Other,
}

impl Start {
    /// A word for records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Booted => "booted",
            Self::Migrated => "migrated",
            Self::Restored => "restored",
            Self::Snapshot => "snapshot",
            Self::Other => "unknown",
        }
    }
}

impl Stop {
    /// A word for records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Destroyed => "destroyed",
            Self::Crashed => "crashed",
            Self::Migrated => "migrated",
            Self::Saved => "saved",
            Self::Failed => "failed",
            Self::Snapshot => "snapshot",
            Self::Other => "unknown",
        }
    }

    /// By libvirt's word, as its hook has it since 10.5; [`Stop::Other`] for any other.
    #[must_use]
    pub fn of(word: &str) -> Self {
        let all = [Self::Shutdown, Self::Destroyed, Self::Crashed, Self::Migrated, Self::Saved, Self::Failed];
        // "from snapshot", in libvirt's list.
        all.into_iter().find(|stop| stop.word() == word).unwrap_or(if word.ends_with("snapshot") { Self::Snapshot } else { Self::Other })
    }
}

impl What {
    /// By libvirt's numbers (virDomainEventType and its details).
    fn lifecycle(event: i32, detail: i32) -> Self {
        match (event, detail) {
            (0, detail) => Self::Defined { renamed: detail == 2 },
            (1, detail) => Self::Undefined { renamed: detail == 1 },
            (2, detail) => Self::Started(match detail {
                0 => Start::Booted,
                1 => Start::Migrated,
                2 => Start::Restored,
                3 => Start::Snapshot,
                _ => Start::Other,
            }),
            (3, detail) => Self::Suspended { io_error: detail == 2 },
            (4, _) => Self::Resumed,
            (5, detail) => Self::Stopped(match detail {
                0 => Stop::Shutdown,
                1 => Stop::Destroyed,
                2 => Stop::Crashed,
                3 => Stop::Migrated,
                4 => Stop::Saved,
                5 => Stop::Failed,
                6 => Stop::Snapshot,
                _ => Stop::Other,
            }),
            (6, _) => Self::ShuttingDown,
            (8, _) => Self::Crashed,
            _ => Self::Other,
        }
    }

    /// A word for records.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Defined { renamed: true } => "renamed",
            Self::Defined { .. } => "defined",
            Self::Undefined { .. } => "undefined",
            Self::Started(_) => "started",
            Self::Suspended { io_error: true } => "io-error",
            Self::Suspended { .. } => "suspended",
            Self::Resumed => "resumed",
            Self::Stopped(_) => "stopped",
            Self::ShuttingDown => "shutdown",
            Self::Crashed => "crashed",
            Self::BlockJob { .. } => "block-job",
            Self::Agent { .. } => "agent",
            Self::Other => "other",
        }
    }
}

impl From<Raw> for Event {
    fn from(raw: Raw) -> Self {
        let (whose, what) = match raw {
            Raw::Lifecycle(whose, event, detail) => (whose, What::lifecycle(event, detail)),
            // virConnectDomainEventBlockJobStatus: completed 0, failed 1, cancelled 2, ready 3.
            Raw::BlockJob(whose, disk, _, status) => (whose, What::BlockJob { disk, ended: status != 3 }),
            Raw::Agent(whose, state) => (whose, What::Agent { connected: state == 1 }),
            Raw::Closed(reason) => {
                let why = match reason {
                    1 => "libvirt's daemon has ended",
                    2 => "libvirt's daemon does not answer",
                    3 => "it was closed here",
                    _ => "the connection broke",
                };
                return Self::Closed { why };
            }
        };
        Self::Domain { uuid: whose.uuid, name: whose.name, what }
    }
}

/// A connection for somebody who must not hang with libvirt's daemon: once one that is open is silent for half a minute, its calls fail. The opening
/// itself has no limit of its own: a daemon that is stopped has its socket still, and the kernel lets callers in. Events can be had of it.
///
/// # Errors
/// [`HostError`].
pub fn open(uri: Option<&str>) -> Result<Host, HostError> {
    // Connections that are opened before the loop runs have neither events nor signs of life.
    events::start_loop()?;
    let host = Host::open(uri)?;
    match host.connection().set_keep_alive(KEEP_ALIVE_S, KEEP_ALIVE_MISSED_MAX).named("virConnectSetKeepAlive") {
        // A driver in our own process has no daemon that could hang.
        Err(error) if error.code != sys::VIR_ERR_NO_SUPPORT => Err(error.into()),
        _ => Ok(host),
    }
}

/// [`open`], with a limit: one that does not come back is left behind on a thread of its own, and ends with the program.
///
/// # Errors
/// [`HostError::Silent`], [`HostError`].
pub fn open_within(uri: Option<&str>, limit: Duration) -> Result<Host, HostError> {
    let (opened, host) = channel();
    let uri = uri.map(str::to_owned);
    std::thread::spawn(move || {
        // Whoever waited has given up if this fails.
        let _ = opened.send(open(uri.as_deref()));
    });
    host.recv_timeout(limit).unwrap_or(Err(HostError::Silent { limit_s: limit.as_secs() }))
}

/// Events of a connection, until it is dropped.
#[derive(Debug)]
pub struct Subscription<'a> {
    host: &'a Host,
    registrations: Vec<Registration>,
}

impl<'a> Subscription<'a> {
    /// Sends all events of all domains to `to`; what a receiver that is gone does not take is dropped. The connection must be one of [`open`].
    ///
    /// # Errors
    /// libvirt's.
    pub fn new(host: &'a Host, to: Sender<Event>) -> Result<Self, HostError> {
        let sink: Sink = Arc::new(move |raw| drop(to.send(raw.into())));
        Ok(Self { host, registrations: events::register(host.connection(), &sink)? })
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        events::deregister(self.host.connection(), &self.registrations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::events::Whose;

    #[test]
    fn numbers_become_words() {
        let whose = || Whose { uuid: "u".into(), name: "web".into() };
        let what = |raw| match Event::from(raw) {
            Event::Domain { uuid, name, what } if uuid == "u" && name == "web" => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(what(Raw::Lifecycle(whose(), 5, 0)), What::Stopped(Stop::Shutdown));
        assert_eq!(what(Raw::Lifecycle(whose(), 5, 2)), What::Stopped(Stop::Crashed));
        assert_eq!(what(Raw::Lifecycle(whose(), 2, 1)), What::Started(Start::Migrated));
        assert_eq!(what(Raw::Lifecycle(whose(), 3, 0)), What::Suspended { io_error: false });
        assert_eq!(what(Raw::Lifecycle(whose(), 3, 2)), What::Suspended { io_error: true });
        assert_eq!(what(Raw::Lifecycle(whose(), 99, 1)), What::Other);
        assert_eq!(what(Raw::BlockJob(whose(), "vda".into(), 1, 0)), What::BlockJob { disk: "vda".into(), ended: true });
        assert_eq!(what(Raw::Agent(whose(), 2)), What::Agent { connected: false });
        assert_eq!((Stop::of("crashed"), Stop::of("from snapshot"), Stop::of("-")), (Stop::Crashed, Stop::Snapshot, Stop::Other));
        assert_eq!(Event::from(Raw::Closed(2)), Event::Closed { why: "libvirt's daemon does not answer" });
    }
}
