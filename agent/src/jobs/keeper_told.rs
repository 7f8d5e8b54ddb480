//! What the keeper tells of all jobs: how many there are, and what is wrong with them.

use super::*;

impl Keeper {
    /// For health.
    pub(super) fn counts(&mut self) -> Outcome<Counts> {
        let since = self.around.now().saturating_sub(OWED_MS);
        let owed = self.sql(|t| t.owed(since, OWED_MAX))?;
        let problems =
            self.no_room.iter().chain(&self.trouble).cloned().chain(owed.iter().map(Job::owed_words)).chain(self.stalled.problems().iter().cloned()).collect();
        Ok(Counts { queued: self.sql(|t| t.count(State::Queued))?, running: self.sql(|t| t.count(State::Running))?, problems })
    }

    /// For alerts: all of it, for as long as jobs are kept.
    pub(super) fn troubles(&mut self) -> Outcome<Troubles> {
        let since = self.around.now().saturating_sub(KEEP_MS);
        let owed = self.sql(|t| t.owed(since, KEEP_MAX))?;
        let waits = self.sql(|t| t.list(Which::In(State::Queued)))?;
        let mut busy: Vec<JobId> = self.sql(|t| t.list(Which::In(State::Running)))?.into_iter().chain(waits).map(|job| job.id).collect();
        busy.sort_unstable();
        Ok(Troubles { owed, stalled: self.stalled.all().to_vec(), busy, other: self.no_room.iter().chain(&self.trouble).cloned().collect() })
    }
}
