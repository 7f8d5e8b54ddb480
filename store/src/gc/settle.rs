//! Rounds that another collection left open: decided ones are finished, those of dead collections are given up.

use super::{GcOptions, GcReport, round, rounds};
use crate::{Result, StoreError, store::Inner};
use cairn_store_format::{
    ObjectName,
    gc::{Condemned, Spared},
};
use std::collections::HashSet;

/// In a pardon: it decides no list.
const NO_LIST: [u8; 32] = [0; 32];

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
        Err(e) if rounds::is_unreadable(store, &e)? => {
            tracing::warn!("{e}; round {n} cannot be finished, its packs are looked at anew");
            return give_up(store, n);
        }
        Err(e) => return Err(e),
    };
    let spared = if decided {
        match rounds::spared_of(store, n, &condemned) {
            Ok(s) => s.unwrap_or(Spared::All),
            Err(e) if rounds::is_unreadable(store, &e)? => {
                // Its collection may still delete by what it decided: the round stays open, so that nobody refers to its packs.
                tracing::warn!(
                    "{e}; round {n} stays as it is, and backups store known chunks again. Once no collection runs on any host, remove {}",
                    ObjectName::condemned(n)
                );
                return Ok(());
            }
            Err(e) => return Err(e),
        }
    } else {
        let gone = store.platform.is_gone(&condemned.list.process);
        let (boot, now) = (store.platform.boot(), store.platform.monotonic_ms());
        if !gone && store.index.unchanged_ms(&format!("round-{n}"), 0, &boot, now)? < options.dead_after_ms {
            return Err(StoreError::Busy(format!(
                "a garbage collection of host {} is at work here (round {n}); try again when it has ended. If it has died, the round is given up after {} without a result",
                condemned.list.host,
                crate::point::hours(options.dead_after_ms)
            )));
        }
        round::decide(store, n, &condemned, Spared::All)?
    };
    let candidates: HashSet<_> = condemned.list.packs.into_iter().collect();
    round::finish(store, n, &candidates, &spared, report)?;
    store.index.unwatch(&format!("round-{n}"))?;
    report.settled_rounds += 1;
    Ok(())
}

/// A list that nobody can read is given up by a pardon that names no list. If that pardon is what stands there, nobody will ever delete by this round,
/// and the list can go at once; else its own collection may be at it, and everything stays condemned until somebody looks.
fn give_up(store: &Inner, n: u64) -> Result<()> {
    let unreadable = rounds::Listed { list: Condemned { host: String::new(), process: String::new(), time_unix_ms: 0, packs: Vec::new() }, sha256: NO_LIST };
    let pardon = round::decide(store, n, &unreadable, Spared::All).and_then(|_| rounds::read_pardon(store, n));
    let given_up = match pardon {
        Ok(p) => p.is_some_and(|p| p.list_sha256 == NO_LIST),
        // It decides the round, whatever it says; other rounds go on.
        Err(e) if rounds::is_unreadable(store, &e)? => false,
        Err(e) => return Err(e),
    };
    let condemned = ObjectName::condemned(n);
    if given_up {
        round::deleting(store)?.delete(&condemned)?;
    } else {
        tracing::warn!(
            "{condemned} cannot be read and {} decides its round, by which some collection may still delete: until they are gone, backups store known \
             chunks again. Once no collection runs on any host, remove {condemned}",
            ObjectName::pardon(n)
        );
    }
    Ok(())
}
