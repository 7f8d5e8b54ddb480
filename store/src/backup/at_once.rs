//! Some jobs at the same time, results in the jobs' order.

use crate::Result;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// Does jobs `0..count`, at most `at_once` at a time: on this thread if that is one. After a failure none is begun any more, and `is_over` tells those under
/// way that they need not go on. The failure that came first is returned: others may be of `is_over` only.
pub(super) fn run<R: Send>(count: usize, at_once: usize, is_over: &AtomicBool, work: impl Fn(usize) -> Result<R> + Sync) -> Result<Vec<R>> {
    if at_once <= 1 {
        return (0..count).map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let done: Mutex<Vec<Option<R>>> = Mutex::new((0..count).map(|_| None).collect());
    let take = || {
        while !is_over.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            match work(i) {
                Ok(r) => done.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(r),
                Err(e) => {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    is_over.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(take);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().map(|r| r.expect("without a failure each job was done")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreError;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for at_once in [1, 2, 3, 20] {
            // The first ones take the longest.
            let work = |i: usize| {
                thread::sleep(std::time::Duration::from_millis(20 - i as u64));
                Ok(i * 2)
            };
            assert_eq!(run(20, at_once, &AtomicBool::new(false), work).expect("no error"), (0..20).map(|i| i * 2).collect::<Vec<_>>());
            assert!(run(0, at_once, &AtomicBool::new(false), work).expect("no error").is_empty());
        }
    }

    #[test]
    fn the_first_failure_counts_and_ends_it() {
        let (begun, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let out = run(1000, 3, &is_over, |i| {
            begun.fetch_add(1, Ordering::Relaxed);
            while i < 5 && !is_over.load(Ordering::Relaxed) {
                if i < 2 {
                    thread::yield_now();
                    continue;
                }
                return Ok(());
            }
            Err(if i == 5 { StoreError::Busy("job 5".into()) } else { StoreError::Interrupted })
        });
        assert!(out.expect_err("one failed").to_string().contains("job 5"));
        assert!(begun.load(Ordering::Relaxed) < 1000, "the others were not begun");
    }
}
