//! Breadth-first search of every state that can be reached, so that the first counter-example found is one of the shortest.
//!
//! Invariants:
//! - A state that differs from a visited one only in the numbers of like actors is not visited again ([`crate::symmetry`]).
//! - The search ends: there are finitely many states, and above `states_max` it stops and says so.

use crate::{
    Model,
    code::{Code, decode},
    event::{Action, Event},
    state::State,
};
use std::fmt;

/// What a search found.
#[derive(Debug)]
pub struct Outcome {
    /// States visited.
    pub states: usize,
    /// The longest of all shortest ways to a state.
    pub depth: usize,
    /// Every action that took place somewhere.
    actions: u64,
    /// How it ended.
    pub end: End,
}

/// How a search ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// Every state was visited, and none is what was looked for.
    Exhausted,
    /// One of the shortest ways to a state that was looked for.
    Found(Vec<Event>),
    /// More states than allowed.
    TooMany,
}

impl Outcome {
    /// Whether `action` took place in any run.
    pub fn saw(&self, action: Action) -> bool {
        self.actions >> action as u32 & 1 == 1
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} states, depth {}: ", self.states, self.depth)?;
        match &self.end {
            End::Exhausted => f.write_str("exhausted, nothing found"),
            End::TooMany => f.write_str("stopped at the limit of states, nothing found so far"),
            End::Found(trace) => {
                write!(f, "found after {} steps", trace.len())?;
                for (n, event) in (1..).zip(trace) {
                    write!(f, "\n  {n:>2}  {event}")?;
                }
                Ok(())
            }
        }
    }
}

/// Looks for a state with `is_wanted`, through at most `states_max` states.
pub fn search(model: &Model, states_max: usize, is_wanted: impl Fn(&State) -> bool) -> Outcome {
    let initial = model.initial();
    let mut visited = Visited::new();
    visited.insert(model.symmetry.canonical(&initial), 0);
    let mut next = Vec::new();
    let (mut at, mut depth, mut depth_ends, mut actions) = (0, 0, 1, 0u64);
    while at < visited.codes.len() {
        if at == depth_ends {
            depth += 1;
            depth_ends = visited.codes.len();
        }
        next.clear();
        model.successors(&decode(visited.codes[at]), &mut next);
        for (event, state) in &next {
            actions |= 1 << event.action as u32;
            if !visited.insert(model.symmetry.canonical(state), at) {
                continue;
            }
            if is_wanted(state) {
                let trace = replay(model, &visited.way_to_last());
                return Outcome { states: visited.codes.len(), depth: depth + 1, actions, end: End::Found(trace) };
            }
        }
        if visited.codes.len() > states_max {
            return Outcome { states: visited.codes.len(), depth, actions, end: End::TooMany };
        }
        at += 1;
    }
    Outcome { states: visited.codes.len(), depth, actions, end: End::Exhausted }
}

/// The events along a way of canonical states. Numbers of actors stay the same along it, which those of the canonical states do not.
fn replay(model: &Model, way: &[Code]) -> Vec<Event> {
    let mut state = model.initial();
    let mut events = Vec::new();
    for code in &way[1..] {
        let mut next = Vec::new();
        model.successors(&state, &mut next);
        let taken = next.into_iter().find(|(_, after)| model.symmetry.canonical(after) == *code);
        let (event, after) = taken.expect("like states have like successors");
        events.push(event);
        state = after;
    }
    events
}

/// Visited states in the order in which they were found, and for each the one it was found from. The queue of the search is its tail.
struct Visited {
    codes: Vec<Code>,
    from: Vec<u32>,
    /// Open addressing. An entry is 0 (free), or the upper half of the hash and the state's number + 1.
    table: Vec<u64>,
}

const TABLE_START: usize = 1 << 16;

impl Visited {
    fn new() -> Self {
        Self { codes: Vec::new(), from: Vec::new(), table: vec![0; TABLE_START] }
    }

    /// Whether it is new.
    fn insert(&mut self, code: Code, from: usize) -> bool {
        if self.codes.len() * 3 >= self.table.len() * 2 {
            self.grow();
        }
        let hash = code.hash();
        let tag = hash >> 32 << 32;
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        while self.table[slot] != 0 {
            let entry = self.table[slot];
            if entry & !0xFFFF_FFFF == tag && self.codes[(entry & 0xFFFF_FFFF) as usize - 1] == code {
                return false;
            }
            slot = (slot + 1) & mask;
        }
        self.codes.push(code);
        self.from.push(u32::try_from(from).expect("fewer than 2^32 states fit into memory"));
        self.table[slot] = tag | self.codes.len() as u64;
        true
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        let mask = self.table.len() - 1;
        for (number, code) in (1u64..).zip(&self.codes) {
            let hash = code.hash();
            let mut slot = hash as usize & mask;
            while self.table[slot] != 0 {
                slot = (slot + 1) & mask;
            }
            self.table[slot] = hash >> 32 << 32 | number;
        }
    }

    fn way_to_last(&self) -> Vec<Code> {
        let mut at = self.codes.len() - 1;
        let mut way = vec![self.codes[at]];
        while at != 0 {
            at = self.from[at] as usize;
            way.push(self.codes[at]);
        }
        way.reverse();
        way
    }
}
