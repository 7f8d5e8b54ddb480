//! Many workers, one consumer, results in the order of the jobs, bounded in between.
//!
//! A job is started only while it is less than `window` ahead of the consumer, so memory is bounded whatever the jobs' number.

use crate::{Result, StoreError, platform::Platform};
use std::{
    collections::BTreeMap,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

/// How long the stages of a backup waited for each other, nanoseconds; what a stage's threads did not wait, they worked. By the machine's own clock, not
/// the platform's: these are figures for people, and nothing depends on them.
#[derive(Default, Debug)]
pub struct StageWaits {
    /// Workers, all together, for the consumer: too far ahead of it.
    pub workers_ns: AtomicU64,
    /// The consumer for workers.
    pub consumer_ns: AtomicU64,
    /// The consumer for the writer of packs: one is being written, one waits.
    pub writer_ns: AtomicU64,
}

impl StageWaits {
    /// Adds the time that `wait` takes.
    pub(crate) fn timed<T>(counter: &AtomicU64, wait: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let out = wait();
        counter.fetch_add(u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        out
    }
}

struct State<I, R> {
    jobs: I,
    next: u64,
    consumed: u64,
    running: usize,
    exhausted: bool,
    failed: bool,
    done: BTreeMap<u64, Result<R>>,
}

/// Threads for a job: one a core, at least `min`, at most `max`; 0 where the platform wants all on the calling thread.
pub(crate) fn workers(platform: &dyn Platform, min: usize, max: usize) -> usize {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    if platform.single_threaded() { 0 } else { cores.max(min).min(max) }
}

/// As [`ordered_timed`], for those who do not ask how long it waited.
pub(crate) fn ordered<J, R, W>(
    jobs: impl Iterator<Item = Result<J>> + Send,
    workers: usize,
    window: usize,
    make_worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, J) -> Result<R> + Sync,
    consume: impl FnMut(R) -> Result<()>,
) -> Result<()>
where
    J: Send,
    R: Send,
{
    ordered_timed(jobs, workers, window, &StageWaits::default(), make_worker, work, consume)
}

/// Runs `work` on every job with `workers` threads, or on this one where `workers` is 0; `consume` sees the results on this thread in the jobs' order. The first error (in
/// order) ends everything and is returned; jobs already started are finished and dropped.
pub(crate) fn ordered_timed<J, R, W>(
    mut jobs: impl Iterator<Item = Result<J>> + Send,
    workers: usize,
    window: usize,
    waits: &StageWaits,
    make_worker: impl Fn() -> W + Sync,
    work: impl Fn(&mut W, J) -> Result<R> + Sync,
    mut consume: impl FnMut(R) -> Result<()>,
) -> Result<()>
where
    J: Send,
    R: Send,
{
    if workers == 0 {
        let mut worker = make_worker();
        return jobs.try_for_each(|job| consume(work(&mut worker, job?)?));
    }
    let state = Mutex::new(State { jobs, next: 0, consumed: 0, running: 0, exhausted: false, failed: false, done: BTreeMap::new() });
    let changed = Condvar::new();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let _stop = StopOnPanic { state: &state, changed: &changed };
                let mut worker = make_worker();
                while let Some((seq, job)) = take(&state, &changed, window.max(1) as u64, waits) {
                    let result = job.and_then(|j| work(&mut worker, j));
                    let mut s = state.lock().unwrap_or_else(PoisonError::into_inner);
                    s.running -= 1;
                    s.done.insert(seq, result);
                    changed.notify_all();
                }
            });
        }
        let outcome = drain(&state, &changed, waits, &mut consume);
        state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        changed.notify_all();
        outcome
    })
}

/// A worker that panics must not leave the consumer waiting.
struct StopOnPanic<'a, I, R> {
    state: &'a Mutex<State<I, R>>,
    changed: &'a Condvar,
}

impl<I, R> Drop for StopOnPanic<'_, I, R> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
            self.changed.notify_all();
        }
    }
}

fn take<J, R>(state: &Mutex<State<impl Iterator<Item = Result<J>>, R>>, changed: &Condvar, window: u64, waits: &StageWaits) -> Option<(u64, Result<J>)> {
    let mut s = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if s.failed || s.exhausted {
            return None;
        }
        if s.next < s.consumed + window {
            break;
        }
        s = StageWaits::timed(&waits.workers_ns, || changed.wait(s)).unwrap_or_else(PoisonError::into_inner);
    }
    let Some(job) = s.jobs.next() else {
        s.exhausted = true;
        changed.notify_all();
        return None;
    };
    let seq = s.next;
    s.next += 1;
    s.running += 1;
    Some((seq, job))
}

fn drain<I, R>(state: &Mutex<State<I, R>>, changed: &Condvar, waits: &StageWaits, consume: &mut impl FnMut(R) -> Result<()>) -> Result<()> {
    loop {
        let mut s = state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = loop {
            let at = s.consumed;
            if let Some(r) = s.done.remove(&at) {
                break r;
            }
            if s.failed {
                return Err(StoreError::Interrupted);
            }
            if s.exhausted && s.consumed == s.next {
                return Ok(());
            }
            s = StageWaits::timed(&waits.consumer_ns, || changed.wait(s)).unwrap_or_else(PoisonError::into_inner);
        };
        drop(s);
        consume(result?)?;
        state.lock().unwrap_or_else(PoisonError::into_inner).consumed += 1;
        changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_stops_at_the_first_error() {
        let mut seen = Vec::new();
        ordered(
            (0..1000u64).map(Ok),
            4,
            7,
            || (),
            |(), j| Ok(j * 2),
            |r| {
                seen.push(r);
                Ok(())
            },
        )
        .expect("no error");
        assert_eq!(seen, (0..1000).map(|j| j * 2).collect::<Vec<_>>());
        let mut count = 0;
        let out = ordered(
            (0..1000u64).map(Ok),
            4,
            7,
            || (),
            |(), j| if j == 50 { Err(StoreError::Interrupted) } else { Ok(j) },
            |_| {
                count += 1;
                Ok(())
            },
        );
        assert!(out.is_err());
        assert_eq!(count, 50);
    }

    #[test]
    fn a_failing_consumer_ends_it() {
        let out = ordered((0..100_000u64).map(Ok), 3, 4, || (), |(), j| Ok(j), |r| if r == 10 { Err(StoreError::Interrupted) } else { Ok(()) });
        assert!(out.is_err());
    }
}
