//! States as four words, for the table of visited ones.
//!
//! Invariants: decoding gives back what was encoded; each field has its own bits, so equal words are equal states.

use crate::{
    config::{COLLECTORS_MAX, SESSIONS_MAX},
    sets::{Bits, PackSet},
    state::{Collector, Pardon, Reader, ReaderPhase, Register, Round, Session, State},
};

const WORDS: usize = 4;
const PACK_BITS: u32 = 6;
const POINT_BITS: u32 = 5;
const LOCATION_BITS: u32 = 6;
const SESSION_BITS: u32 = 3;
const STEP_BITS: u32 = 4;
const PHASES: [ReaderPhase; 5] = [ReaderPhase::Idle, ReaderPhase::Pinned, ReaderPhase::Looked, ReaderPhase::Reading, ReaderPhase::Ended];

/// A state, encoded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Code([u64; WORDS]);

impl Code {
    /// A hash that spreads over all 64 bits.
    pub fn hash(self) -> u64 {
        let mut hash = 0u64;
        for word in self.0 {
            hash = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            hash ^= hash >> 32;
        }
        hash
    }
}

/// Encodes. Collectors are put in the order of their bits: two states that differ only in their numbers are one.
pub fn encode(state: &State) -> Code {
    let mut to = Encoder::default();
    to.set(state.packs, PACK_BITS);
    to.set(state.indexed, PACK_BITS);
    to.set(state.forgotten, POINT_BITS);
    to.put(u64::from(phase_number(state.reader.phase)), 3);
    to.put(u64::from(state.reader.point), 3);
    for (register, session) in state.registers.iter().zip(&state.sessions) {
        to.put(u64::from(register.committed) | u64::from(register.void) << 1, 2);
        to.set(register.refs, LOCATION_BITS);
        to.put(u64::from(session.next), STEP_BITS);
        to.set(session.condemned, PACK_BITS);
        to.set(session.forgotten, POINT_BITS);
        to.set(session.relocated, LOCATION_BITS);
        to.set(session.refs, LOCATION_BITS);
        to.set(session.unchecked, PACK_BITS);
    }
    let mut pairs: [u64; COLLECTORS_MAX] = std::array::from_fn(|i| encode_collector(&state.collectors[i], &state.rounds[i]));
    pairs.sort_unstable();
    for pair in pairs {
        to.put(pair, COLLECTOR_BITS);
    }
    Code(to.words)
}

/// Decodes.
pub fn decode(code: Code) -> State {
    let mut from = Decoder { words: code.0, at: 0 };
    let mut state = State { packs: from.set(PACK_BITS), indexed: from.set(PACK_BITS), forgotten: from.set(POINT_BITS), ..State::default() };
    state.reader = Reader { phase: PHASES[usize::from(from.byte(3))], point: from.byte(3) };
    for i in 0..SESSIONS_MAX {
        let kind = from.byte(2);
        state.registers[i] = Register { committed: kind & 1 == 1, void: kind & 2 == 2, refs: from.set(LOCATION_BITS) };
        state.sessions[i] = Session {
            next: from.byte(STEP_BITS),
            condemned: from.set(PACK_BITS),
            forgotten: from.set(POINT_BITS),
            relocated: from.set(LOCATION_BITS),
            refs: from.set(LOCATION_BITS),
            unchecked: from.set(PACK_BITS),
        };
    }
    for i in 0..COLLECTORS_MAX {
        (state.collectors[i], state.rounds[i]) = decode_collector(from.get(COLLECTOR_BITS));
    }
    state
}

const COLLECTOR_BITS: u32 = STEP_BITS + POINT_BITS + 2 * PACK_BITS + SESSION_BITS + PACK_BITS + 2 + PACK_BITS + 2 + PACK_BITS + 1;

fn encode_collector(collector: &Collector, round: &Round) -> u64 {
    let mut to = Encoder::default();
    to.put(u64::from(collector.next), STEP_BITS);
    to.set(collector.forgotten, POINT_BITS);
    to.set(collector.listed, PACK_BITS);
    to.set(collector.candidates, PACK_BITS);
    to.set(collector.awaited, SESSION_BITS);
    to.set(collector.pardoned, PACK_BITS);
    to.put(u64::from(round.published) | u64::from(round.done) << 1, 2);
    to.set(round.condemned, PACK_BITS);
    let (kind, list) = match round.pardon {
        Pardon::Open => (0, PackSet::EMPTY),
        Pardon::List(list) => (1, list),
        Pardon::All => (2, PackSet::EMPTY),
    };
    to.put(kind, 2);
    to.set(list, PACK_BITS);
    to.put(u64::from(collector.knows_list), 1);
    debug_assert_eq!(to.at, COLLECTOR_BITS);
    to.words[0]
}

fn decode_collector(bits: u64) -> (Collector, Round) {
    let mut from = Decoder { words: [bits, 0, 0, 0], at: 0 };
    let mut collector = Collector {
        next: from.byte(STEP_BITS),
        forgotten: from.set(POINT_BITS),
        listed: from.set(PACK_BITS),
        candidates: from.set(PACK_BITS),
        awaited: from.set(SESSION_BITS),
        pardoned: from.set(PACK_BITS),
        knows_list: false,
    };
    let flags = from.byte(2);
    let condemned = from.set(PACK_BITS);
    let kind = from.byte(2);
    let list = from.set(PACK_BITS);
    collector.knows_list = from.get(1) == 1;
    let pardon = match kind {
        0 => Pardon::Open,
        1 => Pardon::List(list),
        _ => Pardon::All,
    };
    (collector, Round { published: flags & 1 == 1, condemned, pardon, done: flags & 2 == 2 })
}

fn phase_number(phase: ReaderPhase) -> u8 {
    match phase {
        ReaderPhase::Idle => 0,
        ReaderPhase::Pinned => 1,
        ReaderPhase::Looked => 2,
        ReaderPhase::Reading => 3,
        ReaderPhase::Ended => 4,
    }
}

#[derive(Default)]
struct Encoder {
    words: [u64; WORDS],
    at: u32,
}

impl Encoder {
    fn set<K: Copy>(&mut self, set: Bits<K>, width: u32) {
        self.put(u64::from(set.bits()), width);
    }

    fn put(&mut self, value: u64, width: u32) {
        debug_assert!(value >> width == 0, "{value} does not fit into {width} bits");
        let (word, shift) = ((self.at / 64) as usize, self.at % 64);
        self.words[word] |= value << shift;
        if shift + width > 64 {
            self.words[word + 1] |= value >> (64 - shift);
        }
        self.at += width;
    }
}

struct Decoder {
    words: [u64; WORDS],
    at: u32,
}

impl Decoder {
    fn set<K: Copy>(&mut self, width: u32) -> Bits<K> {
        Bits::from_bits(self.byte(width))
    }

    fn byte(&mut self, width: u32) -> u8 {
        (self.get(width) & 0xFF) as u8
    }

    fn get(&mut self, width: u32) -> u64 {
        let (word, shift) = ((self.at / 64) as usize, self.at % 64);
        let mut value = self.words[word] >> shift;
        if shift + width > 64 {
            value |= self.words[word + 1] << (64 - shift);
        }
        self.at += width;
        value & ((1 << width) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Model, Mutation};

    #[test]
    fn a_state_comes_back_as_it_was_but_for_the_order_of_collectors() {
        for model in [
            Model::mutated(Config::reader(2, 2), Mutation::LookBeforePin),
            Model::new(Config::relocation_shared(1)),
            Model::new(Config { grace: true, ..Config::lists(1) }),
        ] {
            for state in model.some_states(20_000) {
                let back = decode(encode(&state));
                let mut swapped = back;
                swapped.collectors.swap(0, 1);
                swapped.rounds.swap(0, 1);
                assert!(back == state || swapped == state, "{state:?} came back as {back:?}");
            }
        }
    }
}
