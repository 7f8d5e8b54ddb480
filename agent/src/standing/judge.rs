//! Whether what policies promise of a domain holds. Pure: the time is handed in.
//!
//! Invariants
//! - A store that could not be asked is never taken for one without points, nor for one with a good one.
//! - A point from the future is no proof of anything.

use std::time::Duration;

/// A point that is dated later than now by more than this was taken with a wrong clock, or this host's is wrong.
pub const AHEAD_MS_MAX: u64 = 60_000;

/// How it stands, the better before the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The newest good point is young enough.
    Kept,
    /// Its own metadata says that no policy is to take it.
    Excluded,
    /// Policies take it, and none says how old a point may get.
    NoRpo,
    /// No policy takes it.
    Unprotected,
    /// It cannot be told.
    Unknown,
    /// The newest good point is too old.
    Late,
    /// There is no good point.
    Never,
}

impl Standing {
    /// In JSON and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Excluded => "excluded",
            Self::NoRpo => "no-rpo",
            Self::Unprotected => "unprotected",
            Self::Unknown => "unknown",
            Self::Late => "late",
            Self::Never => "never",
        }
    }
}

/// What a store has of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The newest undamaged point.
    Point {
        /// Its id.
        id: String,
        /// Of when it is.
        time_unix_ms: u64,
    },
    /// None.
    Nothing,
    /// The store did not say; why.
    Silent(String),
}

/// One policy's promise for a domain in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Name of the policy.
    pub policy: String,
    /// Name of the store.
    pub store: String,
    /// How old the newest point may get.
    pub rpo: Option<Duration>,
}

/// Judges one. `off_since`: nothing has written to the domain from then on, as it is off.
pub fn claim(rpo: Option<Duration>, found: &Found, now_unix_ms: u64, off_since_unix_ms: Option<u64>) -> (Standing, Option<String>) {
    let Some(rpo) = rpo else { return (Standing::NoRpo, None) };
    let rpo_ms = u64::try_from(rpo.as_millis()).unwrap_or(u64::MAX);
    match found {
        Found::Silent(why) => (Standing::Unknown, Some(why.clone())),
        Found::Nothing => (Standing::Never, None),
        Found::Point { time_unix_ms, .. } if *time_unix_ms > now_unix_ms.saturating_add(AHEAD_MS_MAX) => {
            (Standing::Unknown, Some("its newest point is dated ahead of this host's clock; 'timedatectl' on both hosts".into()))
        }
        Found::Point { time_unix_ms, .. } if now_unix_ms.saturating_sub(*time_unix_ms) <= rpo_ms => (Standing::Kept, None),
        Found::Point { time_unix_ms, .. } if off_since_unix_ms.is_some_and(|since| *time_unix_ms >= since) => {
            (Standing::Kept, Some("off since before its newest point".into()))
        }
        Found::Point { .. } => (Standing::Late, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_000 * HOUR;

    #[test]
    fn a_promise_is_judged_by_the_newest_good_point() {
        let day = Some(Duration::from_secs(26 * 3600));
        let point = |time_unix_ms| Found::Point { id: "p".into(), time_unix_ms };
        for (rpo, found, off_since, standing) in [
            (day, point(NOW - 26 * HOUR), None, Standing::Kept),
            (day, point(NOW - 26 * HOUR - 1), None, Standing::Late),
            (day, point(NOW + 30_000), None, Standing::Kept),
            (day, point(NOW + HOUR), None, Standing::Unknown),
            (day, Found::Nothing, None, Standing::Never),
            (day, Found::Silent("gone".into()), None, Standing::Unknown),
            // Nobody can have written since.
            (day, point(NOW - 100 * HOUR), Some(NOW - 100 * HOUR), Standing::Kept),
            (day, point(NOW - 100 * HOUR), Some(NOW - 99 * HOUR), Standing::Late),
            (day, Found::Nothing, Some(0), Standing::Never),
            (None, Found::Nothing, None, Standing::NoRpo),
            (None, Found::Silent("gone".into()), None, Standing::NoRpo),
        ] {
            assert_eq!(claim(rpo, &found, NOW, off_since).0, standing, "{found:?} {off_since:?}");
        }
    }

    #[test]
    fn the_worst_counts() {
        let all = [Standing::Never, Standing::Late, Standing::Unknown, Standing::Unprotected, Standing::NoRpo, Standing::Kept];
        assert!(all.windows(2).all(|pair| pair[0] > pair[1]));
    }
}
