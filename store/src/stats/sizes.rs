//! What would be free if points went: their maps are taken away in memory, on paper as it were, and what nothing names any more is summed up.
//!
//! Costs what is the points' own: where a node is shared, its subtree is not looked at.

use super::{
    ledger::{Entry, Ledger, Place},
    moved::Moved,
};
use crate::Result;
use cairn_store_format::SessionId;
use std::collections::{HashMap, HashSet};

/// References that were taken away, by pack and by the places' positions on its shelf: 4 B a place of the packs concerned.
#[derive(Default)]
struct Taken(HashMap<i64, Vec<u32>>);

impl Taken {
    /// Takes one reference away; what it was, if that was the last.
    fn take(&mut self, ledger: &mut Ledger<'_>, place: Place) -> Result<Option<Entry>> {
        let Some((i, entry)) = ledger.entry(place)? else {
            ledger.broken = true;
            return Ok(None);
        };
        let taken = match self.0.get_mut(&place.pack()) {
            Some(t) => t,
            None => {
                let len = ledger.places_of(place.pack())?;
                self.0.entry(place.pack()).or_insert_with(|| vec![0; len])
            }
        };
        taken[i] += 1;
        Ok((taken[i] == entry.refs).then_some(entry))
    }

    /// Whether nothing names a place any more.
    fn is_free(&self, ledger: &mut Ledger<'_>, place: Place) -> Result<bool> {
        let Some((i, entry)) = ledger.entry(place)? else { return Ok(true) };
        Ok(self.0.get(&place.pack()).is_some_and(|t| t[i] == entry.refs))
    }
}

/// Bytes of frames that only these points use, together.
pub(super) fn freed_bytes(ledger: &mut Ledger<'_>, moved: &Moved, points: &[SessionId]) -> Result<u64> {
    let (mut taken, mut freed, mut touched) = (Taken::default(), 0, HashSet::new());
    for id in points {
        let Some(point) = ledger.point(id)? else { continue };
        let mut todo = point.children;
        while let Some(place) = todo.pop() {
            let Some(entry) = taken.take(ledger, place)? else { continue };
            if !moved.concerns(place) {
                freed += entry.bytes();
            } else if let Some(targets) = moved.targets(place) {
                touched.extend(targets.iter().map(|t| (t.place, t.bytes)));
            } else {
                touched.insert((place, entry.bytes()));
            }
            if !entry.is_chunk()
                && let Some(node) = ledger.node(place)?
            {
                todo.extend(node.children);
            }
        }
    }
    // What was moved is free once nothing that stands for it is named.
    for (place, bytes) in touched {
        let mut free = true;
        for name in moved.named_by(place) {
            free = free && taken.is_free(ledger, *name)?;
        }
        if free {
            freed += bytes;
        }
    }
    Ok(freed)
}
