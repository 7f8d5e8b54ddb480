//! What the watch makes of messages, with real records and no libvirt.

use super::*;
use crate::watch::{post, wish::Trigger};
use cairn_hook::Uuid;
use cairn_hypervisor::events::Start;
use std::collections::BTreeMap;
use tokio::sync::mpsc;

const UUID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

struct World {
    _dir: tempfile::TempDir,
    core: Core,
    wishes: mpsc::Receiver<Wish>,
    stamp_ns: u64,
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("folder");
    let (to, wishes) = mpsc::channel(2);
    let every = Duration::from_secs(300);
    let settings =
        Settings { connect: None, state_dir: dir.path().to_owned(), reconcile_every: every, hook_dir: dir.path().join("hook"), stores: BTreeMap::new() };
    let mut core = Core::new(settings, to, post::pair().0, Shared::default());
    assert_eq!(core.due.take(Instant::now()), Some(Look::All), "at the start");
    World { _dir: dir, core, wishes, stamp_ns: 1000 }
}

impl World {
    fn libvirt(&mut self, name: &str, what: What) {
        self.stamp_ns += 1000;
        self.core.take(Message::Libvirt(Box::new(Event::Domain { uuid: UUID.into(), name: name.into(), what }), self.stamp_ns));
        self.core.hand_on();
    }

    fn hook(&mut self, operation: Operation, extra: &str) {
        self.stamp_ns += 1000;
        let (uuid, boot) = (Uuid::parse(UUID.as_bytes()), cairn_hook::clock::boot_id());
        let (sub_operation, time_unix_ms) = ("end".to_owned(), now_unix_ms());
        let event =
            HookEvent { domain: "web".into(), uuid, operation, sub_operation, extra: extra.into(), time_unix_ms, stamp_ns: self.stamp_ns, boot, cut: false };
        self.core.take(Message::Hook(Box::new(event)));
        self.core.hand_on();
    }

    fn wished(&mut self) -> Vec<Trigger> {
        std::iter::from_fn(|| self.wishes.try_recv().ok()).map(|w| w.trigger).collect()
    }

    fn shown(&mut self) -> Value {
        self.core.record(Records::shown).expect("shown")[0].clone()
    }
}

#[test]
fn hook_and_event_of_one_end_make_one_wish() {
    let mut w = world();
    w.libvirt("web", What::Started(Start::Booted));
    assert_eq!(w.wished(), [], "the first that is seen of a domain is no start");
    w.hook(Operation::Stopped, "shutdown");
    w.hook(Operation::Release, "shutdown");
    w.libvirt("web", What::Stopped(Stop::Shutdown));
    assert_eq!(w.wished(), [Trigger::Shutdown]);
    w.libvirt("web", What::Started(Start::Booted));
    // Before libvirt 10.5 the hook does not say why.
    w.hook(Operation::Stopped, "-");
    w.libvirt("web", What::Stopped(Stop::Shutdown));
    assert_eq!(w.wished(), [Trigger::Started, Trigger::Shutdown]);
    let later = Instant::now() + Duration::from_secs(10);
    assert_eq!(w.core.due.take(later), Some(Look::Domains(vec![UUID.into()])), "and one look");
}

#[test]
fn a_crash_is_suspicious_and_calls_for_no_point() {
    for by_hook in [true, false] {
        let mut w = world();
        w.libvirt("web", What::Started(Start::Booted));
        if by_hook {
            w.hook(Operation::Stopped, "crashed");
        } else {
            w.libvirt("web", What::Stopped(Stop::Failed));
        }
        assert_eq!(w.wished(), []);
        let shown = w.shown();
        assert!(shown["suspicion"]["why"].is_string(), "{shown}");
        assert_eq!(shown["state"], "off");
    }
}

#[test]
fn wishes_that_find_no_room_wait() {
    let mut w = world();
    for _ in 0..3 {
        w.libvirt("web", What::Started(Start::Booted));
        w.libvirt("web", What::Stopped(Stop::Destroyed));
    }
    w.libvirt("web", What::Started(Start::Booted));
    assert_eq!(w.wished().len(), 2, "as many as there is room for");
    w.core.hand_on();
    assert_eq!(w.wished().len(), 1, "and then the other");
    w.core.wished = true;
    w.core.hand_on();
    assert_eq!(w.wished(), [], "each once");
    let left = |w: &mut World| w.core.record(Records::wishes).expect("read").iter().map(|w| w.id).collect::<Vec<_>>();
    let ids = left(&mut w);
    assert_eq!(ids.len(), 3, "they stay until there are jobs for them");
    w.core.take(Message::Granted(ids[0]));
    assert_eq!(left(&mut w), ids[1..]);
}

#[test]
fn a_domain_that_runs_from_a_point_is_nobodys() {
    let mut w = world();
    std::fs::create_dir_all(w.core.settings.state_dir.join("runs/web-run")).expect("folder");
    w.libvirt("web-run", What::Started(Start::Booted));
    w.libvirt("web-run", What::Stopped(Stop::Shutdown));
    assert_eq!(w.wished(), []);
    assert_eq!(w.core.record(Records::shown).expect("shown"), json!([]));
    w.libvirt("web-run", What::Suspended { io_error: false });
    assert_eq!(w.core.due.take(Instant::now() + Duration::from_secs(10)), None);
    w.libvirt("web-run", What::Suspended { io_error: true });
    assert_eq!(w.core.due.take(Instant::now() + Duration::from_secs(10)), Some(Look::Domains(vec![UUID.into()])), "perhaps nobody serves it");
}

#[test]
fn what_failed_or_was_busy_is_looked_at_again() {
    let mut w = world();
    let now = Instant::now();
    w.core.looked(&Look::Domains(vec![UUID.into()]), Ok(vec![json!({"uuid": UUID, "outcome": "busy"}), json!({"uuid": "other", "outcome": "looked"})]));
    assert_eq!(w.core.due.take(now + Duration::from_secs(60)), Some(Look::Domains(vec![UUID.into()])));
    w.core.looked(&Look::All, Err("hangs".into()));
    assert_eq!(w.core.due.take(now), None);
    assert_eq!(w.core.due.take(Instant::now() + Duration::from_secs(60)), Some(Look::All));
}

#[test]
fn a_guest_that_stays_frozen_is_looked_at_again() {
    for (kind, gone, again) in [("freeze", false, true), ("freeze", true, false), ("dead-bitmap", false, false)] {
        let (mut w, now) = (world(), Instant::now());
        let report = json!({"uuid": UUID, "name": "web", "state": "running", "outcome": "looked", "found": [{"kind": kind, "name": "x", "gone": gone}]});
        w.core.looked(&Look::Domains(vec![UUID.into()]), Ok(vec![report]));
        let next = w.core.due.take(now + Duration::from_secs(60));
        assert_eq!(next, again.then(|| Look::Domains(vec![UUID.into()])), "{kind} {gone}");
        let is_told = with(&w.core.shared, |s| {
            let dir = tempfile::tempdir().expect("dir");
            cairn_quiesce::record::open(dir.path(), UUID).expect("records");
            let file = std::fs::File::options().write(true).open(dir.path().join(UUID)).expect("opens");
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(60)).expect("dates");
            !s.frozen.problems(dir.path()).is_empty()
        });
        assert_eq!(is_told, again, "{kind} {gone}");
    }
}

#[test]
fn while_libvirt_is_gone_nothing_is_looked_at() {
    let mut w = world();
    w.core.take(Message::Ask(None));
    w.core.look();
    assert!(w.core.looking.is_none());
    w.core.take(Message::Lost("it hangs".into()));
    assert_eq!(with(&w.core.shared, |s| s.lost.clone()).as_deref(), Some("it hangs"));
    w.core.take(Message::Connected);
    assert_eq!(with(&w.core.shared, |s| s.lost.clone()), None);
    assert_eq!(w.core.due.take(Instant::now()), Some(Look::All));
}
