//! Messages to the watch: a queue of limited length whose senders never wait.
//!
//! Invariant: what finds no room is not lost without a trace: a mark says that all domains are to be looked at.

use super::{Settings, due::Look};
use cairn_hypervisor::events::Event;
use serde_json::Value;
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

/// A hundred domains started at once make a thousand messages.
const QUEUE_MAX: usize = 4096;

/// What the watch is told.
#[derive(Debug)]
pub enum Message {
    /// libvirt's hook was called.
    Hook(Box<cairn_hook::Event>),
    /// libvirt told something, at this time since the boot.
    Libvirt(Box<Event>, u64),
    /// libvirt is there.
    Connected,
    /// It is not, and why.
    Lost(String),
    /// A look came to its end: its reports, or why there are none.
    Looked(Look, Result<Vec<Value>, String>),
    /// Somebody asks for a look at a domain, or at all.
    Ask(Option<String>),
    /// There is a job for a wish, or nobody wants one.
    Granted(i64),
    /// Other settings.
    Change(Box<Settings>),
    /// The end.
    Stop,
}

/// A sender; cheap to clone.
#[derive(Debug, Clone)]
pub struct Post {
    to: SyncSender<Message>,
    shared: Arc<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    missed: AtomicBool,
    missed_count: AtomicU64,
    ended: AtomicBool,
}

/// Both ends.
pub fn pair() -> (Post, Receiver<Message>) {
    let (to, from) = sync_channel(QUEUE_MAX);
    (Post { to, shared: Arc::default() }, from)
}

impl Post {
    /// Sends if there is room; if not, that something was missed is known.
    pub fn offer(&self, message: Message) -> Result<(), TrySendError<()>> {
        self.to.try_send(message).map_err(|e| match e {
            TrySendError::Full(_) => {
                self.missed("more happens than the watch can take");
                TrySendError::Full(())
            }
            TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
        })
    }

    /// Sends if there is room, or gives the message back.
    pub fn give(&self, message: Message) -> Result<(), Message> {
        self.to.try_send(message).map_err(|e| match e {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })
    }

    /// Something happened, and nobody knows what.
    pub fn missed(&self, why: &str) {
        self.shared.missed_count.fetch_add(1, Ordering::Relaxed);
        if !self.shared.missed.swap(true, Ordering::SeqCst) {
            tracing::info!("all domains are looked at: {why}");
        }
    }

    /// Whether something was missed since the last time.
    pub fn take_missed(&self) -> bool {
        self.shared.missed.swap(false, Ordering::SeqCst)
    }

    /// How often something was.
    pub fn missed_count(&self) -> u64 {
        self.shared.missed_count.load(Ordering::Relaxed)
    }

    /// Threads are to end.
    pub fn end(&self) {
        self.shared.ended.store(true, Ordering::SeqCst);
    }

    /// They are.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.load(Ordering::SeqCst)
    }
}
