//! What will be read soon: ranges that threads of the source load before they are asked for.
//!
//! Invariants: the queue is bounded and gives up its newest wishes, never a reader's time; a list that was given beforehand comes after all wishes of readers;
//! a wish that fails is silent, for whoever needs the range meets the same failure and tells it; the threads end with the source.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

/// Wishes that wait.
const QUEUE_MAX: usize = 64;
/// Sequential readers that are followed at one time.
const STREAMS_MAX: usize = 8;
/// A first read ahead, bytes; each further one doubles, up to the window.
const WINDOW_FIRST_BYTES: u64 = 512 << 10;
/// Reads that are so far from where a stream is expected still belong to it: clients send several at once, in any order.
const SLACK_BYTES: u64 = 4 << 20;

/// Wishes and who fulfils them.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    wishes: VecDeque<Range<u64>>,
    /// What nobody waits for: loaded while there are no wishes.
    later: VecDeque<Range<u64>>,
    closed: bool,
    threads: Vec<JoinHandle<()>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wishes for ranges, in order, as many as there is room for. `start` makes the threads when the first one comes.
    pub(super) fn wish(&self, ranges: impl IntoIterator<Item = Range<u64>>, start: impl FnOnce() -> Vec<JoinHandle<()>>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let room = QUEUE_MAX.saturating_sub(state.wishes.len());
        state.wishes.extend(ranges.into_iter().take(room));
        self.begin(state, start);
    }

    /// A list that is loaded in its order while there are no wishes; the caller bounds it.
    pub(super) fn later(&self, ranges: impl IntoIterator<Item = Range<u64>>, start: impl FnOnce() -> Vec<JoinHandle<()>>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.later.extend(ranges);
        self.begin(state, start);
    }

    fn begin(&self, mut state: MutexGuard<'_, QueueState>, start: impl FnOnce() -> Vec<JoinHandle<()>>) {
        if state.threads.is_empty() && !(state.wishes.is_empty() && state.later.is_empty()) {
            state.threads = start();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The next wish; `None` when the source is gone.
    pub(super) fn next(&self) -> Option<Range<u64>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(wish) = state.wishes.pop_front().or_else(|| state.later.pop_front()) {
                return Some(wish);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the threads; each finishes what it is loading.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wishes.clear();
        state.later.clear();
        let threads = std::mem::take(&mut state.threads);
        drop(state);
        self.changed.notify_all();
        for thread in threads {
            // A thread that panicked has told so already; nobody depends on it.
            drop(thread.join());
        }
    }
}

/// A reader that goes forward.
struct Stream {
    /// Where its next read is expected.
    end: u64,
    /// All before this is read or wished for.
    ahead: u64,
    window: u64,
}

/// Finds out who reads sequentially.
#[derive(Default)]
pub(super) struct Streams {
    /// Last used last.
    streams: Vec<Stream>,
}

impl Streams {
    /// Takes note of a read; what should be loaded ahead of it, in pieces of `piece` bytes, never more than `window_max` beyond it.
    pub(super) fn note(&mut self, read: Range<u64>, size_bytes: u64, window_max: u64, piece: u64) -> Vec<Range<u64>> {
        let near = |s: &Stream| read.start + SLACK_BYTES >= s.end && read.start <= s.end + SLACK_BYTES;
        let Some(at) = self.streams.iter().position(near) else {
            if self.streams.len() == STREAMS_MAX {
                self.streams.remove(0);
            }
            self.streams.push(Stream { end: read.end, ahead: read.end, window: 0 });
            return Vec::new();
        };
        let mut stream = self.streams.remove(at);
        // Going back or staying says nothing of what comes next.
        let forward = read.end > stream.end;
        let mut out = Vec::new();
        if forward {
            stream.end = read.end;
            stream.window = (stream.window * 2).clamp(WINDOW_FIRST_BYTES.min(window_max), window_max);
            stream.ahead = stream.ahead.max(read.end);
            let until = (read.end + stream.window).min(size_bytes);
            // Wishes of whole pieces only, or the disk's rest: many small ones would each begin with a look at the map.
            while stream.ahead + piece <= until || (until == size_bytes && stream.ahead < until) {
                let end = ((stream.ahead / piece + 1) * piece).min(until);
                out.push(stream.ahead..end);
                stream.ahead = end;
            }
        }
        self.streams.push(stream);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_is_run_ahead_of_within_the_window() {
        let (mut streams, size, mut loaded) = (Streams::default(), 100 * MIB, 65536);
        for at in (0..size).step_by(65536) {
            // What is read needs no wish any more.
            loaded = loaded.max(at + 65536);
            for wish in streams.note(at..at + 65536, size, 4 * MIB, MIB / 2) {
                assert_eq!(wish.start, loaded, "in disk order, nothing twice");
                assert!(wish.end <= at + 65536 + 4 * MIB && wish.end <= size, "{wish:?} at {at}");
                loaded = wish.end;
            }
            assert!(at < 4 * MIB || loaded >= (at + 65536 + 3 * MIB).min(size), "far enough ahead at {at}: {loaded}");
        }
        assert_eq!(loaded, size);
    }

    #[test]
    fn a_list_given_beforehand_comes_after_the_wishes_and_is_not_cut() {
        let queue = Queue::default();
        queue.later((0..200).map(|n| n..n + 1), Vec::new);
        queue.wish((1000..1100).map(|n| n..n + 1), Vec::new);
        let all: Vec<u64> = (0..200 + QUEUE_MAX).map(|_| queue.next().expect("one more").start).collect();
        assert!(all[..QUEUE_MAX].iter().copied().eq(1000..1000 + QUEUE_MAX as u64), "readers first");
        assert!(all[QUEUE_MAX..].iter().copied().eq(0..200));
        queue.later([0..1], Vec::new);
        queue.close();
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn random_reads_ask_for_nothing_and_several_streams_are_followed() {
        let mut streams = Streams::default();
        for at in [50, 3, 99, 20, 77, 40, 10, 64, 32] {
            assert!(streams.note(at * 16 * MIB..at * 16 * MIB + 4096, 1 << 40, 4 * MIB, MIB).is_empty());
        }
        let mut streams = Streams::default();
        let mut wishes = [0; 3];
        for step in 0..64 {
            for (stream, count) in wishes.iter_mut().enumerate() {
                let at = stream as u64 * 1000 * MIB + step * MIB / 4;
                *count += streams.note(at..at + MIB / 4, 1 << 40, 4 * MIB, MIB).len();
            }
        }
        assert!(wishes.iter().all(|count| *count > 10), "{wishes:?}");
    }
}
