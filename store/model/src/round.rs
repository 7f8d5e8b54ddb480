//! What any GC may do with a round, its own or another's: close it, finish it (G8), retire it.
//!
//! Invariants of the protocol:
//! - Nothing is deleted before pardon-N exists, and then only what it leaves condemned.
//! - pardon-N is the register that decides the round and is never removed; condemned-N is removed after done-N.

use crate::{
    Model, Mutation,
    event::{Action, Actor, Event, Subject},
    model::Successors,
    sets::PackSet,
    state::{Pardon, State},
};

impl Model {
    /// Everything that may happen to round `j` now, whether its collector lives or not.
    pub(crate) fn step_round(&self, state: &State, j: usize, out: &mut Successors) {
        self.close(state, j, out);
        self.delete(state, j, out);
        self.finish(state, j, out);
        self.retire(state, j, out);
    }

    // G7, by another GC: create-if-absent pardon-N = "abandoned, all pardoned". Allowed at any time, so no clock is trusted.
    fn close(&self, state: &State, j: usize, out: &mut Successors) {
        let round = state.rounds[j];
        if self.config.closing && round.published && round.pardon == Pardon::Open {
            let mut after = *state;
            after.rounds[j].pardon = Pardon::All;
            out.push((event(j, Action::Close, Subject::None), after));
        }
    }

    // G8: delete candidates - pardon, in any order, by any GC that has read both.
    fn delete(&self, state: &State, j: usize, out: &mut Successors) {
        for pack in state.rounds[j].deletable().intersection(state.packs).iter() {
            let mut after = *state;
            after.packs = after.packs.without(pack);
            out.push((event(j, Action::Delete, Subject::Packs(PackSet::one(pack))), after));
        }
    }

    // G8: publish done-N when nothing is left to delete.
    fn finish(&self, state: &State, j: usize, out: &mut Successors) {
        let round = state.rounds[j];
        if !round.done && round.pardon != Pardon::Open && round.deletable().intersection(state.packs).is_empty() {
            let mut after = *state;
            after.rounds[j].done = true;
            out.push((event(j, Action::Done, Subject::None), after));
        }
    }

    // After G8: condemned-N is removed once done-N exists. The protocol also waits until no live index file names its packs; the model does
    // not, since a host's local index may be older than that. pardon-N stays for ever.
    fn retire(&self, state: &State, j: usize, out: &mut Successors) {
        let round = state.rounds[j];
        let is_time = if self.is(Mutation::RetiredBeforeDeletesFinish) { round.pardon != Pardon::Open } else { round.done };
        if !(self.config.retiring && round.published && is_time) {
            return;
        }
        let mut after = *state;
        after.rounds[j].published = false;
        if self.is(Mutation::PardonRemovedAtRetirement) {
            after.rounds[j].pardon = Pardon::Open;
        }
        out.push((event(j, Action::Retire, Subject::None), after));
    }
}

fn event(j: usize, action: Action, subject: Subject) -> Event {
    Event { actor: Actor::AnyCollector(j), action, subject }
}
