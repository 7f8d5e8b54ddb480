//! The store's knowledge of points, as the hypervisor asks for it when it decides what each disk gets.

use super::saved::SavedDomain;
use cairn_hypervisor::{CarrierRecord, PointCatalog, PointStatus};
use cairn_store::{Point, PointState, Session, Store, format::SessionId};

/// Points as of the session's B3.
pub struct SessionCatalog<'a> {
    store: &'a Store,
    session: &'a Session,
}

impl<'a> SessionCatalog<'a> {
    /// For one session.
    pub fn new(store: &'a Store, session: &'a Session) -> Self {
        Self { store, session }
    }
}

fn carrier(store: &Store, point: &Point, ordinal: u32) -> Option<CarrierRecord> {
    let saved = match store.manifest(point) {
        Ok(m) => SavedDomain::of(&m)?,
        Err(e) => {
            // Not knowing the carrier means a full compare, which is always right.
            tracing::warn!("manifest of point {}: {e}", point.id);
            return None;
        }
    };
    saved.disks.iter().find(|d| d.ordinal == ordinal).map(super::SavedDisk::carrier)
}

impl PointCatalog for SessionCatalog<'_> {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        let id = SessionId(session);
        match self.session.points().iter().position(|p| p.id == id) {
            Some(i) if self.session.points()[i].state() == PointState::Damaged => PointStatus::Damaged,
            Some(i) => PointStatus::Usable { order: i as u64 },
            None if self.session.is_forgotten(&id) => PointStatus::Forgotten,
            // Another backup may have committed it after this session looked: then its bitmap must stay, though it is no base for us.
            None => match self.store.has_committed(&id) {
                Ok(false) => PointStatus::NotCommitted,
                Ok(true) => PointStatus::Unreachable,
                Err(e) => {
                    tracing::warn!("whether session {id} committed a point: {e}");
                    PointStatus::Unreachable
                }
            },
        }
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        carrier(self.store, self.session.point(&SessionId(session))?, ordinal)
    }
}

/// The same for who brings a disk back: points as they were listed. What is damaged of a point's data does not matter, only its map is needed; where
/// that cannot be read, whoever reads it finds out.
pub struct PointsCatalog<'a> {
    /// The store.
    pub store: &'a Store,
    /// Its points, oldest first.
    pub points: &'a [Point],
}

impl PointCatalog for PointsCatalog<'_> {
    fn status(&self, session: [u8; 16]) -> PointStatus {
        match self.points.iter().position(|p| p.id == SessionId(session)) {
            Some(i) => PointStatus::Usable { order: i as u64 },
            None => PointStatus::Forgotten,
        }
    }

    fn carrier(&self, session: [u8; 16], ordinal: u32) -> Option<CarrierRecord> {
        carrier(self.store, self.points.iter().find(|p| p.id == SessionId(session))?, ordinal)
    }
}
