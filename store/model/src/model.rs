//! The model: a configuration, perhaps one broken rule, and from them every state that may follow a state.

use crate::{
    Config, Mutation,
    collector::{self, CollectorStep},
    config::Role,
    event::Event,
    repack,
    session::{self, SessionStep},
    sets::{PackSet, PointSet},
    state::State,
    symmetry::Symmetry,
};

/// What may follow a state, each with what happened.
pub(crate) type Successors = Vec<(Event, State)>;

/// The protocol in a configuration, whole or with one rule broken.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: Config,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) initial_points: PointSet,
    pub(crate) session_programs: Vec<Vec<SessionStep>>,
    pub(crate) collector_program: Vec<CollectorStep>,
    pub(crate) symmetry: Symmetry,
    reduces: bool,
}

impl Model {
    /// The protocol as it is.
    pub fn new(config: Config) -> Self {
        Self::build(config, None)
    }

    /// The protocol with one rule broken.
    pub fn mutated(config: Config, mutation: Mutation) -> Self {
        Self::build(config, Some(mutation))
    }

    fn build(config: Config, mutation: Option<Mutation>) -> Self {
        config.check();
        let program_of = |role: &Role| match role {
            Role::Backup => session::program(&config, mutation),
            Role::Repack { .. } => repack::PROGRAM.to_vec(),
        };
        Self {
            session_programs: config.sessions.iter().map(program_of).collect(),
            collector_program: collector::program(&config, mutation),
            initial_points: (0..config.initial_points.len()).fold(PointSet::EMPTY, PointSet::with),
            symmetry: Symmetry::of(&config),
            reduces: config.reduced && !mutation.is_some_and(Mutation::breaks_registers),
            config,
            mutation,
        }
    }

    /// Whether this rule is the broken one.
    pub(crate) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// The first state: packs A and B, the first points, nobody has begun.
    pub(crate) fn initial(&self) -> State {
        let packs = PackSet::one(crate::config::A).with(crate::config::B);
        let mut state = State { packs, indexed: packs, ..State::default() };
        // Numbers without a collector are ended ones.
        for collector in &mut state.collectors[self.config.collectors..] {
            collector.next = u8::try_from(self.collector_program.len()).expect("a program has a few steps");
        }
        state
    }

    /// Appends everything that may happen next.
    pub(crate) fn successors(&self, state: &State, out: &mut Successors) {
        self.forget(state, out);
        self.fence(state, out);
        for i in 0..self.config.sessions.len() {
            self.step_session(state, i, out);
        }
        // All of them, since encoding sorts them: those that take no part have ended, and their rounds are empty.
        for j in 0..state.collectors.len() {
            self.step_collector(state, j, out);
            self.step_round(state, j, out);
        }
        if self.config.reader {
            self.step_reader(state, out);
        }
        if self.reduces {
            out.iter_mut().for_each(|(_, after)| self.reduce(after));
        }
    }

    /// States along random ways through the model, for tests. The ways are the same in every run.
    #[cfg(test)]
    pub(crate) fn some_states(&self, count: usize) -> Vec<State> {
        let (mut states, mut random, mut state) = (Vec::new(), 1u64, self.initial());
        while states.len() < count {
            let mut next = Vec::new();
            self.successors(&state, &mut next);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chosen = (random >> 33) as usize % next.len().max(1);
            state = next.get(chosen).map_or_else(|| self.initial(), |(_, after)| *after);
            states.push(state);
        }
        states
    }
}
