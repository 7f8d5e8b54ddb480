//! Nobody but us may touch the disks: the domain is off, stays locked, and has no saved memory that belongs to the disks as they were.

use crate::{
    domain::chain,
    failure::{BUSY, FAILED, Failure, Outcome},
    output::shown,
};
use cairn_hypervisor::{Domain, capture::lock::DomainLock, capture::lock::LOCK_DIR_DEFAULT};
use std::{
    path::Path,
    time::{Duration, Instant},
};

const POLL_MS: u64 = 250;
/// A guest whose init is busy misses the first press of the power button.
const ASK_AGAIN_MS: u64 = 10_000;

/// What may be done to a running domain.
#[derive(Debug, Clone, Copy)]
pub struct Off {
    /// Shut it down.
    pub stop: bool,
    /// For so long at most.
    pub limit: Duration,
    /// Then turn it off.
    pub force: bool,
    /// Nothing is changed.
    pub dry_run: bool,
}

/// Takes the domain's lock, and sees to it that the domain is off. Whether it was stopped by us.
pub fn require_off(domain: &Domain, name: &str, uuid: &str, off: Off) -> Outcome<(DomainLock, bool)> {
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, chain(e));
    let lock = DomainLock::take(Path::new(LOCK_DIR_DEFAULT), name, uuid)?;
    let shown = shown(name);
    let mut stopped = false;
    if domain.is_running().map_err(|e| fail(&e))? {
        if off.dry_run {
            return Err(Failure::refused(format!("domain {shown} is running: what differs can be told of disks that nobody writes to (shut it down first)")));
        }
        if !off.stop {
            return Err(Failure::refused(format!("domain {shown} is running; nothing was written (shut it down first, or let --stop do it)")));
        }
        if !domain.is_persistent().map_err(|e| fail(&e))? {
            return Err(Failure::refused(format!("domain {shown} has no definition and would be gone once it stops; nothing was written")));
        }
        stop(domain, &shown, off)?;
        stopped = true;
    }
    if domain.has_managed_save().map_err(|e| fail(&e))? {
        return Err(Failure::refused(format!(
            "domain {shown} has its memory saved, which goes with its disks as they are now: it would go on from there and destroy what is restored; \
             nothing was written ('virsh managedsave-remove {shown}' gives that memory up)"
        )));
    }
    Ok((lock, stopped))
}

fn stop(domain: &Domain, shown: &str, off: Off) -> Outcome<()> {
    let fail = |e: &dyn std::error::Error| Failure::new(FAILED, format!("domain {shown}: {}; nothing was written", chain(e)));
    let begin = Instant::now();
    let mut asked: Option<Instant> = None;
    while domain.is_running().map_err(|e| fail(&e))? {
        if begin.elapsed() >= off.limit {
            if !off.force {
                let limit_s = off.limit.as_secs();
                return Err(Failure::new(
                    BUSY,
                    format!("domain {shown} did not shut down within {limit_s} s; nothing was written (--stop-limit waits longer, --force turns it off)"),
                ));
            }
            tracing::warn!("domain {shown} did not shut down in time and is turned off");
            // It may have ended by itself just now.
            if let Err(e) = domain.destroy()
                && domain.is_running().unwrap_or(true)
            {
                return Err(fail(&e));
            }
            return Ok(());
        }
        if asked.is_none_or(|at| at.elapsed() > Duration::from_millis(ASK_AGAIN_MS)) {
            asked = Some(Instant::now());
            if let Err(e) = domain.shutdown()
                && domain.is_running().map_err(|e| fail(&e))?
            {
                return Err(fail(&e));
            }
        }
        std::thread::sleep(Duration::from_millis(POLL_MS));
    }
    Ok(())
}
