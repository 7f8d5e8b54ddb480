//! One state of the world: what lies in the store, and what each process remembers.
//!
//! Invariants:
//! - What a process will never look at again is cleared, so that states that differ only in it are one.
//! - A crashed process is one that takes no further step; no state says so.
//!
//! Must not: decide what may happen next. That is in the modules of the actors.

use crate::{
    config::{COLLECTORS_MAX, SESSIONS_MAX},
    sets::{LocationSet, PackSet, PointSet, SessionSet},
};

/// The whole world at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Packs under their final names. One in `trash/` counts as gone.
    pub packs: PackSet,
    /// Packs that an index file has ever named. A host's index may be as stale as this.
    pub indexed: PackSet,
    /// Points that have a tombstone.
    pub forgotten: PointSet,
    /// c/: one register a session.
    pub registers: [Register; SESSIONS_MAX],
    /// gc/: one round a collector.
    pub rounds: [Round; COLLECTORS_MAX],
    /// What the sessions remember.
    pub sessions: [Session; SESSIONS_MAX],
    /// What the collectors remember.
    pub collectors: [Collector; COLLECTORS_MAX],
    /// What the reader remembers; its pin lies in the store.
    pub reader: Reader,
}

/// `c/<sid>`. Create-if-absent makes it at most one of the two; the model has both bits to notice when it is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Register {
    /// A manifest or a relocation list.
    pub committed: bool,
    /// A fence or an abort.
    pub void: bool,
    /// What the manifest refers to, inherited and new.
    pub refs: LocationSet,
}

impl Register {
    /// Whether the object exists.
    pub fn is_decided(self) -> bool {
        self.committed || self.void
    }
}

/// pardon-N: the register that decides what a round may delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pardon {
    /// Does not exist yet.
    #[default]
    Open,
    /// The list of the round's own collector.
    List(PackSet),
    /// "Abandoned, all pardoned."
    All,
}

/// condemned-N, pardon-N and done-N.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Whether condemned-N is there.
    pub published: bool,
    /// What condemned-N lists or listed: whoever has read it may act on it later.
    pub condemned: PackSet,
    /// pardon-N.
    pub pardon: Pardon,
    /// done-N.
    pub done: bool,
}

impl Round {
    /// What the round may delete. Nothing, as long as its pardon is open.
    pub fn deletable(self) -> PackSet {
        match self.pardon {
            Pardon::List(pardoned) => self.condemned.minus(pardoned),
            Pardon::Open | Pardon::All => PackSet::EMPTY,
        }
    }

    /// What the round adds to D of a session that lists gc/ now.
    pub fn condemns(self) -> PackSet {
        match (self.published, self.pardon) {
            (false, _) | (true, Pardon::All) => PackSet::EMPTY,
            (true, Pardon::Open) => self.condemned,
            (true, Pardon::List(pardoned)) => self.condemned.minus(pardoned),
        }
    }

    /// Whether condemned-N was there and has been removed after done-N.
    pub fn is_retired(self) -> bool {
        self.done && !self.published
    }
}

/// A backup or repack session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// Place in its program; behind the last step it has ended.
    pub next: u8,
    /// D.
    pub condemned: PackSet,
    /// Tombstones seen in B3.
    pub forgotten: PointSet,
    /// Places that relocation lists seen in B3 have moved elsewhere.
    pub relocated: LocationSet,
    /// What its manifest will refer to.
    pub refs: LocationSet,
    /// Packs newly referred to that B5a has yet to look for.
    pub unchecked: PackSet,
}

/// A garbage collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collector {
    /// Place in its program; behind the last step it has ended.
    pub next: u8,
    /// F; between the two halves of G1 what the first one read.
    pub forgotten: PointSet,
    /// K.
    pub listed: PackSet,
    /// Packs it wants to delete.
    pub candidates: PackSet,
    /// A.
    pub awaited: SessionSet,
    /// What it is about to write to pardon-N.
    pub pardoned: PackSet,
    /// Whether it has read the list of moves, which may be gone since.
    pub knows_list: bool,
}

/// Where the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReaderPhase {
    /// Has not begun.
    #[default]
    Idle,
    /// Its pin is there; it has not yet looked for a tombstone.
    Pinned,
    /// Only in [`crate::Mutation::LookBeforePin`]: it has looked and not yet pinned.
    Looked,
    /// Its pin is there and was valid: every byte of the point must stay readable.
    Reading,
    /// It has ended and its pin is gone or does not count any more.
    Ended,
}

/// A read session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reader {
    /// Where it is.
    pub phase: ReaderPhase,
    /// The point that it reads.
    pub point: u8,
}

impl Reader {
    /// Points with a pin that counts.
    pub fn pins(self) -> PointSet {
        match self.phase {
            ReaderPhase::Pinned | ReaderPhase::Reading => PointSet::one(usize::from(self.point)),
            ReaderPhase::Idle | ReaderPhase::Looked | ReaderPhase::Ended => PointSet::EMPTY,
        }
    }
}
