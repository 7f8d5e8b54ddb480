//! Backup sessions, B1 to B6, and repack sessions' common part.
//!
//! Invariants of the protocol, not of this code: B1 < B2 < B3 < B4, B5a after the choice it checks, B6 last and exclusive.
//! A session's program is its list of steps; `Session::next` is the place in it. Between any two steps everybody else may take any number.

use crate::{
    Config, Model, Mutation,
    config::{EXTRA, LIST, Role, own},
    event::{Action, Actor, Event, Subject},
    model::Successors,
    references::pack_of,
    sets::{LocationSet, PackSet, PointSet},
    state::{Register, Session, State},
};

/// One step of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionStep {
    CreateRecord,
    ListCondemned,
    ListForgotten,
    ChooseParent,
    Deduplicate,
    Upload,
    CheckPacks,
    Commit,
    /// Repack only; see [`crate::repack`].
    CopyFrames,
}

/// The steps of a backup session.
pub(crate) fn program(config: &Config, mutation: Option<Mutation>) -> Vec<SessionStep> {
    use SessionStep::{CheckPacks, ChooseParent, Commit, CreateRecord, Deduplicate, ListCondemned, ListForgotten, Upload};
    let mut steps = match mutation {
        Some(Mutation::CondemnedReadBeforeSession) => vec![ListCondemned, CreateRecord, ListForgotten, ChooseParent],
        Some(Mutation::ParentBeforeSession) => vec![ListForgotten, ChooseParent, CreateRecord, ListCondemned],
        _ => vec![CreateRecord, ListCondemned, ListForgotten, ChooseParent],
    };
    match (mutation, config.check_early) {
        (Some(Mutation::NoPackCheck), _) => steps.extend([Deduplicate, Upload, Commit]),
        (_, false) => steps.extend([Deduplicate, Upload, CheckPacks, Commit]),
        (_, true) => steps.extend([Deduplicate, CheckPacks, Upload, Commit]),
    }
    steps
}

impl Model {
    /// Everything that session `i` may do now.
    pub(crate) fn step_session(&self, state: &State, i: usize, out: &mut Successors) {
        let Some(&step) = self.session_programs[i].get(usize::from(state.sessions[i].next)) else { return };
        match step {
            SessionStep::CreateRecord => self.create_record(state, i, out),
            SessionStep::ListCondemned => self.list_condemned(state, i, out),
            SessionStep::ListForgotten => self.list_forgotten(state, i, out),
            SessionStep::ChooseParent => self.choose_parent(state, i, out),
            SessionStep::Deduplicate => self.deduplicate(state, i, out),
            SessionStep::Upload => self.upload(state, i, out),
            SessionStep::CheckPacks => self.check_packs(state, i, out),
            SessionStep::Commit => self.commit(state, i, out),
            SessionStep::CopyFrames => self.copy_frames(state, i, out),
        }
        if self.has_record(state, i) {
            self.abort(state, i, out);
        }
    }

    /// Whether gc/session-<sid> exists.
    pub(crate) fn has_record(&self, state: &State, i: usize) -> bool {
        let taken = &self.session_programs[i][..usize::from(state.sessions[i].next)];
        taken.contains(&SessionStep::CreateRecord)
    }

    /// Whether a collector that lists gc/ and c/ now has to reckon with this session.
    pub(crate) fn is_undecided(&self, state: &State, i: usize) -> bool {
        self.has_record(state, i) && !state.registers[i].is_decided()
    }

    // B1: create gc/session-<sid>, durable.
    fn create_record(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        self.advance(&mut after, i);
        out.push((event(i, Action::CreateRecord, Subject::None), after));
    }

    // B2: fresh list of gc/: D = union of (condemned - pardoned).
    fn list_condemned(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        let condemned = state.rounds.iter().fold(PackSet::EMPTY, |d, round| d.union(round.condemns()));
        after.sessions[i].condemned = condemned;
        self.advance(&mut after, i);
        out.push((event(i, Action::ListCondemned, Subject::Packs(condemned)), after));
    }

    // B3, first half: a fresh look at f/. Taken before the look at c/, the weaker of the two orders: what is forgotten in between is missed.
    fn list_forgotten(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        let seen = if self.is(Mutation::StaleForgetLook) { PointSet::EMPTY } else { state.forgotten };
        after.sessions[i].forgotten = seen;
        self.advance(&mut after, i);
        out.push((event(i, Action::ListForgotten, Subject::Points(seen)), after));
    }

    // B3, second half: a fresh look at c/. It shows relocation lists, for B4, and points: a parent that is committed and not forgotten, or
    // none. The parent's whole tree is inherited unchecked.
    fn choose_parent(&self, state: &State, i: usize, out: &mut Successors) {
        let eligible = self.committed_points(state).minus(state.sessions[i].forgotten);
        for parent in std::iter::once(PointSet::EMPTY).chain(eligible.iter().map(PointSet::one)) {
            let mut after = *state;
            for point in parent.iter() {
                after.sessions[i].refs = self.refs_of(state, point);
            }
            after.sessions[i].forgotten = PointSet::EMPTY;
            after.sessions[i].relocated = self.relocated(state);
            self.advance(&mut after, i);
            out.push((event(i, Action::ChooseParent, Subject::Points(parent)), after));
        }
    }

    // B4: deduplicate into packs outside D, and never into a place that has been moved elsewhere: collectors keep its new places instead, and
    // one of those may lie in D. The local index may name any pack that was ever indexed, whether it still exists or not.
    fn deduplicate(&self, state: &State, i: usize, out: &mut Successors) {
        let usable = if self.is(Mutation::DedupeIgnoresCondemned) { state.indexed } else { state.indexed.minus(state.sessions[i].condemned) };
        let mut known = LocationSet::from_bits(usable.bits());
        if self.config.extra_location && usable.contains(pack_of(EXTRA)) {
            known = known.with(EXTRA);
        }
        if !self.is(Mutation::DedupeIntoRelocated) {
            known = known.minus(state.sessions[i].relocated);
        }
        for hits in known.subsets().filter(|hits| hits.len() <= self.config.hits_max) {
            let packs = hits.iter().fold(PackSet::EMPTY, |packs, location| packs.with(pack_of(location)));
            let after = self.with_new_refs(state, i, hits, packs);
            out.push((event(i, Action::Deduplicate, Subject::Locations(hits)), after));
        }
        if self.is(Mutation::NodesReused) {
            for point in self.committed_points(state).iter() {
                let node_pack = self.node_pack_of(state, point);
                if usable.contains(node_pack) {
                    let after = self.with_new_refs(state, i, self.refs_of(state, point), PackSet::one(node_pack));
                    out.push((event(i, Action::ReuseNodes, Subject::Points(PointSet::one(point))), after));
                }
            }
        }
    }

    fn with_new_refs(&self, state: &State, i: usize, refs: LocationSet, unchecked: PackSet) -> State {
        let mut after = *state;
        let session = &mut after.sessions[i];
        session.refs = session.refs.union(refs);
        session.condemned = PackSet::EMPTY;
        session.relocated = LocationSet::EMPTY;
        if !self.is(Mutation::NoPackCheck) {
            session.unchecked = unchecked;
        }
        self.advance(&mut after, i);
        after
    }

    // B5: upload packs, publish index files. From now on others may deduplicate into them, committed or not.
    fn upload(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        self.add_own_pack(&mut after, i);
        after.sessions[i].refs = after.sessions[i].refs.with(own(i));
        self.advance(&mut after, i);
        out.push((event(i, Action::Upload, Subject::Packs(PackSet::one(own(i)))), after));
    }

    /// The pack that session `i` writes exists and is indexed.
    pub(crate) fn add_own_pack(&self, after: &mut State, i: usize) {
        after.packs = after.packs.with(own(i));
        after.indexed = after.indexed.with(own(i));
        if self.config.lists_retire && matches!(self.config.sessions[i], Role::Repack { .. }) {
            // Nobody deduplicates into a list: it is in no index.
            after.packs = after.packs.with(LIST);
        }
    }

    // B5a: stat under its final name every pack newly referred to; one that is gone ends the session.
    fn check_packs(&self, state: &State, i: usize, out: &mut Successors) {
        for pack in state.sessions[i].unchecked.iter().filter(|&pack| state.packs.contains(pack)) {
            let mut after = *state;
            after.sessions[i].unchecked = after.sessions[i].unchecked.without(pack);
            if after.sessions[i].unchecked.is_empty() {
                self.advance(&mut after, i);
            }
            out.push((event(i, Action::CheckPack, Subject::Packs(PackSet::one(pack))), after));
        }
        // Where a pack is gone no step leads on: what remains is the abort that is open to every session.
    }

    // B6: create-if-absent c/<sid>; lost = fenced.
    fn commit(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        let lost = state.registers[i].is_decided() && !self.is(Mutation::CommitNotExclusive);
        let refs = state.sessions[i].refs;
        if !lost {
            after.registers[i] = Register { committed: true, refs, ..state.registers[i] };
        }
        self.end_session(&mut after, i);
        let committed = self.committed_action(i, refs);
        out.push((if lost { event(i, Action::CommitLost, Subject::None) } else { committed }, after));
    }

    // B6, the other way: an abort in the register's place, at any moment; where a fence stands already, nothing but the end.
    fn abort(&self, state: &State, i: usize, out: &mut Successors) {
        let mut after = *state;
        after.registers[i].void = true;
        self.end_session(&mut after, i);
        out.push((event(i, Action::Abort, Subject::None), after));
    }

    pub(crate) fn end_session(&self, after: &mut State, i: usize) {
        let end = self.session_programs[i].len();
        after.sessions[i] = Session { next: u8::try_from(end).expect("a program has a few steps"), ..Session::default() };
    }

    /// To the next step; B5a is passed over where there is nothing to check.
    pub(crate) fn advance(&self, after: &mut State, i: usize) {
        let session = &mut after.sessions[i];
        session.next += 1;
        if self.session_programs[i].get(usize::from(session.next)) == Some(&SessionStep::CheckPacks) && session.unchecked.is_empty() {
            session.next += 1;
        }
    }
}

pub(crate) fn event(i: usize, action: Action, subject: Subject) -> Event {
    Event { actor: Actor::Session(i), action, subject }
}
