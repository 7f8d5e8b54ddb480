//! What was read first, in order: what one boot has read, a later one can load before it asks.
//!
//! Bounded: after [`TOUCHES_MAX`] places the list is full and stays as it is; the first ones are those that a boot waits for.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Places in the list: 24 B each and as much for finding them again, so about 6 MiB; 8 GiB of disk at 64 KiB a chunk.
const TOUCHES_MAX: usize = 128 << 10;

#[derive(Default)]
struct State {
    seen: HashSet<u64>,
    list: Vec<Range<u64>>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Touches(Mutex<State>);

impl Touches {
    /// Takes note of chunks, as ranges of the disk.
    pub(super) fn note(&self, chunks: impl Iterator<Item = Range<u64>>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in chunks {
            if state.list.len() < TOUCHES_MAX && state.seen.insert(chunk.start) {
                state.list.push(chunk);
            }
        }
    }

    pub(super) fn list(&self) -> Vec<Range<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).list.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_listed_once_in_the_order_of_the_first_reads_and_the_list_ends() {
        let touches = Touches::default();
        touches.note([100..200, 0..100].into_iter());
        touches.note([0..100, 200..300].into_iter());
        assert_eq!(touches.list(), [100..200, 0..100, 200..300]);
        touches.note((1..=TOUCHES_MAX as u64 + 10).map(|n| n * 1000..n * 1000 + 1));
        assert_eq!(touches.list().len(), TOUCHES_MAX);
    }
}
