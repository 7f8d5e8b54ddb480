//! A reader's pin: while it beats, no collection takes the packs of the points it names, forgotten or not.
//!
//! Order: 1 the record with its pins, durable · 2 a fresh look that the points are not forgotten. A collection reads tombstones first and pins
//! second (G1), so one of both sees the other.

use super::record::Registered;
use crate::{Result, StoreError, store::Store};
use cairn_store_format::{ObjectName, SessionId, gc::SessionKind};
use std::collections::BTreeSet;

/// Holds points; dropped, it lets them go.
pub struct Pin {
    _registered: Option<Registered>,
}

impl Store {
    /// Pins points for as long as the result lives. Where this host may not write to the store, nothing is pinned and a warning says so:
    /// it must be able to restore all the same.
    pub fn pin(&self, points: &[SessionId]) -> Result<Pin> {
        let pin = self.pin_held(points)?;
        let months: BTreeSet<String> = points.iter().map(SessionId::month).collect();
        for month in months {
            let forgotten = self.inner.platform.list(&format!("f/{month}"))?;
            if let Some(gone) = points.iter().find(|p| forgotten.contains(&ObjectName::tombstone(p))) {
                return Err(StoreError::NotFound(format!("point {gone} was forgotten meanwhile")));
            }
        }
        Ok(pin)
    }

    /// Pins points that the caller has held before, by a process of its own that died: such a pin counts until a collection finds it silent for a
    /// day, so the points may have been forgotten meanwhile and their data is there all the same. What is not there any more fails to be read.
    pub fn pin_held(&self, points: &[SessionId]) -> Result<Pin> {
        let registered = match Registered::new(&self.inner, SessionKind::Read, points.to_vec()) {
            Ok(r) => Some(r),
            Err(e @ StoreError::Storage { .. }) => {
                tracing::warn!("{e}; reading goes on without a pin: a garbage collection elsewhere may take what is forgotten meanwhile");
                None
            }
            Err(e) => return Err(e),
        };
        Ok(Pin { _registered: registered })
    }
}
