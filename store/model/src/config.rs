//! How large a world is searched: which sessions, collectors and readers there are, and what lies in the store at the start.

use crate::sets::LocationSet;

/// Sessions that a configuration may have.
pub const SESSIONS_MAX: usize = 3;
/// Collectors, and so rounds, that a configuration may have.
pub const COLLECTORS_MAX: usize = 2;
/// Packs and points with lower numbers were there at the start; session i owns number `INITIAL + i`.
pub const INITIAL: usize = 2;
/// Location in pack A.
pub const A: usize = 0;
/// Location in pack B.
pub const B: usize = 1;
/// A second location in pack A, one that no repack copies.
pub const EXTRA: usize = INITIAL + SESSIONS_MAX;

/// The pack that holds the list of moves of the one repack, where lists have packs of their own ([`Config::lists_retire`]).
pub const LIST: usize = INITIAL + SESSIONS_MAX;

/// The location in the pack that session `index` writes; also the number of its pack and of its point.
pub const fn own(index: usize) -> usize {
    INITIAL + index
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Commits a point.
    Backup,
    /// Copies the frame at this location into a pack of its own and commits a relocation list.
    Repack {
        /// The location that is copied.
        source: usize,
    },
}

/// The world that is searched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Sessions; each takes part at most once.
    pub sessions: Vec<Role>,
    /// Collectors; each runs one round.
    pub collectors: usize,
    /// Whether one reader takes part.
    pub reader: bool,
    /// Points that are committed at the start, with the locations that each refers to. Packs A and B always exist and are indexed.
    pub initial_points: Vec<LocationSet>,
    /// Whether chunks may be deduplicated into [`EXTRA`].
    pub extra_location: bool,
    /// How many points may be forgotten, counted together.
    pub forgets_max: u32,
    /// How many locations a session may newly refer to by deduplication.
    pub hits_max: u32,
    /// Whether a GC may close another's round with "abandoned, all pardoned".
    pub closing: bool,
    /// Whether condemned-N is removed after done-N.
    pub retiring: bool,
    /// Whether a list of moves lies in a pack of its own, [`LIST`], which is collected once the list is not needed. Without, lists stay for ever.
    /// At most one repack.
    pub lists_retire: bool,
    /// Whether G4 may leave out any candidates, as for packs of interrupted backups, which each GC keeps for as long as it likes.
    pub grace: bool,
    /// Whether B5a is done right after B4, the earliest moment the protocol allows, instead of after B5.
    pub check_early: bool,
    /// Whether states are made equal that can only go on equally ([`crate::reduce`]). Without, the search is several times as long.
    pub reduced: bool,
}

impl Config {
    /// `backups` backup sessions and `collectors` collectors, with everything that may happen to them. One point refers to pack A; B is garbage.
    pub fn backups(backups: usize, collectors: usize) -> Self {
        Self {
            sessions: vec![Role::Backup; backups],
            collectors,
            reader: false,
            initial_points: vec![LocationSet::one(A)],
            extra_location: false,
            forgets_max: u32::MAX,
            hits_max: 1,
            closing: true,
            retiring: true,
            lists_retire: false,
            grace: false,
            check_early: false,
            reduced: true,
        }
    }

    /// `backups` backup sessions and two repacks that both copy the one frame of A that the first point refers to; two collectors.
    /// A has a second frame, [`EXTRA`], that a backup may come to refer to.
    pub fn relocation(backups: usize) -> Self {
        let mut config = Self::backups(backups, 2);
        config.sessions.extend([Role::Repack { source: A }; 2]);
        config.extra_location = backups > 0;
        config
    }

    /// `backups` backup sessions and a repack that copies the first of two frames in A; two points refer to one frame each. Two collectors.
    pub fn relocation_shared(backups: usize) -> Self {
        let mut config = Self::backups(backups, 2);
        config.sessions.push(Role::Repack { source: A });
        config.initial_points = vec![LocationSet::one(A), LocationSet::one(EXTRA)];
        config.extra_location = true;
        config
    }

    /// [`Self::relocation_shared`], and the list of moves is collected once it is not needed.
    pub fn lists(backups: usize) -> Self {
        Self { lists_retire: true, ..Self::relocation_shared(backups) }
    }

    /// `backups` backup sessions, two collectors and two repacks, of which the second copies the first one's copy.
    pub fn relocation_chain(backups: usize) -> Self {
        let mut config = Self::backups(backups, 2);
        config.sessions.extend([Role::Repack { source: A }, Role::Repack { source: own(backups) }]);
        config
    }

    /// [`Self::backups`] and a reader.
    pub fn reader(backups: usize, collectors: usize) -> Self {
        Self { reader: true, ..Self::backups(backups, collectors) }
    }

    /// One session, one collector, and two points: the first refers to A and B and its top node lies in B, the second refers to B alone.
    pub fn shared_node() -> Self {
        Self { initial_points: vec![LocationSet::one(A).with(B), LocationSet::one(B)], ..Self::backups(1, 1) }
    }

    /// Checks the sizes.
    ///
    /// # Panics
    /// Where a number is above its limit: that is a mistake in the caller's source.
    pub(crate) fn check(&self) {
        assert!(self.sessions.len() <= SESSIONS_MAX, "at most {SESSIONS_MAX} sessions");
        assert!(self.collectors <= COLLECTORS_MAX, "at most {COLLECTORS_MAX} collectors");
        assert!(self.initial_points.len() <= INITIAL, "at most {INITIAL} points at the start");
        let repacks = self.sessions.iter().filter(|role| matches!(role, Role::Repack { .. })).count();
        assert!(!self.lists_retire || repacks <= 1, "there is one pack for lists");
        for (i, role) in self.sessions.iter().enumerate() {
            if let Role::Repack { source } = role {
                assert!(*source < own(i), "a repack copies what was there before it");
            }
        }
    }
}
