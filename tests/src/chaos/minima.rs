//! How much must have happened: a chaos in which nobody saved, restored, killed, forgot or collected holds every promise, and proves nothing.
//!
//! The minima are for a machine that is busy with other things at a higher priority, and scale with the length. A store that grows makes collections rare: a
//! minute on two cores with a load of ten had 152 backups, 77 restores, 11 verifications, 78 kills, 122 lists, 26 forgets and prunes, 21 collections; ten
//! minutes of an hour at low priority with a load of 10 to 17 had 792, 221, 40, 793, 661, 113 and 14.

use super::verdict::Op;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a minimum counts.
struct Minimum {
    what: &'static str,
    /// In ten minutes of chaos.
    in_ten_minutes: u64,
    counts: fn(Op, &str) -> bool,
}

const MINIMA: [Minimum; 7] = [
    Minimum { what: "backups that were done", in_ten_minutes: 80, counts: |op, end| op == Op::Backup && end == "done" },
    Minimum { what: "restores that were compared", in_ten_minutes: 30, counts: |op, end| op == Op::Restore && end == "done" },
    Minimum { what: "verifications that were done", in_ten_minutes: 4, counts: |op, end| matches!(op, Op::VerifyAll | Op::VerifyName) && end == "done" },
    Minimum { what: "commands that were killed", in_ten_minutes: 80, counts: |_, end| end == "killed" },
    Minimum { what: "lists", in_ten_minutes: 80, counts: |op, end| op == Op::List && end == "done" },
    Minimum { what: "forgets and prunes that were done", in_ten_minutes: 12, counts: |op, end| matches!(op, Op::Forget | Op::Prune) && end == "done" },
    Minimum { what: "collections that were done", in_ten_minutes: 2, counts: |op, end| matches!(op, Op::Gc | Op::GcImpatient) && end == "done" },
];

/// What there was too little of in a chaos of this length.
#[must_use]
pub fn lacking(tally: &BTreeMap<(Op, String), u64>, length: Duration) -> Vec<String> {
    let mut out = Vec::new();
    for minimum in &MINIMA {
        let seen: u64 = tally.iter().filter(|((op, end), _)| (minimum.counts)(*op, end)).map(|(_, n)| n).sum();
        let wanted = (minimum.in_ten_minutes * length.as_secs()).div_ceil(600);
        if seen < wanted {
            out.push(format!(
                "too little happened to prove anything: {seen} {} in {} s of chaos, at least {wanted} are wanted (give it more of the machine, or more time)",
                minimum.what,
                length.as_secs()
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chaos_in_which_nothing_happens_is_no_proof() {
        let length = Duration::from_secs(600);
        let busy: BTreeMap<(Op, String), u64> = [Op::Backup, Op::Restore, Op::VerifyAll, Op::List, Op::Forget, Op::Gc]
            .into_iter()
            .map(|op| ((op, "done".to_owned()), 100))
            .chain([((Op::Backup, "killed".to_owned()), 100)])
            .collect();
        assert_eq!(lacking(&busy, length), [""; 0]);
        assert_eq!(lacking(&BTreeMap::new(), length).len(), MINIMA.len());
        for gone in busy.keys() {
            let mut less = busy.clone();
            less.remove(gone);
            assert_eq!(lacking(&less, length).len(), 1, "without {gone:?}");
        }
        assert!(lacking(&busy, length * 10).len() > 2, "a longer one wants more");
    }
}
