//! When a thaw is certain: not every answer says that the guest stays thawed.
//!
//! libvirt lets one agent command of a domain through at a time. While another program's command takes its time, the job's freeze and the guard's thaw wait side
//! by side, and who goes first is chance: a thaw that finds nothing frozen may be followed by the freeze. It is sent even if the job that asked for it is dead by then.
//!
//! Invariants
//! - Once libvirt has answered the job's freeze, whatever it answered, no freeze comes after a thaw that is asked for from then on: both lie in the agent's port in order.
//! - Until then a thaw through libvirt is certain only after a time in which libvirt answered all the while, longer than it keeps a command waiting. That it thawed something
//!   says little: another program, or a person, may have frozen the guest while the job's freeze waits.
//! - Without a guest, or without a libvirt, there is nobody to freeze or to send a freeze.

use std::time::{Duration, Instant};

/// libvirt gives up a command that waited 30 s for its turn, and one whose agent has not answered its greeting for 5 s more.
pub const FREEZE_WAITS_MAX: Duration = Duration::from_secs(40);

/// What became of an attempt to thaw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// There is no guest any more; or no libvirt, and the agent said on its own channel that the guest is thawed.
    Over,
    /// The agent answered through libvirt, and file systems were thawed.
    Thawed,
    /// The same, and nothing was frozen.
    Nothing,
    /// Nobody answered.
    None,
}

/// What is known after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thaw {
    /// The guest is thawed and stays so.
    Certain,
    /// It is not frozen now, but may be in a moment.
    ForNow,
    /// Nobody knows.
    Failed,
}

/// A freeze that may still come.
#[derive(Debug, Default)]
pub struct Late {
    may_come: bool,
    answers_since: Option<Instant>,
}

impl Late {
    /// The job is about to ask for a freeze.
    pub fn asked(&mut self) {
        *self = Self { may_come: true, answers_since: None };
    }

    /// libvirt has answered it.
    pub fn answered(&mut self) {
        self.may_come = false;
    }

    /// Takes in an attempt to thaw that ended at `now`.
    pub fn judge(&mut self, answer: Answer, now: Instant) -> Thaw {
        let since = match answer {
            Answer::None => {
                self.answers_since = None;
                return Thaw::Failed;
            }
            Answer::Over => {
                self.may_come = false;
                return Thaw::Certain;
            }
            Answer::Thawed | Answer::Nothing => *self.answers_since.get_or_insert(now),
        };
        self.may_come &= now.duration_since(since) < FREEZE_WAITS_MAX;
        if self.may_come { Thaw::ForNow } else { Thaw::Certain }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thaw_is_certain_once_no_freeze_can_follow_it() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut late = Late::default();
        assert_eq!(late.judge(Answer::Nothing, at(0)), Thaw::Certain, "nobody has asked for a freeze");
        late.asked();
        assert_eq!(late.judge(Answer::Nothing, at(1)), Thaw::ForNow, "it may wait behind another's command");
        late.answered();
        assert_eq!(late.judge(Answer::Nothing, at(2)), Thaw::Certain);
        assert_eq!(late.judge(Answer::Thawed, at(3)), Thaw::Certain);
        late.asked();
        assert_eq!(late.judge(Answer::Thawed, at(4)), Thaw::ForNow, "that may have been another program's freeze, and ours waits");
        late.answered();
        assert_eq!(late.judge(Answer::Thawed, at(5)), Thaw::Certain);
        late.asked();
        assert_eq!(late.judge(Answer::Over, at(6)), Thaw::Certain);
        assert_eq!(late.judge(Answer::Nothing, at(7)), Thaw::Certain, "a freeze that waited in a libvirt that is gone is gone with it");
    }

    #[test]
    fn a_freeze_that_nobody_answers_for_is_waited_for_as_long_as_libvirt_keeps_one() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut late = Late::default();
        late.asked();
        assert_eq!(late.judge(Answer::None, at(0)), Thaw::Failed);
        assert_eq!(late.judge(Answer::Nothing, at(5)), Thaw::ForNow);
        assert_eq!(late.judge(Answer::Nothing, at(44)), Thaw::ForNow);
        assert_eq!(late.judge(Answer::None, at(44)), Thaw::Failed, "a libvirt that stood still keeps it for longer");
        assert_eq!(late.judge(Answer::Nothing, at(60)), Thaw::ForNow);
        assert_eq!(late.judge(Answer::Thawed, at(99)), Thaw::ForNow);
        assert_eq!(late.judge(Answer::Nothing, at(100)), Thaw::Certain);
    }
}
