//! Rounds that another collection left open: decided ones are finished, those of dead collections are given up.

use super::{GcOptions, GcReport, round, rounds};
use crate::{Result, StoreError, store::Inner};
use cairn_store_format::gc::Pardon;
use std::collections::HashSet;

/// Closes what can be closed. Another collection that is alive makes this one end as busy: two at once are safe, but one's work would be in vain.
pub(super) fn settle(store: &Inner, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    for (n, stage) in rounds::stages(&store.platform.list("gc")?) {
        if stage.condemned && !stage.done {
            settle_round(store, n, stage.pardon, options, report)?;
        }
    }
    Ok(())
}

fn settle_round(store: &Inner, n: u64, decided: bool, options: &GcOptions, report: &mut GcReport) -> Result<()> {
    let condemned = match rounds::read_condemned(store, n) {
        Ok(Some(c)) => c,
        // Another collection has just retired it.
        Ok(None) => return Ok(()),
        Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => {
            tracing::warn!("{e}; round {n} cannot be finished, its packs are looked at anew");
            return round::decide(store, n, &Pardon::All).map(drop);
        }
        Err(e) => return Err(e),
    };
    let pardon = if decided {
        match rounds::read_pardon(store, n) {
            Ok(p) => p.unwrap_or(Pardon::All),
            Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) => {
                // Its collection may still delete by what it decided: the round stays open, so that nobody refers to its packs.
                tracing::warn!("{e}; round {n} stays as it is");
                return Ok(());
            }
            Err(e) => return Err(e),
        }
    } else {
        let gone = store.platform.is_gone(&condemned.process);
        let (boot, now) = (store.platform.boot(), store.platform.monotonic_ms());
        if !gone && store.index.unchanged_ms(&format!("round-{n}"), 0, &boot, now)? < options.dead_after_ms {
            return Err(StoreError::Busy(format!(
                "a garbage collection of host {} is at work here (round {n}); try again when it has ended. If it has died, the round is given up after {} h without a result",
                condemned.host,
                options.dead_after_ms / 3_600_000
            )));
        }
        round::decide(store, n, &Pardon::All)?
    };
    let candidates: HashSet<_> = condemned.packs.into_iter().collect();
    round::finish(store, n, &candidates, &pardon, report)?;
    store.index.unwatch(&format!("round-{n}"))?;
    report.settled_rounds += 1;
    Ok(())
}
