//! What happened between two states, in words and with the protocol's label: the lines of a counter-example.

use crate::{
    config::{EXTRA, INITIAL, LIST},
    sets::{LocationSet, PackSet, PointSet, SessionSet},
};
use std::fmt;

/// Who acts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    /// Session i.
    Session(usize),
    /// Collector i, whose round has the same number.
    Collector(usize),
    /// Some GC, on the round of collector i.
    AnyCollector(usize),
    /// The reader.
    Reader,
    /// A user, or a GC that fences: any host at any time.
    Anyone,
}

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "label and words of each are in `words`")]
pub enum Action {
    CreateRecord,
    ListCondemned,
    ListForgotten,
    ChooseParent,
    Deduplicate,
    Upload,
    CheckPack,
    Commit,
    CommitLost,
    Abort,
    CopyFrames,
    Relocate,
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
    PardonLost,
    Close,
    Delete,
    Done,
    Retire,
    Pin,
    Look,
    EndReading,
    Forget,
    Fence,
    RemoveRegister,
    ReuseNodes,
}

impl Action {
    /// Label of the protocol and what is done.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::CreateRecord => ("B1", "creates its session record"),
            Self::ListCondemned => ("B2", "lists gc/, D ="),
            Self::ListForgotten => ("B3", "looks at f/, forgotten ="),
            Self::ChooseParent => ("B3", "looks at c/ and chooses as parent:"),
            Self::Deduplicate => ("B4", "deduplicates against"),
            Self::ReuseNodes => ("B4", "reuses all nodes of"),
            Self::Upload => ("B5", "uploads and indexes"),
            Self::CopyFrames => ("B5", "copies its frames into"),
            Self::CheckPack => ("B5a", "finds in place:"),
            Self::Commit => ("B6", "COMMITS a point that refers to"),
            Self::Relocate => ("B6", "COMMITS a relocation list for"),
            Self::CommitLost => ("B6", "finds a fence in its place and fails"),
            Self::Abort => ("B6", "aborts"),
            Self::ReadLists => ("", "reads the lists of moves"),
            Self::ListTombstones => ("G1", "lists f/, forgotten ="),
            Self::ListPins => ("G1", "lists pins, F ="),
            Self::ListPacks => ("G2", "lists packs, K ="),
            Self::Mark => ("G3", "marks; candidates ="),
            Self::Publish => ("G4", "publishes condemned ="),
            Self::ListSessions => ("G5", "lists sessions, A ="),
            Self::Wait => ("G6", "has a register of each in A"),
            Self::Recheck => ("G7", "looks at the registers again and would pardon"),
            Self::CreatePardon => ("G7", "creates pardon ="),
            Self::PardonLost => ("G7", "finds another's pardon and stops"),
            Self::Close => ("G7", "closes the round as abandoned, all pardoned"),
            Self::Delete => ("G8", "DELETES"),
            Self::Done => ("G8", "publishes done"),
            Self::Retire => ("retire", "removes condemned"),
            Self::Pin => ("pin", "pins"),
            Self::Look => ("look", "looks for a tombstone of"),
            Self::EndReading => ("end", "ends and drops its pin"),
            Self::Forget => ("forget", "forgets"),
            Self::Fence => ("fence", "fences"),
            Self::RemoveRegister => ("remove", "removes the fence of"),
        }
    }
}

/// What it is done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Subject {
    /// Nothing that needs saying.
    None,
    /// Packs.
    Packs(PackSet),
    /// Locations.
    Locations(LocationSet),
    /// Points.
    Points(PointSet),
    /// Sessions.
    Sessions(SessionSet),
}

/// One step of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Who.
    pub actor: Actor,
    /// Does what.
    pub action: Action,
    /// To what.
    pub subject: Subject,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, words) = self.action.words();
        let (actor, of_round) = match self.actor {
            Actor::Session(i) => (format!("session {}", i + 1), String::new()),
            Actor::Collector(i) => (format!("collector {}", i + 1), String::new()),
            Actor::AnyCollector(i) => ("any collector".to_owned(), format!(" (round of collector {})", i + 1)),
            Actor::Reader => ("reader".to_owned(), String::new()),
            Actor::Anyone => ("anyone".to_owned(), String::new()),
        };
        write!(f, "{actor:<13} {label:<6} {words}")?;
        match self.subject {
            Subject::None => {}
            Subject::Packs(set) => list(f, set.iter(), |i| format!("pack {}", pack_name(i)))?,
            Subject::Locations(set) => list(f, set.iter(), location_name)?,
            Subject::Points(set) => list(f, set.iter(), point_name)?,
            Subject::Sessions(set) => list(f, set.iter(), |i| format!("session {}", i + 1))?,
        }
        f.write_str(&of_round)
    }
}

fn list(f: &mut fmt::Formatter<'_>, members: impl Iterator<Item = usize>, name: impl Fn(usize) -> String) -> fmt::Result {
    let names: Vec<String> = members.map(name).collect();
    if names.is_empty() { f.write_str(" nothing") } else { write!(f, " {}", names.join(", ")) }
}

fn pack_name(pack: usize) -> String {
    match pack {
        0 => "A".to_owned(),
        1 => "B".to_owned(),
        LIST => "of the list".to_owned(),
        _ => format!("S{}", pack - INITIAL + 1),
    }
}

fn location_name(location: usize) -> String {
    if location == EXTRA { "pack A (second frame)".to_owned() } else { format!("pack {}", pack_name(location)) }
}

fn point_name(point: usize) -> String {
    if point < INITIAL { format!("first point {}", point + 1) } else { format!("point of session {}", point - INITIAL + 1) }
}
