//! Several actors, each a thread, of which one moves at a time: the seed says which at every operation.
//!
//! Invariants: only the thread whose turn it is touches the world; a thread that ends or sleeps hands its turn on. Every wait has a limit.

use super::{State, World, rng::Rng, survive};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Real time that an actor may wait for its turn.
const TURN_WAIT_S_MAX: u64 = 600;

thread_local! {
    static ACTOR: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Actor {
    ended: bool,
    /// Simulated time before which it does not move.
    asleep_until_ms: u64,
}

#[derive(Default)]
pub(super) struct Schedule {
    actors: Vec<Actor>,
    turn: usize,
    /// An actor panicked: the others end as well.
    pub(super) broken: bool,
}

impl Schedule {
    /// The next actor to move; simulated time goes on where all sleep. `None` once all have ended.
    fn pick(&mut self, now_ms: &mut u64, rng: &mut Rng) -> Option<usize> {
        let first_wake = self.actors.iter().filter(|a| !a.ended).map(|a| a.asleep_until_ms).min()?;
        *now_ms = (*now_ms).max(first_wake);
        let ready: Vec<usize> = (0..self.actors.len()).filter(|&i| !self.actors[i].ended && self.actors[i].asleep_until_ms <= *now_ms).collect();
        Some(ready[rng.below(ready.len())])
    }
}

/// One of several things that go on at once.
pub type ActorBody<'a> = Box<dyn FnOnce() + Send + 'a>;

impl World {
    /// Runs actors at once until all have ended. What a crash of its process leaves an actor to do is the actor's own: see [`survive`].
    /// A panic of one ends all and goes on here.
    pub fn run(self: &Arc<Self>, bodies: Vec<ActorBody<'_>>) {
        {
            let mut s = self.lock();
            assert!(s.schedule.actors.iter().all(|a| a.ended), "actors run already");
            let actors = bodies.iter().map(|_| Actor { ended: false, asleep_until_ms: 0 }).collect();
            s.schedule = Schedule { actors, turn: usize::MAX, broken: false };
            s.hand_on();
        }
        let mut panics = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..)
                .zip(bodies)
                .map(|(me, body)| {
                    scope.spawn(move || {
                        ACTOR.set(Some(me));
                        drop(self.wait_for_turn(self.lock(), me));
                        let outcome = catch_unwind(AssertUnwindSafe(|| survive(body)));
                        let mut s = self.lock();
                        s.schedule.actors[me].ended = true;
                        s.schedule.broken |= outcome.is_err();
                        s.hand_on();
                        self.turn_changed.notify_all();
                        outcome
                    })
                })
                .collect();
            panics.extend(threads.into_iter().filter_map(|t| t.join().unwrap_or_else(Err).err()));
        });
        if let Some(first) = panics.into_iter().next() {
            resume_unwind(first);
        }
    }

    /// Where another actor may come in; returns when it is this one's turn again. Threads that are no actors go straight on.
    pub(super) fn pass_turn<'a>(self: &'a Arc<Self>, mut s: MutexGuard<'a, State>, sleep_ms: u64) -> MutexGuard<'a, State> {
        let Some(me) = ACTOR.get() else {
            s.now_ms += sleep_ms;
            return s;
        };
        s.schedule.actors[me].asleep_until_ms = s.now_ms + sleep_ms;
        s.hand_on();
        if s.schedule.turn != me {
            self.turn_changed.notify_all();
        }
        self.wait_for_turn(s, me)
    }

    fn wait_for_turn<'a>(&'a self, mut s: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        let started = Instant::now();
        while s.schedule.turn != me {
            let (guard, _) = self.turn_changed.wait_timeout(s, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
            s = guard;
            assert!(started.elapsed().as_secs() < TURN_WAIT_S_MAX, "actor {me} waited {TURN_WAIT_S_MAX} s for its turn; actor {} hangs", s.schedule.turn);
        }
        s
    }
}

impl State {
    fn hand_on(&mut self) {
        self.schedule.turn = self.schedule.pick(&mut self.now_ms, &mut self.rng).unwrap_or(usize::MAX);
    }
}
