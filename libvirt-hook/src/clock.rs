//! The clocks of a record: the wall's for people, the kernel's for order, and the boot in which the latter counts.

use crate::Uuid;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Nanoseconds since the boot, sleep included (`CLOCK_BOOTTIME`); never goes back while the host is up.
#[must_use]
pub fn since_boot_ns() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    let (seconds, ns) = (u64::try_from(now.tv_sec()).unwrap_or(0), u64::try_from(now.tv_nsec()).unwrap_or(0));
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// Milliseconds since 1970; 0 where the clock is before that.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// One moment by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// As [`since_boot_ns`].
    pub stamp_ns: u64,
    /// As [`unix_ms`].
    pub time_unix_ms: u64,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        Self { stamp_ns: since_boot_ns(), time_unix_ms: unix_ms() }
    }
}

/// The id of this boot; none where `/proc` is not mounted.
#[must_use]
pub fn boot_id() -> Option<Uuid> {
    Uuid::parse(std::fs::read(BOOT_ID).ok()?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_go() {
        let (a, b) = (since_boot_ns(), since_boot_ns());
        assert!(a > 0 && b >= a);
        assert!(unix_ms() > 1_700_000_000_000);
        assert_eq!(boot_id(), boot_id());
        assert!(boot_id().is_some());
    }
}
