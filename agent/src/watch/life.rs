//! What it means that a domain runs or does not: pure, so that each case can be tried.
//!
//! Invariants
//! - Who is late is not believed: what was seen before the last change of a domain, in the same boot of the host, changes nothing.
//! - A change is one however many tell of it: the first makes the wish and the suspicion, the others find the record as it is now.
//! - Suspicion decides nothing about what is read (docs/adr/0018): that is for the bitmaps.

use super::wish::Trigger;
use cairn_hypervisor::{
    events::{Start, Stop},
    phase::Phase,
};

/// One look at a domain, or one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// What was seen.
    pub phase: Phase,
    /// When, in nanoseconds since the boot.
    pub stamp_ns: u64,
    /// In which boot of the host.
    pub boot: String,
    /// By the wall's clock, for people.
    pub at_unix_ms: u64,
}

/// What the record has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// It had a QEMU process.
    pub running: bool,
    /// Since when that is known.
    pub stamp_ns: u64,
    /// In which boot.
    pub boot: String,
    /// Why is not known: it was seen while it was being started.
    pub unexplained: bool,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// The record is to say this from now on.
    pub changed: bool,
    /// Something happened in which writes may have gone past the bitmaps' keeper.
    pub suspicion: Option<&'static str>,
    /// A point may be wanted.
    pub wish: Option<(Trigger, &'static str)>,
}

/// What a look means for a record.
pub fn judge(before: Option<&Before>, now: &Sight) -> Change {
    let Some(before) = before else {
        return Change { changed: true, suspicion: suspicious(now.phase), wish: None };
    };
    let same_boot = before.boot == now.boot;
    if same_boot && now.stamp_ns <= before.stamp_ns {
        return Change::default();
    }
    let running = matches!(now.phase, Phase::Running(_));
    // Whatever ran in another boot of the host ended with that, and nobody saw how.
    let was_running = before.running && same_boot;
    if same_boot && running == was_running {
        return if before.unexplained { explained(now.phase) } else { Change::default() };
    }
    let unseen_end = (before.running && !same_boot).then_some("the host was restarted, and the domain was not seen to end before");
    Change { changed: true, suspicion: unseen_end.or(if running == was_running { None } else { suspicious(now.phase) }), wish: wish(was_running, now.phase) }
}

/// A look that meets a start sees a domain that stands still; libvirt's event says what that start was.
fn explained(phase: Phase) -> Change {
    match phase {
        Phase::Running(Start::Other) | Phase::Off(_) => Change::default(),
        Phase::Running(_) => Change { changed: true, suspicion: suspicious(phase), wish: wish(false, phase) },
    }
}

fn suspicious(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Off(Stop::Failed) => Some("QEMU ended by itself or was killed"),
        Phase::Off(Stop::Crashed) => Some("it crashed"),
        Phase::Running(Start::Migrated) => Some("it came from another host"),
        _ => None,
    }
}

fn wish(was_running: bool, phase: Phase) -> Option<(Trigger, &'static str)> {
    match phase {
        Phase::Off(Stop::Shutdown) if was_running => Some((Trigger::Shutdown, "the guest shut down")),
        Phase::Running(Start::Booted) if !was_running => Some((Trigger::Started, "the domain was started")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sight(phase: Phase, stamp_ns: u64) -> Sight {
        Sight { phase, stamp_ns, boot: "b1".into(), at_unix_ms: 1 }
    }

    fn before(running: bool, stamp_ns: u64) -> Before {
        Before { running, stamp_ns, boot: "b1".into(), unexplained: false }
    }

    const SHUTDOWN: Phase = Phase::Off(Stop::Shutdown);
    const BOOTED: Phase = Phase::Running(Start::Booted);

    #[test]
    fn a_clean_end_calls_for_one_point() {
        let first = judge(Some(&before(true, 10)), &sight(SHUTDOWN, 20));
        assert_eq!((first.changed, first.wish.map(|w| w.0), first.suspicion), (true, Some(Trigger::Shutdown), None));
        assert_eq!(judge(Some(&before(false, 20)), &sight(SHUTDOWN, 30)), Change::default(), "told again");
        assert_eq!(judge(Some(&before(true, 40)), &sight(SHUTDOWN, 30)), Change::default(), "it was started again since");
        for other in [Stop::Destroyed, Stop::Saved, Stop::Migrated, Stop::Snapshot, Stop::Other] {
            let change = judge(Some(&before(true, 10)), &sight(Phase::Off(other), 20));
            assert_eq!((change.changed, change.wish, change.suspicion), (true, None, None), "{other:?}");
        }
    }

    #[test]
    fn a_crash_and_a_migration_are_suspicious_once() {
        for (was, phase) in [(true, Phase::Off(Stop::Failed)), (true, Phase::Off(Stop::Crashed)), (false, Phase::Running(Start::Migrated))] {
            let change = judge(Some(&before(was, 10)), &sight(phase, 20));
            assert!(change.suspicion.is_some() && change.wish.is_none(), "{phase:?}");
            assert_eq!(judge(Some(&before(!was, 20)), &sight(phase, 30)), Change::default(), "{phase:?} is seen for as long as nothing else happens");
            assert!(judge(None, &sight(phase, 20)).suspicion.is_some(), "{phase:?} of a domain that nobody knew");
        }
    }

    #[test]
    fn a_start_calls_for_a_point_where_it_is_one() {
        assert_eq!(judge(Some(&before(false, 10)), &sight(BOOTED, 20)).wish.map(|w| w.0), Some(Trigger::Started));
        assert_eq!(judge(Some(&before(false, 10)), &sight(Phase::Running(Start::Restored), 20)).wish, None);
        assert_eq!(judge(None, &sight(BOOTED, 20)).wish, None, "nobody knows when it was started");
        assert_eq!(judge(None, &sight(SHUTDOWN, 20)).wish, None, "nobody knows when it ended");
    }

    #[test]
    fn a_start_that_was_seen_half_way_is_told_later() {
        let seen = judge(Some(&before(false, 10)), &sight(Phase::Running(Start::Other), 20));
        assert_eq!((seen.changed, seen.wish, seen.suspicion), (true, None, None));
        let half = Before { unexplained: true, ..before(true, 20) };
        assert_eq!(judge(Some(&half), &sight(BOOTED, 30)).wish.map(|w| w.0), Some(Trigger::Started));
        assert!(judge(Some(&half), &sight(Phase::Running(Start::Migrated), 30)).suspicion.is_some());
        assert_eq!(judge(Some(&half), &sight(Phase::Running(Start::Other), 30)), Change::default());
        assert_eq!(judge(Some(&half), &sight(BOOTED, 15)), Change::default(), "an older start");
    }

    #[test]
    fn the_end_of_the_host_is_the_end_of_what_ran() {
        let after = |phase| Sight { boot: "b2".into(), ..sight(phase, 5) };
        let off = judge(Some(&before(true, 10)), &after(Phase::Off(Stop::Other)));
        assert!(off.changed && off.suspicion.is_some() && off.wish.is_none());
        let again = judge(Some(&before(true, 10)), &after(BOOTED));
        assert!(again.suspicion.is_some());
        assert_eq!(again.wish.map(|w| w.0), Some(Trigger::Started), "it was started by itself");
        let was_off = judge(Some(&before(false, 10)), &after(Phase::Off(Stop::Other)));
        assert_eq!((was_off.changed, was_off.suspicion, was_off.wish), (true, None, None));
    }
}
