//! How much must have happened: a chaos in which nobody saved, restored, killed, forgot or collected holds every promise, and proves nothing.
//!
//! The minima are for a machine that is busy with other things at a higher priority; they scale with the length. A minute on two cores with a load of ten
//! had 152 backups, 77 restores, 11 verifications, 78 kills, 122 lists, 26 forgets and prunes, 21 collections.

use super::verdict::Op;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a minimum counts.
struct Minimum {
    what: &'static str,
    /// In a minute of chaos.
    a_minute: u64,
    counts: fn(Op, &str) -> bool,
}

const MINIMA: [Minimum; 7] = [
    Minimum { what: "backups that were done", a_minute: 15, counts: |op, end| op == Op::Backup && end == "done" },
    Minimum { what: "restores that were compared", a_minute: 8, counts: |op, end| op == Op::Restore && end == "done" },
    Minimum { what: "verifications that were done", a_minute: 1, counts: |op, end| matches!(op, Op::VerifyAll | Op::VerifyName) && end == "done" },
    Minimum { what: "commands that were killed", a_minute: 10, counts: |_, end| end == "killed" },
    Minimum { what: "lists", a_minute: 15, counts: |op, end| op == Op::List && end == "done" },
    Minimum { what: "forgets and prunes that were done", a_minute: 2, counts: |op, end| matches!(op, Op::Forget | Op::Prune) && end == "done" },
    Minimum { what: "collections that were done", a_minute: 3, counts: |op, end| matches!(op, Op::Gc | Op::GcImpatient) && end == "done" },
];

/// What there was too little of in a chaos of this length.
#[must_use]
pub fn lacking(tally: &BTreeMap<(Op, String), u64>, length: Duration) -> Vec<String> {
    let mut out = Vec::new();
    for minimum in &MINIMA {
        let seen: u64 = tally.iter().filter(|((op, end), _)| (minimum.counts)(*op, end)).map(|(_, n)| n).sum();
        let wanted = minimum.a_minute * length.as_secs() / 60;
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
        let minute = Duration::from_secs(60);
        let busy: BTreeMap<(Op, String), u64> = [Op::Backup, Op::Restore, Op::VerifyAll, Op::List, Op::Forget, Op::Gc]
            .into_iter()
            .map(|op| ((op, "done".to_owned()), 20))
            .chain([((Op::Backup, "killed".to_owned()), 20)])
            .collect();
        assert_eq!(lacking(&busy, minute), [""; 0]);
        assert_eq!(lacking(&BTreeMap::new(), minute).len(), MINIMA.len());
        for gone in busy.keys() {
            let mut less = busy.clone();
            less.remove(gone);
            assert_eq!(lacking(&less, minute).len(), 1, "without {gone:?}");
        }
        assert!(lacking(&busy, minute * 10).len() > 4, "ten minutes want more");
    }
}
