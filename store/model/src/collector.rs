//! A collector's own part of a round: G1 to G7. G8 is anybody's and stands in [`crate::round`].
//!
//! In short: publish, wait for all who might not have seen it, look again, decide. The collector may stop between any two steps for ever,
//! or for so long that others have closed its round before it goes on.

use crate::{
    Config, Model, Mutation,
    config::{LIST, Role},
    event::{Action, Actor, Event, Subject},
    model::Successors,
    sets::{PackSet, PointSet, SessionSet},
    state::{Collector, Pardon, State},
};

/// One step of a collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CollectorStep {
    ReadLists,
    ListTombstones,
    ListPins,
    ListPacks,
    Mark,
    Publish,
    ListSessions,
    Wait,
    Recheck,
    CreatePardon,
}

/// The steps of a collector. Pins are left out where there is no reader.
pub(crate) fn program(config: &Config, mutation: Option<Mutation>) -> Vec<CollectorStep> {
    use CollectorStep::{CreatePardon, ListPacks, ListPins, ListSessions, ListTombstones, Mark, Publish, ReadLists, Recheck, Wait};
    let mut steps = match (config.reader, mutation) {
        (false, _) => vec![ListTombstones],
        (true, Some(Mutation::PinsReadBeforeTombstones)) => vec![ListPins, ListTombstones],
        (true, _) => vec![ListTombstones, ListPins],
    };
    if config.lists_retire {
        steps.insert(0, ReadLists);
    }
    match mutation {
        Some(Mutation::NoWait) => steps.extend([ListPacks, Mark, Publish, Recheck, CreatePardon]),
        Some(Mutation::SessionsListedBeforePublish) => steps.extend([ListPacks, Mark, ListSessions, Publish, Wait, Recheck, CreatePardon]),
        _ => steps.extend([ListPacks, Mark, Publish, ListSessions, Wait, Recheck, CreatePardon]),
    }
    steps
}

impl Model {
    /// Everything that collector `j` may do now.
    pub(crate) fn step_collector(&self, state: &State, j: usize, out: &mut Successors) {
        let Some(step) = self.collector_program.get(usize::from(state.collectors[j].next)) else { return };
        match step {
            CollectorStep::ReadLists => self.read_lists(state, j, out),
            CollectorStep::ListTombstones => self.list_tombstones(state, j, out),
            CollectorStep::ListPins => self.list_pins(state, j, out),
            CollectorStep::ListPacks => self.list_packs(state, j, out),
            CollectorStep::Mark => self.mark(state, j, out),
            CollectorStep::Publish => self.publish(state, j, out),
            CollectorStep::ListSessions => self.list_sessions(state, j, out),
            CollectorStep::Wait => self.wait(state, j, out),
            CollectorStep::Recheck => self.recheck(state, j, out),
            CollectorStep::CreatePardon => self.create_pardon(state, j, out),
        }
    }

    // Before G1, long ago perhaps: a process remembers lists that may be gone since.
    fn read_lists(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        after.collectors[j].knows_list = self.sees_list(state);
        after.collectors[j].next += 1;
        out.push((event(j, Action::ReadLists, Subject::Locations(self.relocated(state))), after));
    }

    fn sees_list(&self, state: &State) -> bool {
        self.config.lists_retire && !self.relocated(state).is_empty()
    }

    // G1, first half: fresh tombstones.
    fn list_tombstones(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        let collector = &mut after.collectors[j];
        // Where the pins were read first, they are in `forgotten` already.
        collector.forgotten = state.forgotten.minus(collector.forgotten);
        collector.next += 1;
        out.push((event(j, Action::ListTombstones, Subject::Points(state.forgotten)), after));
    }

    // G1, second half: then pins; F = forgotten - pinned, fixed for the round.
    fn list_pins(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        let collector = &mut after.collectors[j];
        let pins = state.reader.pins();
        collector.forgotten = if self.is(Mutation::PinsReadBeforeTombstones) { pins } else { collector.forgotten.minus(pins) };
        collector.next += 1;
        out.push((event(j, Action::ListPins, Subject::Points(after.collectors[j].forgotten)), after));
    }

    // G2: list packs K.
    fn list_packs(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        after.collectors[j].listed = state.packs;
        after.collectors[j].next += 1;
        out.push((event(j, Action::ListPacks, Subject::Packs(state.packs)), after));
    }

    // G3: list registers, mark what live = committed - F refers to, and lists that are needed. Candidates are what G4 will publish: K - marked -
    // packs of undecided sessions, less what this GC keeps for other reasons. A pack's name says whose it is, and a record is older than its
    // packs, so "undecided" is "no register in this list".
    fn mark(&self, state: &State, j: usize, out: &mut Successors) {
        let live = self.committed_points(state).minus(state.collectors[j].forgotten);
        let undecided = (0..self.config.sessions.len()).filter(|&i| !state.registers[i].is_decided());
        let undecided = undecided.fold(PackSet::EMPTY, |packs, i| packs.union(self.packs_of(i)));
        let knows = state.collectors[j].knows_list || self.sees_list(state);
        for marked in self.marks(state, live, knows) {
            let garbage = state.collectors[j].listed.minus(marked).minus(undecided);
            let graced = if self.config.grace { garbage.without(LIST) } else { PackSet::EMPTY };
            for kept in graced.subsets() {
                let stays = state.collectors[j].listed.intersection(marked.union(undecided).union(kept));
                let mut after = *state;
                let collector = &mut after.collectors[j];
                collector.candidates = garbage.minus(kept).minus(self.list_marks(state, live, stays, knows));
                collector.listed = PackSet::EMPTY;
                collector.knows_list = knows;
                collector.next += 1;
                let candidates = collector.candidates;
                if candidates.is_empty() {
                    self.end_collector(&mut after, j);
                }
                out.push((event(j, Action::Mark, Subject::Packs(candidates)), after));
            }
        }
    }

    /// What a session writes.
    fn packs_of(&self, i: usize) -> PackSet {
        let own = PackSet::one(crate::config::own(i));
        if self.config.lists_retire && matches!(self.config.sessions[i], Role::Repack { .. }) { own.with(LIST) } else { own }
    }

    // G4: publish condemned-N.
    fn publish(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        let candidates = state.collectors[j].candidates;
        let round = if self.is(Mutation::RoundNameReused) { retired_round(state).unwrap_or(j) } else { j };
        after.rounds[round].published = true;
        after.rounds[round].condemned = candidates;
        after.collectors[j].next += 1;
        if round != j {
            // Its G7 will find the old pardon; until then it may as well be asleep.
            self.end_collector(&mut after, j);
        }
        out.push((event(j, Action::Publish, Subject::Packs(candidates)), after));
    }

    // G5: fresh list of sessions; A = those not yet decided.
    fn list_sessions(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        let undecided = (0..self.config.sessions.len()).filter(|&i| self.is_undecided(state, i));
        let awaited = undecided.fold(SessionSet::EMPTY, SessionSet::with);
        after.collectors[j].awaited = awaited;
        after.collectors[j].next += 1;
        out.push((event(j, Action::ListSessions, Subject::Sessions(awaited)), after));
    }

    // G6: wait for a register of each in A. Fencing is open to anybody at any time, see `anyone.rs`.
    fn wait(&self, state: &State, j: usize, out: &mut Successors) {
        if state.collectors[j].awaited.iter().all(|i| state.registers[i].is_decided()) {
            let mut after = *state;
            after.collectors[j].awaited = SessionSet::EMPTY;
            after.collectors[j].next += 1;
            out.push((event(j, Action::Wait, Subject::None), after));
        }
    }

    // G7, first half: fresh list of registers; pardon = candidates referenced by committed - the same F.
    fn recheck(&self, state: &State, j: usize, out: &mut Successors) {
        let forgotten = if self.is(Mutation::FreshForgetSetAtRecheck) { state.forgotten.minus(state.reader.pins()) } else { state.collectors[j].forgotten };
        let live = self.committed_points(state).minus(forgotten);
        let knows = state.collectors[j].knows_list || self.sees_list(state);
        let answers = if self.is(Mutation::NoRecheck) { vec![PackSet::EMPTY] } else { self.marks(state, live, knows) };
        for marked in answers {
            let mut after = *state;
            let collector = &mut after.collectors[j];
            let stays = state.packs.minus(collector.candidates.minus(marked));
            collector.pardoned = collector.candidates.intersection(marked.union(self.list_marks(state, live, stays, knows)));
            collector.knows_list = false;
            collector.candidates = PackSet::EMPTY;
            collector.forgotten = PointSet::EMPTY;
            collector.next += 1;
            let pardoned = collector.pardoned;
            out.push((event(j, Action::Recheck, Subject::Packs(pardoned)), after));
        }
    }

    // G7, second half: create-if-absent pardon-N. Whoever comes second stops.
    fn create_pardon(&self, state: &State, j: usize, out: &mut Successors) {
        let mut after = *state;
        let pardoned = state.collectors[j].pardoned;
        let lost = state.rounds[j].pardon != Pardon::Open && !self.is(Mutation::PardonNotExclusive);
        if !lost {
            after.rounds[j].pardon = Pardon::List(pardoned);
        }
        self.end_collector(&mut after, j);
        let (action, subject) = if lost { (Action::PardonLost, Subject::None) } else { (Action::CreatePardon, Subject::Packs(pardoned)) };
        out.push((event(j, action, subject), after));
    }

    pub(crate) fn end_collector(&self, after: &mut State, j: usize) {
        let end = u8::try_from(self.collector_program.len()).expect("a program has a few steps");
        after.collectors[j] = Collector { next: end, ..Collector::default() };
    }
}

fn retired_round(state: &State) -> Option<usize> {
    state.rounds.iter().position(|round| round.is_retired())
}

fn event(j: usize, action: Action, subject: Subject) -> Event {
    Event { actor: Actor::Collector(j), action, subject }
}
