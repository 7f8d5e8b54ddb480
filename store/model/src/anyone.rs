//! What may happen at any time whoever does it: points are forgotten, sessions are fenced.
//!
//! The protocol fences a session only after 24 hours without a sign of life, by the GC host's own clock. The model fences whenever it
//! likes: a clock may cost a backup, never a point.

use crate::{
    Model, Mutation,
    event::{Action, Actor, Event, Subject},
    model::Successors,
    sets::{PointSet, SessionSet},
    state::State,
};

impl Model {
    // forget: a tombstone in f/, irrevocable.
    pub(crate) fn forget(&self, state: &State, out: &mut Successors) {
        if state.forgotten.len() >= self.config.forgets_max {
            return;
        }
        for point in self.committed_points(state).minus(state.forgotten).iter() {
            let mut after = *state;
            after.forgotten = after.forgotten.with(point);
            out.push((event(Action::Forget, Subject::Points(PointSet::one(point))), after));
        }
    }

    // G6: create-if-absent c/<sid> = fence.
    pub(crate) fn fence(&self, state: &State, out: &mut Successors) {
        for i in 0..self.config.sessions.len() {
            let subject = Subject::Sessions(SessionSet::one(i));
            if self.is_undecided(state, i) {
                let mut after = *state;
                after.registers[i].void = true;
                out.push((event(Action::Fence, subject), after));
            }
            if self.is(Mutation::RegisterDeleted) && state.registers[i].void {
                let mut after = *state;
                after.registers[i].void = false;
                out.push((event(Action::RemoveRegister, subject), after));
            }
        }
    }
}

fn event(action: Action, subject: Subject) -> Event {
    Event { actor: Actor::Anyone, action, subject }
}
