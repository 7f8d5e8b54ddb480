//! Takes what libvirt's hook tells: datagrams while somebody listens, and the spool for what came while nobody did (docs/hooks.md).
//!
//! Invariants
//! - Nothing that comes is fatal: what is no record is counted, and all domains are looked at, because something did happen.
//! - Bounded: records are taken in turns of limited length, and one that the watch has no room for stays in the spool, or is told as missed.
//! - The socket is bound before the spool is drained, so nothing falls between them.
//! - Both are taken by the owner of the folder alone: of two daemons one hears the hook, and the other says so.

use super::post::{Message, Post};
use crate::commands::now_unix_ms;
use cairn_hook::{Event, channel::Inbox, owner::Owner, spool::Spool};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc::TrySendError},
    time::{Duration, Instant},
};

/// A full socket fills the spool without a word, so it is read now and then.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
/// Where the socket cannot be bound.
const BIND_EVERY: Duration = Duration::from_secs(5);
/// So soon the end of the watch is seen.
const TURN: Duration = Duration::from_secs(1);
/// Datagrams in one turn; a flood must not keep the spool waiting.
const DATAGRAMS_MAX: usize = 256;

/// How it is, for people.
#[derive(Debug, Default)]
pub struct State {
    datagrams: u64,
    spooled: u64,
    rejected: u64,
    missed: u64,
    last_unix_ms: Option<u64>,
    /// Why nothing can be heard at the socket, and why the spool cannot be read; each for as long as it is so.
    deaf: Option<String>,
    unread: Option<String>,
}

/// Which of them.
type Problem = fn(&mut State) -> &mut Option<String>;
const DEAF: Problem = |s| &mut s.deaf;
const UNREAD: Problem = |s| &mut s.unread;

impl State {
    fn problems(&self) -> Vec<String> {
        self.deaf.iter().chain(&self.unread).cloned().collect()
    }
}

/// Shared with whoever shows it.
#[derive(Debug, Default, Clone)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        // Numbers hold whatever a thread died of.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For the API.
    pub fn json(&self) -> Value {
        self.with(|s| {
            let last = s.last_unix_ms.map_or(Value::Null, crate::output::rfc3339);
            json!({"datagrams": s.datagrams, "spooled": s.spooled, "rejected": s.rejected, "missed": s.missed, "last": last, "problem": s.problems().first()})
        })
    }

    /// What keeps the hook from being heard now.
    pub fn problems(&self) -> Vec<String> {
        self.with(|s| s.problems())
    }
}

/// Listens in `base` until the watch ends. The thread ends by itself.
pub fn start(base: &Path, post: Post) -> io::Result<Shared> {
    let shared = Shared::default();
    let listener = Listener { base: base.to_owned(), post, shared: shared.clone(), owner: None, inbox: None };
    std::thread::Builder::new().name("hook-inbox".into()).spawn(move || listener.run())?;
    Ok(shared)
}

struct Listener {
    base: PathBuf,
    post: Post,
    shared: Shared,
    owner: Option<Owner>,
    inbox: Option<Inbox>,
}

impl Listener {
    fn run(mut self) {
        let (mut bind_at, mut drain_at) = (Instant::now(), Instant::now());
        while !self.post.has_ended() {
            if Instant::now() >= bind_at {
                self.own();
                if self.owner.is_some() && self.inbox.is_none() {
                    self.bind();
                }
                bind_at = Instant::now() + BIND_EVERY;
            }
            if self.owner.is_some() && Instant::now() >= drain_at {
                self.drain();
                drain_at = Instant::now() + DRAIN_EVERY;
            }
            self.wait();
            self.read();
        }
    }

    /// Makes the folder ours, or gives up what is not in its place any more: somebody emptied `/run`, another daemon has it by then.
    fn own(&mut self) {
        if self.owner.as_ref().is_some_and(|owner| !owner.is_in_place()) {
            (self.owner, self.inbox) = (None, None);
            self.shared.with(|s| s.unread = None);
        }
        if self.inbox.as_ref().is_some_and(|inbox| !inbox.is_in_place()) {
            self.inbox = None;
        }
        if self.owner.is_some() {
            return;
        }
        let base = self.base.display();
        match Owner::take(&self.base) {
            Ok(owner) => {
                self.owner = Some(owner);
                self.shared.with(|s| s.deaf = None);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.problem(
                DEAF,
                format!("another daemon takes what libvirt's hook tells in {base} ({e}): this one hears nothing of it; end one of them, or give this one a daemon.hook_dir of its own"),
            ),
            Err(e) => self.problem(DEAF, format!("cannot listen to libvirt's hook in {base}: {e}")),
        }
    }

    fn bind(&mut self) {
        match Inbox::bind(&self.base) {
            Ok(inbox) => {
                self.inbox = Some(inbox);
                self.shared.with(|s| s.deaf = None);
            }
            Err(e) => self.problem(DEAF, format!("cannot listen to libvirt's hook in {}: {e}; what it tells is read from its spool", self.base.display())),
        }
    }

    /// Said once, shown for as long as it is so.
    fn problem(&self, which: Problem, text: String) {
        let is_new = self.shared.with(|s| which(s).as_ref() != Some(&text));
        if is_new {
            tracing::warn!("{text}");
            self.shared.with(|s| *which(s) = Some(text));
        }
    }

    fn wait(&self) {
        let Some(inbox) = &self.inbox else { return std::thread::sleep(TURN) };
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        // Interrupted or not: what there is to read shows in a moment.
        if poll(&mut [PollFd::new(inbox.socket(), PollFlags::IN)], Some(&limit)).is_err() {
            std::thread::sleep(TURN / 10);
        }
    }

    fn read(&mut self) {
        for _ in 0..DATAGRAMS_MAX {
            let Some(inbox) = &self.inbox else { return };
            match inbox.next() {
                Ok(None) => return,
                Ok(Some(Ok(event))) => {
                    self.shared.with(|s| (s.datagrams, s.last_unix_ms) = (s.datagrams + 1, Some(now_unix_ms())));
                    if self.post.offer(Message::Hook(Box::new(event))).is_err() {
                        self.shared.with(|s| s.missed += 1);
                    }
                }
                Ok(Some(Err(e))) => {
                    self.shared.with(|s| s.rejected += 1);
                    self.post.missed(&format!("a datagram that is no record of libvirt's hook: {e}"));
                }
                Err(e) => {
                    self.problem(DEAF, format!("cannot read what libvirt's hook sends: {e}"));
                    self.inbox = None;
                }
            }
        }
    }

    fn drain(&mut self) {
        let mut take = |event: Event| match self.post.offer(Message::Hook(Box::new(event))) {
            Ok(()) => {
                self.shared.with(|s| (s.spooled, s.last_unix_ms) = (s.spooled + 1, Some(now_unix_ms())));
                Ok(())
            }
            // It stays where it is.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(io::ErrorKind::WouldBlock.into()),
        };
        match Spool::at(&self.base).drain(&mut take) {
            Ok(drained) => {
                self.shared.with(|s| {
                    s.rejected += drained.rejected.len() as u64;
                    s.unread = None;
                });
                if drained.is_incomplete() {
                    let why = drained.rejected.first().map_or_else(|| "records were lost".to_owned(), |(name, why)| format!("{name}: {why}"));
                    self.post.missed(&format!("the spool of libvirt's hook: {why}"));
                }
            }
            // Another process drains, or the watch has no room.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => self.problem(UNREAD, format!("cannot read the spool of libvirt's hook in {}: {e}", self.base.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::post;
    use super::*;
    use cairn_hook::{Operation, channel, clock::Moment, spool};

    const LIMIT: Duration = Duration::from_secs(20);

    fn event(domain: &str) -> Event {
        let Moment { stamp_ns, time_unix_ms } = Moment::now();
        let (operation, sub_operation) = (Operation::Started, "begin".into());
        Event { domain: domain.into(), uuid: None, operation, sub_operation, extra: "-".into(), time_unix_ms, stamp_ns, boot: None, cut: false }
    }

    fn put(base: &Path, event: &Event) {
        spool::put(base, event.stamp_ns, &event.encode()).expect("spooled");
    }

    #[test]
    fn what_was_spooled_and_what_is_sent_comes_and_nonsense_is_counted() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        put(&base, &event("spooled"));
        std::fs::write(base.join("hook-spool/00000000000000000001-0000000001.event"), b"torn").expect("written");
        let (post, messages) = post::pair();
        let shared = start(&base, post.clone()).expect("started");
        let next = || match messages.recv_timeout(LIMIT).expect("a message") {
            Message::Hook(event) => event.domain,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(), "spooled");
        let begin = Instant::now();
        while channel::send(&base, &event("sent").encode()).is_err() {
            assert!(begin.elapsed() < LIMIT, "nobody listens");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(next(), "sent");
        assert!(post.take_missed(), "what was torn did happen");
        for junk in [&b""[..], b"cairn-hook 99\n", &[b'x'; 4000]] {
            channel::send(&base, junk).expect("sent");
        }
        channel::send(&base, &event("after").encode()).expect("sent");
        assert_eq!(next(), "after", "junk ends nothing");
        assert!(post.take_missed());
        let state = shared.json();
        assert_eq!((&state["datagrams"], &state["spooled"], &state["rejected"], &state["problem"]), (&2.into(), &1.into(), &4.into(), &Value::Null));
        post.end();
    }

    #[test]
    fn what_keeps_the_hook_from_being_heard_is_told_for_as_long_as_it_is_so() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        put(&base, &event("kept"));
        let spool = base.join("hook-spool");
        // What is no folder can be neither listened in nor read.
        std::fs::rename(&spool, dir.path().join("aside")).expect("moved");
        std::fs::write(&spool, b"").expect("written");
        let (post, messages) = post::pair();
        let mut listener = Listener { base: base.clone(), post, shared: Shared::default(), owner: None, inbox: None };
        listener.drain();
        let other = channel::Inbox::bind(&base).expect("somebody else listens");
        listener.bind();
        let problems = listener.shared.problems();
        assert!(problems.len() == 2 && problems[0].contains("cannot listen") && problems[1].contains("cannot read the spool"), "{problems:?}");
        drop(other);
        listener.bind();
        assert_eq!(listener.shared.problems(), problems[1..], "the spool is what it was");
        assert_eq!(listener.shared.json()["problem"], problems[1].as_str());
        std::fs::remove_file(&spool).expect("removed");
        std::fs::rename(dir.path().join("aside"), &spool).expect("moved back");
        listener.drain();
        assert!(listener.shared.problems().is_empty());
        assert!(matches!(messages.try_recv(), Ok(Message::Hook(e)) if e.domain == "kept"));
    }

    #[test]
    fn of_two_listeners_one_takes_all_and_the_other_says_so_until_it_is_its_turn() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        let listener = |post: &Post| Listener { base: base.clone(), post: post.clone(), shared: Shared::default(), owner: None, inbox: None };
        let ((post, _messages), (other, _others)) = (post::pair(), post::pair());
        let (mut first, mut second) = (listener(&post), listener(&other));
        first.own();
        first.bind();
        second.own();
        let told = second.shared.problems();
        assert!(second.owner.is_none() && told.len() == 1 && told[0].contains("another daemon") && told[0].contains("daemon.hook_dir"), "{told:?}");
        // Somebody empties the folder: who notices first has it.
        std::fs::remove_dir_all(&base).expect("removed");
        second.own();
        second.bind();
        assert!(second.owner.is_some() && second.inbox.is_some() && second.shared.problems().is_empty());
        first.own();
        assert!(first.owner.is_none() && first.inbox.is_none() && first.shared.problems().len() == 1);
        drop(second);
        first.own();
        assert!(first.owner.is_some() && first.shared.problems().is_empty());
        // A socket alone that goes is made anew.
        first.bind();
        std::fs::remove_file(base.join("hook.sock")).expect("removed");
        first.own();
        assert!(first.owner.is_some() && first.inbox.is_none());
    }

    #[test]
    fn a_watch_without_room_leaves_records_in_the_spool() {
        let dir = tempfile::tempdir().expect("folder");
        let base = dir.path().join("cairn");
        let (post, messages) = post::pair();
        while post.offer(Message::Connected).is_ok() {}
        assert!(post.take_missed());
        put(&base, &event("kept"));
        let mut listener = Listener { base: base.clone(), post: post.clone(), shared: Shared::default(), owner: None, inbox: None };
        listener.drain();
        assert_eq!(std::fs::read_dir(base.join("hook-spool")).expect("spool").count(), 1);
        while messages.try_recv().is_ok() {}
        listener.drain();
        assert!(matches!(messages.try_recv(), Ok(Message::Hook(e)) if e.domain == "kept"));
        assert_eq!(std::fs::read_dir(base.join("hook-spool")).expect("spool").count(), 0);
    }
}
