//! What a keeper has around it: the clock, and how the runner of a job comes up. A simulation has a clock and runners of its own (docs/simulation.md).

use super::{
    launch::{self, Started, Way},
    record::Ticket,
};
use crate::{commands::now_unix_ms, failure::Outcome};
use std::path::Path;

type Clock = Box<dyn Fn() -> u64 + Send>;
type Starter = Box<dyn Fn(&Path, &Ticket, Way) -> Outcome<Started> + Send>;

/// See the module.
pub struct Around {
    /// Unix milliseconds.
    pub clock: Clock,
    /// As [`launch::start`].
    pub starter: Starter,
}

impl Default for Around {
    fn default() -> Self {
        Self { clock: Box::new(now_unix_ms), starter: Box::new(launch::start) }
    }
}

impl Around {
    /// Unix milliseconds.
    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    /// As [`launch::start`].
    pub fn start(&self, jobs_dir: &Path, ticket: &Ticket, way: Way) -> Outcome<Started> {
        (self.starter)(jobs_dir, ticket, way)
    }
}
