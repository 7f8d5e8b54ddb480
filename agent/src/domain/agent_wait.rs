//! Waiting for the agent of a guest that has just been started: a backup that begins before it is there cannot freeze.

use super::chain;
use crate::failure::{FAILED, Failure, INTERRUPTED, Outcome};
use cairn_hypervisor::{Domain, agent_channel::is_connected};
use cairn_store::Progress;
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// Between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Until the guest's agent is there, the limit is over, or there is nobody to wait for: a domain that is off, or has no channel for an agent. What that means for
/// the point is the backup's to say.
pub fn wait_for_agent(domain: &Domain, limit: Duration, progress: &Progress) -> Outcome<()> {
    wait(limit, POLL, || is_awaited(domain), || progress.cancel.load(Ordering::SeqCst))
}

fn is_awaited(domain: &Domain) -> Outcome<bool> {
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
    Ok(domain.is_running().map_err(|e| fail(&e))? && is_connected(&domain.xml_live().map_err(|e| fail(&e))?) == Some(false))
}

fn wait(limit: Duration, poll: Duration, is_awaited: impl Fn() -> Outcome<bool>, is_cancelled: impl Fn() -> bool) -> Outcome<()> {
    let start = Instant::now();
    while is_awaited()? {
        if is_cancelled() {
            return Err(Failure::new(INTERRUPTED, "interrupted while the guest's agent was waited for; nothing was begun"));
        }
        if start.elapsed() >= limit {
            say!("cairn: the guest's agent is not there after {} s; the backup begins without it", limit.as_secs());
            return Ok(());
        }
        std::thread::sleep(poll.min(limit.saturating_sub(start.elapsed())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const LIMIT: Duration = Duration::from_millis(200);
    const POLL: Duration = Duration::from_millis(5);

    #[test]
    fn a_wait_ends_with_the_agent_the_limit_or_a_cancel() {
        let looks = Cell::new(0);
        let comes_at = |n: u32| {
            looks.set(0);
            let looks = &looks;
            move || {
                looks.set(looks.get() + 1);
                Ok(looks.get() < n)
            }
        };
        wait(LIMIT * 1000, POLL, comes_at(1), || false).expect("nobody is waited for");
        assert_eq!(looks.get(), 1);
        wait(LIMIT * 1000, POLL, comes_at(4), || false).expect("it comes");
        assert_eq!(looks.get(), 4);
        let start = Instant::now();
        wait(LIMIT, POLL, comes_at(u32::MAX), || false).expect("the backup goes on without it");
        assert!(start.elapsed() >= LIMIT);
        assert_eq!(wait(LIMIT, POLL, comes_at(u32::MAX), || true).expect_err("is heard").code, INTERRUPTED);
        assert_eq!(wait(LIMIT, POLL, || Err(Failure::new(FAILED, "libvirt is away")), || false).expect_err("is told").code, FAILED);
    }
}
