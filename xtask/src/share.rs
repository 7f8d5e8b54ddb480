//! What a test run takes: everything, or, where `CAIRN_SHARE` says so, the first tier and one share of the second. All of it takes most of an hour on two
//! cores, which is more than a change can wait for its gates: they ask for the share of the day, so that all has run after three days.

use crate::error::{Error, Result};
use std::time::{SystemTime, UNIX_EPOCH};

/// Says which share: `today` or its number. Unset: all.
const VARIABLE: &str = "CAIRN_SHARE";
const SHARES: u64 = 3;
const DAY_S: u64 = 24 * 3600;
/// A share takes every third test of each of these, so that none with three tests or more is left out for a day. Suites with a guest that go deep where those of the first tier go along the main ways. Names of files in `tests/tests`.
const SECOND_TIER: [&str; 24] = [
    "accidents_daemon",
    "accidents_offline",
    "boot_proof",
    "chains",
    "crash",
    "disk_acts",
    "disk_kinds",
    "doctor",
    "in_place",
    "libvirt_api",
    "many_hosts",
    "migration",
    "nfs",
    "nfs_caches",
    "offline",
    "other_host",
    "rbd",
    "recover_host",
    "run_keep",
    "run_kills",
    "run_power",
    "runbook",
    "standing",
    "wrong_input",
];

/// The arguments of each invocation of nextest.
pub fn invocations() -> Result<Vec<Vec<String>>> {
    let asked = std::env::var(VARIABLE).ok();
    Ok(match share(asked.as_deref(), day())? {
        None => vec![Vec::new()],
        Some(share) => {
            eprintln!("xtask: the first tier, and share {share} of {SHARES} of the second (without {VARIABLE}: everything)");
            let second = second_tier();
            vec![vec!["-E".to_owned(), format!("not ({second})")], vec!["-E".to_owned(), second, "--partition".to_owned(), format!("count:{share}/{SHARES}")]]
        }
    })
}

fn day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()) / DAY_S
}

/// Whether a run tries Ansible's role, which is no suite of nextest's but takes as long as one of the second tier: with the last share.
pub fn ansible() -> Result<bool> {
    let asked = std::env::var(VARIABLE).ok();
    Ok(share(asked.as_deref(), day())?.is_none_or(|share| share == SHARES))
}

/// Which share, from one on; none for all.
fn share(asked: Option<&str>, day: u64) -> Result<Option<u64>> {
    let wrong = |text: &str| Error::Usage(format!("{VARIABLE}={text:?}: give 'today', or a share from 1 to {SHARES}"));
    match asked {
        None => Ok(None),
        Some("today") => Ok(Some(day % SHARES + 1)),
        Some(text) => text.parse().ok().filter(|share| (1..=SHARES).contains(share)).map(Some).ok_or_else(|| wrong(text)),
    }
}

fn second_tier() -> String {
    let names: Vec<String> = SECOND_TIER.iter().map(|name| format!("binary(={name})")).collect();
    format!("package(cairn-lab) and ({})", names.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace;

    #[test]
    fn each_share_has_its_day() {
        let of_days: Vec<_> = (9..12).map(|day| share(Some("today"), day).expect("a share")).collect();
        assert_eq!(of_days, [Some(1), Some(2), Some(3)]);
        assert_eq!(share(None, 9).expect("valid"), None);
        assert_eq!(share(Some("2"), 9).expect("valid"), Some(2));
        for wrong in ["0", "4", "", "x"] {
            assert!(matches!(share(Some(wrong), 9), Err(Error::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_in_the_second_tier_is_there() {
        for name in SECOND_TIER {
            let path = workspace::root().join("tests/tests").join(format!("{name}.rs"));
            assert!(path.is_file(), "{} is no suite", path.display());
        }
    }
}
