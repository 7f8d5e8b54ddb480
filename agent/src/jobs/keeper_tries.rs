//! The keeper's other tries: of a job that failed of what may be over soon, and of a runner that did not come up.

use super::{
    super::record::{Begun, Exit},
    *,
};
use crate::failure::INTERRUPTED;
use again::Next;

/// How often a runner is started that does not come up.
const TRIES_MAX: u32 = 3;

impl Keeper {
    /// Another try of a job that failed of what may be over soon, where an event asked for it; true if all is written down. The same that waits already is that try.
    pub(super) fn retry(&mut self, job: &mut Job, was_seen: bool) -> Outcome<bool> {
        let (now, id) = (self.around.now(), job.id);
        let next = match again::next(job, was_seen, now) {
            Next::Over => return Ok(false),
            Next::Try(_) if self.sql(|t| t.has_retry(id))? => return Ok(false),
            next => next,
        };
        let said = job.message.take().unwrap_or_else(|| again::reason(job.code).into());
        match (next, self.waiting_for(&job.order)?) {
            (Next::Try(next), None) => {
                let (of, at) = (again::PAUSES_MS.len() + 1, crate::output::rfc3339(next.not_before_unix_ms));
                let say = |id| format!("{said}; tried again as job {id}, not before {at} (try {} of {of})", next.tries);
                return self.sql(|t| t.end_and_retry(job, &next, now, say)).map(|()| true);
            }
            (_, Some(other)) => job.message = Some(format!("{said}; job {other}, which waits, is for the same")),
            (_, None) => job.message = Some(format!("{said}; this was try {}, and it is not tried again", job.tries())),
        }
        Ok(false)
    }

    /// A job that waits and is the same.
    fn waiting_for(&mut self, order: &Order) -> Outcome<Option<JobId>> {
        let waiting = self.sql(|t| t.list(Which::In(State::Queued)))?;
        Ok(waiting.iter().find(|job| job.is_for(order)).map(|job| job.id))
    }

    /// A runner that did not come up: a plain process is the next try of this job, where systemd did not start it. What kept systemd from it (it was loaded
    /// anew, its bus was away, a limit was reached) may be over at the next job.
    pub(super) fn again(&mut self, job: &mut Job, folder: &JobFolder) {
        let tries = self.tries.entry(job.id).or_insert(0);
        if job.cancel || folder.is_cancel_asked() {
            (job.state, job.ended_unix_ms, job.message) = (State::Cancelled, Some(self.around.now()), Some("cancelled before it began".into()));
        } else if *tries >= TRIES_MAX {
            let why = folder.last_words().unwrap_or_else(|| "no reason known".into());
            (job.state, job.ended_unix_ms, job.message) = (State::Failed, Some(self.around.now()), Some(format!("its process could not be started: {why}")));
        } else {
            if *tries == 1 && self.way == Way::Scope {
                let why = folder.last_words().unwrap_or_else(|| "it gave no reason".into());
                self.complain(format!(
                    "systemd-run did not start job {} in a scope ({why}); this job is started as a plain process, the next one in a scope again",
                    job.id
                ));
            }
            job.state = State::Queued;
        }
    }
}

/// Notes its process.
pub(super) fn note(job: &mut Job, begun: Option<Begun>) {
    if let Some(begun) = begun {
        (job.pid, job.started_unix_ms) = (Some(begun.pid), Some(begun.started_unix_ms));
    }
}

/// Notes how it ended.
pub(super) fn end(job: &mut Job, exit: Exit) {
    job.state = State::of_exit(exit.code, exit.cancelled);
    (job.code, job.pid, job.ended_unix_ms) = (Some(exit.code), None, Some(exit.ended_unix_ms));
    (job.message, job.point) = (exit.message, exit.point);
    if job.state == State::Failed && exit.code == i32::from(INTERRUPTED) {
        // By a shutdown of the host, or somebody's signal: what it said last names neither.
        let said = job.message.take().map_or(String::new(), |said| format!(": {said}"));
        job.message = Some(format!("interrupted, and nobody had cancelled it (does the host shut down?){said}"));
    }
}
