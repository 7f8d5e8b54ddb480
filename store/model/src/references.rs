//! From references to packs: where a location is read, which packs a collector marks for it, and what must never happen.

use crate::{
    Model, Mutation,
    config::{EXTRA, INITIAL, Role, own},
    sets::{LocationSet, PackSet, PointSet},
    state::{ReaderPhase, State},
};

/// What must never happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Violation {
    /// A committed, not forgotten point refers to a location that cannot be read any more.
    PointDamaged,
    /// A reader whose pin is valid cannot read its point any more.
    ReaderLost,
    /// Every point that is live or read can be read, but a collector that marks them finds a pack missing, and must stop with an alarm.
    FalseAlarm,
    /// A session that was told that its point exists is fenced as well.
    CommittedAndFenced,
}

/// The pack that a location lies in.
pub fn pack_of(location: usize) -> usize {
    if location == EXTRA { 0 } else { location }
}

impl Model {
    /// Committed points, forgotten or not: what a list of c/ shows.
    pub(crate) fn committed_points(&self, state: &State) -> PointSet {
        let mut points = self.initial_points;
        for (i, role) in self.config.sessions.iter().enumerate() {
            if *role == Role::Backup && state.registers[i].committed {
                points = points.with(own(i));
            }
        }
        points
    }

    /// What a committed point refers to.
    pub(crate) fn refs_of(&self, state: &State, point: usize) -> LocationSet {
        if point < INITIAL { self.config.initial_points[point] } else { state.registers[point - INITIAL].refs }
    }

    /// The pack that holds a committed point's top node: its session's own, and of a point that was there at the start the last one.
    pub(crate) fn node_pack_of(&self, state: &State, point: usize) -> usize {
        if point >= INITIAL { point } else { self.refs_of(state, point).iter().map(pack_of).max().unwrap_or(0) }
    }

    /// Copies of the frame at `location` that committed relocation lists name.
    fn targets(&self, state: &State, location: usize) -> LocationSet {
        let mut targets = LocationSet::EMPTY;
        for (i, role) in self.config.sessions.iter().enumerate() {
            if *role == (Role::Repack { source: location }) && state.registers[i].committed {
                targets = targets.with(own(i));
            }
        }
        targets
    }

    /// Places that committed relocation lists have moved elsewhere.
    pub(crate) fn relocated(&self, state: &State) -> LocationSet {
        let mut relocated = LocationSet::EMPTY;
        for (role, register) in self.config.sessions.iter().zip(&state.registers) {
            if let (Role::Repack { source }, true) = (role, register.committed) {
                relocated = relocated.with(*source);
            }
        }
        relocated
    }

    /// Whether a reader finds the frame: at its hint, or along relocation lists.
    fn is_readable(&self, state: &State, location: usize) -> bool {
        state.packs.contains(pack_of(location)) || self.targets(state, location).iter().any(|target| self.is_readable(state, target))
    }

    /// Packs to keep for these points. More than one answer only where a mutation lets the collector choose.
    pub(crate) fn marks(&self, state: &State, points: PointSet) -> Vec<PackSet> {
        let refs = points.iter().fold(LocationSet::EMPTY, |refs, point| refs.union(self.refs_of(state, point)));
        let mut answers = vec![PackSet::EMPTY];
        for location in refs.iter() {
            let wanted = self.marks_of(state, location);
            answers = answers.iter().flat_map(|marked| wanted.iter().map(|more| marked.union(*more))).collect();
        }
        answers
    }

    fn marks_of(&self, state: &State, location: usize) -> Vec<PackSet> {
        let targets = self.targets(state, location);
        if self.is(Mutation::RelocationAnyCopy) && !targets.is_empty() {
            let existing = targets.iter().map(pack_of).filter(|&pack| state.packs.contains(pack));
            return existing.map(PackSet::one).collect();
        }
        vec![self.all_targets(state, location)]
    }

    /// A relocated location marks all its committed targets instead of the old place; a target may be relocated in turn.
    fn all_targets(&self, state: &State, location: usize) -> PackSet {
        let targets = self.targets(state, location);
        if targets.is_empty() {
            return PackSet::one(pack_of(location));
        }
        targets.iter().fold(PackSet::EMPTY, |marked, target| marked.union(self.all_targets(state, target)))
    }

    fn is_whole(&self, state: &State, point: usize) -> bool {
        self.refs_of(state, point).iter().all(|location| self.is_readable(state, location))
    }

    /// Whether a collector that marks this point would find a pack missing.
    fn raises_alarm(&self, state: &State, point: usize) -> bool {
        self.refs_of(state, point).iter().any(|location| !self.all_targets(state, location).minus(state.packs).is_empty())
    }

    /// The invariant: which part of it this state breaks, damage first.
    pub fn violation(&self, state: &State) -> Option<Violation> {
        let live = self.committed_points(state).minus(state.forgotten);
        if live.iter().any(|point| !self.is_whole(state, point)) {
            return Some(Violation::PointDamaged);
        }
        // Not while the pin is there and the look has not been: a point that was forgotten and collected long ago may be pinned for a moment.
        let read = if state.reader.phase == ReaderPhase::Reading { state.reader.pins() } else { PointSet::EMPTY };
        if read.iter().any(|point| !self.is_whole(state, point)) {
            return Some(Violation::ReaderLost);
        }
        if live.union(read).iter().any(|point| self.raises_alarm(state, point)) {
            return Some(Violation::FalseAlarm);
        }
        state.registers.iter().any(|r| r.committed && r.void).then_some(Violation::CommittedAndFenced)
    }
}
