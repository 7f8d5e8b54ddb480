//! Repack and heal sessions: copy live frames into new packs and commit a relocation list in their register.
//!
//! They are sessions like backups for every collector: B1 first, waited for, fenced, decided by one create. They choose no parent and
//! deduplicate nothing, so B2 to B4 and B5a have nothing to do. What a relocation list means to collectors and readers is in
//! [`crate::references`].

use crate::{
    Model,
    config::{Role, own},
    event::{Action, Event, Subject},
    model::Successors,
    session::{SessionStep, event},
    sets::{LocationSet, PackSet},
    state::State,
};

/// The steps of a repack session.
pub(crate) const PROGRAM: [SessionStep; 3] = [SessionStep::CreateRecord, SessionStep::CopyFrames, SessionStep::Commit];

impl Model {
    // B5: read the frame where it lies, write it into a pack of its own, index that. A source that is gone leaves only the abort.
    pub(crate) fn copy_frames(&self, state: &State, i: usize, out: &mut Successors) {
        let Role::Repack { source } = self.config.sessions[i] else { return };
        if state.packs.contains(crate::references::pack_of(source)) {
            let mut after = *state;
            self.add_own_pack(&mut after, i);
            self.advance(&mut after, i);
            out.push((event(i, Action::CopyFrames, Subject::Packs(PackSet::one(own(i)))), after));
        }
    }

    /// B6 of either role, for the trace.
    pub(crate) fn committed_action(&self, i: usize, refs: LocationSet) -> Event {
        match self.config.sessions[i] {
            Role::Backup => event(i, Action::Commit, Subject::Locations(refs)),
            Role::Repack { source } => event(i, Action::Relocate, Subject::Locations(LocationSet::one(source))),
        }
    }
}
