//! From references to packs: where a location is read, which packs a collector marks for it, and what must never happen.

use crate::{
    Model, Mutation,
    config::{EXTRA, INITIAL, LIST, Role, own},
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

    /// Whether a committed list of moves can be read.
    pub(crate) fn can_read_lists(&self, state: &State) -> bool {
        !self.config.lists_retire || state.packs.contains(LIST)
    }

    /// Copies of the frame at `location` that committed relocation lists name, for those who have read these or can read them now.
    fn targets(&self, state: &State, location: usize, knows: bool) -> LocationSet {
        if !knows && !self.can_read_lists(state) {
            return LocationSet::EMPTY;
        }
        let mut targets = LocationSet::EMPTY;
        for (i, role) in self.config.sessions.iter().enumerate() {
            if *role == (Role::Repack { source: location }) && state.registers[i].committed {
                targets = targets.with(own(i));
            }
        }
        targets
    }

    /// Places that committed relocation lists have moved elsewhere, as far as the lists can be read.
    pub(crate) fn relocated(&self, state: &State) -> LocationSet {
        if self.can_read_lists(state) { self.sources(state) } else { LocationSet::EMPTY }
    }

    fn sources(&self, state: &State) -> LocationSet {
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
        state.packs.contains(pack_of(location)) || self.targets(state, location, false).iter().any(|target| self.is_readable(state, target))
    }

    /// Packs to keep for these points. More than one answer only where a mutation lets the collector choose.
    /// `knows`: the collector has read the list of moves before.
    pub(crate) fn marks(&self, state: &State, points: PointSet, knows: bool) -> Vec<PackSet> {
        let refs = points.iter().fold(LocationSet::EMPTY, |refs, point| refs.union(self.refs_of(state, point)));
        let mut answers = vec![PackSet::EMPTY];
        for location in refs.iter() {
            let wanted = self.marks_of(state, location, knows);
            answers = answers.iter().flat_map(|marked| wanted.iter().map(|more| marked.union(*more))).collect();
        }
        answers
    }

    /// The list of moves, if it is needed: a live point uses a place that it moved, or a pack stays in which such a place lies. Without the second
    /// half a session that finds the list gone would deduplicate into that place, while a collector that has read the list looks for the new one.
    /// `stays`: packs that are there and will not be deleted by this round.
    pub(crate) fn list_marks(&self, state: &State, points: PointSet, stays: PackSet, knows: bool) -> PackSet {
        if !self.config.lists_retire || !(knows || self.can_read_lists(state)) {
            return PackSet::EMPTY;
        }
        let refs = points.iter().fold(LocationSet::EMPTY, |refs, point| refs.union(self.refs_of(state, point)));
        let needed = |source| refs.contains(source) || stays.contains(pack_of(source)) && !self.is(Mutation::ListGoesBeforeItsPacks);
        if self.sources(state).iter().any(needed) { PackSet::one(LIST) } else { PackSet::EMPTY }
    }

    fn marks_of(&self, state: &State, location: usize, knows: bool) -> Vec<PackSet> {
        let targets = self.targets(state, location, knows);
        if self.is(Mutation::RelocationAnyCopy) && !targets.is_empty() {
            let existing = targets.iter().map(pack_of).filter(|&pack| state.packs.contains(pack));
            return existing.map(PackSet::one).collect();
        }
        vec![self.all_targets(state, location, knows)]
    }

    /// A relocated location marks all its committed targets instead of the old place; a target may be relocated in turn.
    fn all_targets(&self, state: &State, location: usize, knows: bool) -> PackSet {
        let targets = self.targets(state, location, knows);
        if targets.is_empty() {
            return PackSet::one(pack_of(location));
        }
        targets.iter().fold(PackSet::EMPTY, |marked, target| marked.union(self.all_targets(state, target, knows)))
    }

    fn is_whole(&self, state: &State, point: usize) -> bool {
        self.refs_of(state, point).iter().all(|location| self.is_readable(state, location))
    }

    /// Whether a collector that marks this point would find a pack missing.
    fn raises_alarm(&self, state: &State, point: usize) -> bool {
        self.refs_of(state, point).iter().any(|location| !self.all_targets(state, location, false).minus(state.packs).is_empty())
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
