//! What may be broken in the protocol on purpose: each entry leaves out or turns round one rule, and each has a counter-example.
//!
//! A rule whose absence the model does not notice would be a rule that the model does not check.

/// One rule of the protocol that is broken. docs/gc.md tells for each what goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mutation {
    /// G7 pardons nothing: no look at the registers between waiting and deleting.
    NoRecheck,
    /// G7 uses the tombstones of that moment instead of the F of G1.
    FreshForgetSetAtRecheck,
    /// B2 before B1: a session reads the condemned packs before its record exists.
    CondemnedReadBeforeSession,
    /// G5 and G6 are left out: no older session is waited for.
    NoWait,
    /// B6 succeeds although a fence stands in the register's place.
    CommitNotExclusive,
    /// B3 before B1: a session chooses its parent before its record exists.
    ParentBeforeSession,
    /// B4 deduplicates into packs that lie in D.
    DedupeIgnoresCondemned,
    /// G5 before G4: the GC lists sessions before its candidates can be seen.
    SessionsListedBeforePublish,
    /// condemned-N is removed once pardon-N stands, before the deletes are finished.
    RetiredBeforeDeletesFinish,
    /// B5a is left out: packs found in a stale index are not looked for.
    NoPackCheck,
    /// B3 looks at an old listing of f/.
    StaleForgetLook,
    /// The register of a fence or an abort is removed.
    RegisterDeleted,
    /// B4 reuses whole subtrees found by id and checks the pack of the top node only.
    NodesReused,
    /// A relocated location marks any one of its committed targets that exists, instead of all.
    RelocationAnyCopy,
    /// G7 writes pardon-N over one that another GC has created.
    PardonNotExclusive,
    /// pardon-N is removed together with condemned-N.
    PardonRemovedAtRetirement,
    /// The name of a retired round is taken a second time by a GC that chose it earlier.
    RoundNameReused,
    /// B4 deduplicates into a place that a committed relocation list has moved elsewhere.
    DedupeIntoRelocated,
    /// A list of moves that no point uses goes although a pack stays that it moved something out of.
    ListGoesBeforeItsPacks,
    /// G1 reads the pins before the tombstones.
    PinsReadBeforeTombstones,
    /// A reader looks whether the point is forgotten, and then pins it.
    LookBeforePin,
}

impl Mutation {
    /// Whether it breaks a rule that [`crate::reduce`] leans on: registers are created once and stay, what is deleted is deleted before the
    /// round is retired.
    pub(crate) fn breaks_registers(self) -> bool {
        matches!(
            self,
            Self::CommitNotExclusive
                | Self::RegisterDeleted
                | Self::RetiredBeforeDeletesFinish
                | Self::PardonNotExclusive
                | Self::PardonRemovedAtRetirement
                | Self::RoundNameReused
        )
    }

    /// All of them, in the order of docs/gc.md.
    pub const ALL: [Self; 21] = [
        Self::NoRecheck,
        Self::FreshForgetSetAtRecheck,
        Self::CondemnedReadBeforeSession,
        Self::NoWait,
        Self::CommitNotExclusive,
        Self::ParentBeforeSession,
        Self::DedupeIgnoresCondemned,
        Self::SessionsListedBeforePublish,
        Self::RetiredBeforeDeletesFinish,
        Self::NoPackCheck,
        Self::StaleForgetLook,
        Self::RegisterDeleted,
        Self::NodesReused,
        Self::RelocationAnyCopy,
        Self::PardonNotExclusive,
        Self::PardonRemovedAtRetirement,
        Self::RoundNameReused,
        Self::DedupeIntoRelocated,
        Self::ListGoesBeforeItsPacks,
        Self::PinsReadBeforeTombstones,
        Self::LookBeforePin,
    ];
}
