//! A reader: pin, then a fresh look for a tombstone, then reading. While its pin counts it must not lose what it reads.
//!
//! A pin ends when the reader ends or when its signs of life stop; for a collector both are the same, and so they are here. A reader that
//! crashed with its pin in place is one that takes no further step. Packs in `trash/` could still be read; the model does not count on it.

use crate::{
    Model, Mutation,
    event::{Action, Actor, Event, Subject},
    model::Successors,
    sets::PointSet,
    state::{Reader, ReaderPhase, State},
};

impl Model {
    /// Everything that the reader may do now.
    pub(crate) fn step_reader(&self, state: &State, out: &mut Successors) {
        let look_first = self.is(Mutation::LookBeforePin);
        match state.reader.phase {
            // The list that the point was chosen from may be old: a point that has been forgotten since is still in it.
            ReaderPhase::Idle => {
                for point in self.committed_points(state).iter() {
                    let reader = Reader { phase: ReaderPhase::Idle, point: u8::try_from(point).expect("a few points") };
                    if look_first { look(state, reader, ReaderPhase::Looked, out) } else { pin(state, reader, ReaderPhase::Pinned, out) }
                }
            }
            ReaderPhase::Pinned => look(state, state.reader, ReaderPhase::Reading, out),
            ReaderPhase::Looked => pin(state, state.reader, ReaderPhase::Reading, out),
            ReaderPhase::Reading => end(state, out),
            ReaderPhase::Ended => {}
        }
    }
}

// The pin, durable.
fn pin(state: &State, reader: Reader, then: ReaderPhase, out: &mut Successors) {
    let after = State { reader: Reader { phase: then, ..reader }, ..*state };
    out.push((event(Action::Pin, reader), after));
}

// The fresh look: a point with a tombstone is not read.
fn look(state: &State, reader: Reader, then: ReaderPhase, out: &mut Successors) {
    let reader_after = if state.forgotten.contains(usize::from(reader.point)) { ENDED } else { Reader { phase: then, ..reader } };
    out.push((event(Action::Look, reader), State { reader: reader_after, ..*state }));
}

// The end, or the end of its signs of life.
fn end(state: &State, out: &mut Successors) {
    out.push((event(Action::EndReading, state.reader), State { reader: ENDED, ..*state }));
}

const ENDED: Reader = Reader { phase: ReaderPhase::Ended, point: 0 };

fn event(action: Action, reader: Reader) -> Event {
    Event { actor: Actor::Reader, action, subject: Subject::Points(PointSet::one(usize::from(reader.point))) }
}
