//! Sessions with the same role are interchangeable: of all states that differ only in their numbers one stands for the rest.
//!
//! Collectors are as well; that is done where states are encoded, since nothing else carries their numbers.

use crate::{
    Config,
    code::{Code, encode},
    config::{INITIAL, Role, SESSIONS_MAX, own},
    sets::Bits,
    state::State,
};

/// The ways to renumber sessions that change nothing but numbers.
#[derive(Debug)]
pub struct Symmetry {
    renumberings: Vec<Renumbering>,
}

#[derive(Debug)]
struct Renumbering {
    /// New number of each session.
    to: [usize; SESSIONS_MAX],
    /// New bits of a set of packs, locations or points, by its old bits.
    owned: [u8; 256],
    /// The same for sets of sessions.
    writers: [u8; 256],
}

impl Symmetry {
    /// All renumberings but the one that changes nothing.
    pub(crate) fn of(config: &Config) -> Self {
        let mut all = Vec::new();
        permutations(&mut Vec::new(), &mut all);
        let identity: [usize; SESSIONS_MAX] = std::array::from_fn(|i| i);
        all.retain(|to| *to != identity && (0..SESSIONS_MAX).all(|i| is_same(config, i, to[i])));
        Self { renumberings: all.into_iter().map(Renumbering::new).collect() }
    }

    /// The code that stands for this state and all that are like it.
    pub fn canonical(&self, state: &State) -> Code {
        self.renumberings.iter().map(|r| encode(&r.apply(state))).fold(encode(state), Code::min)
    }
}

/// Whether session `to` can stand for session `from`: the same role, and if they differ no repack copies from either.
fn is_same(config: &Config, from: usize, to: usize) -> bool {
    let is_source = |i: usize| config.sessions.contains(&Role::Repack { source: own(i) });
    from == to || (config.sessions.get(from) == config.sessions.get(to) && !is_source(from) && !is_source(to))
}

fn permutations(begun: &mut Vec<usize>, out: &mut Vec<[usize; SESSIONS_MAX]>) {
    if let Ok(whole) = <[usize; SESSIONS_MAX]>::try_from(begun.as_slice()) {
        out.push(whole);
        return;
    }
    for i in (0..SESSIONS_MAX).filter(|i| !begun.contains(i)).collect::<Vec<_>>() {
        begun.push(i);
        permutations(begun, out);
        begun.pop();
    }
}

impl Renumbering {
    fn new(to: [usize; SESSIONS_MAX]) -> Self {
        let table = |first: usize| -> [u8; 256] {
            std::array::from_fn(|bits| {
                let moved = |bit: usize| if (first..first + SESSIONS_MAX).contains(&bit) { first + to[bit - first] } else { bit };
                (0..8).filter(|bit| bits >> bit & 1 == 1).fold(0, |new, bit| new | 1 << moved(bit))
            })
        };
        Self { to, owned: table(INITIAL), writers: table(0) }
    }

    fn owned<K: Copy>(&self, set: Bits<K>) -> Bits<K> {
        Bits::from_bits(self.owned[usize::from(set.bits())])
    }

    fn apply(&self, state: &State) -> State {
        let mut new = *state;
        new.packs = self.owned(state.packs);
        new.indexed = self.owned(state.indexed);
        new.forgotten = self.owned(state.forgotten);
        for (i, &to) in self.to.iter().enumerate() {
            new.registers[to] = state.registers[i];
            new.registers[to].refs = self.owned(state.registers[i].refs);
            let session = &mut new.sessions[to];
            *session = state.sessions[i];
            session.condemned = self.owned(session.condemned);
            session.forgotten = self.owned(session.forgotten);
            session.relocated = self.owned(session.relocated);
            session.refs = self.owned(session.refs);
            session.unchecked = self.owned(session.unchecked);
        }
        for collector in &mut new.collectors {
            collector.forgotten = self.owned(collector.forgotten);
            collector.listed = self.owned(collector.listed);
            collector.candidates = self.owned(collector.candidates);
            collector.pardoned = self.owned(collector.pardoned);
            collector.awaited = Bits::from_bits(self.writers[usize::from(collector.awaited.bits())]);
        }
        for round in &mut new.rounds {
            round.condemned = self.owned(round.condemned);
            if let crate::state::Pardon::List(list) = &mut round.pardon {
                *list = self.owned(*list);
            }
        }
        let point = usize::from(state.reader.point);
        if point >= INITIAL {
            new.reader.point = u8::try_from(own(self.to[point - INITIAL])).expect("a few points");
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    #[test]
    fn renumbered_states_have_one_code() {
        let config = Config::reader(3, 2);
        let symmetry = Symmetry::of(&config);
        assert_eq!(symmetry.renumberings.len(), 5);
        for state in Model::new(config).some_states(20_000) {
            for renumbering in &symmetry.renumberings {
                assert_eq!(symmetry.canonical(&renumbering.apply(&state)), symmetry.canonical(&state), "{state:?}");
            }
        }
    }

    #[test]
    fn roles_that_differ_are_not_exchanged() {
        assert_eq!(Symmetry::of(&Config::relocation(1)).renumberings.len(), 1);
        assert!(Symmetry::of(&Config::relocation_chain(1)).renumberings.is_empty());
    }
}
