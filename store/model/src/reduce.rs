//! States made equal that can only go on equally: what an actor remembers in vain, and steps that can change nothing any more.
//!
//! Each line here leans on a rule: a create that comes second fails, registers stay, a round is retired after its deletes. Where a mutation
//! breaks one of those the search goes without. Tests search some configurations both ways.

use crate::{
    Model,
    config::own,
    session::SessionStep,
    sets::{LocationSet, PackSet, SessionSet},
    state::{Pardon, Session, State},
};

impl Model {
    pub(crate) fn reduce(&self, state: &mut State) {
        for i in 0..self.config.sessions.len() {
            if state.registers[i].void {
                self.reduce_fenced(state, i);
            }
        }
        for j in 0..state.rounds.len() {
            self.reduce_round(state, j);
            // Registers stay: what is decided needs no more waiting for.
            let undecided = state.collectors[j].awaited.iter().filter(|&i| self.is_undecided(state, i));
            state.collectors[j].awaited = undecided.fold(SessionSet::EMPTY, SessionSet::with);
        }
    }

    /// A fenced session cannot commit: what it knows is of no use. All it can still do is to upload, and others may deduplicate into that.
    fn reduce_fenced(&self, state: &mut State, i: usize) {
        let writes = |step: &SessionStep| matches!(step, SessionStep::Upload | SessionStep::CopyFrames);
        let at = self.session_programs[i].iter().position(writes).expect("every session writes");
        if usize::from(state.sessions[i].next) > at || state.indexed.contains(own(i)) {
            self.end_session(state, i);
        } else {
            state.sessions[i] = Session { next: u8::try_from(at).expect("a program has a few steps"), ..Session::default() };
        }
        state.registers[i].refs = LocationSet::EMPTY;
    }

    /// A round that was closed by another deletes nothing, and its collector can only lose; one that has deleted all it may and is retired
    /// is like it. Of a pardoned list only what is left of the candidates counts.
    fn reduce_round(&self, state: &mut State, j: usize) {
        let round = state.rounds[j];
        match round.pardon {
            Pardon::Open => {}
            Pardon::List(_) if !round.is_retired() => {
                state.rounds[j].condemned = round.deletable();
                state.rounds[j].pardon = Pardon::List(PackSet::EMPTY);
            }
            Pardon::List(_) | Pardon::All => {
                state.rounds[j].condemned = PackSet::EMPTY;
                state.rounds[j].pardon = Pardon::All;
                state.rounds[j].published = false;
                state.rounds[j].done = true;
                self.end_collector(state, j);
            }
        }
    }
}
