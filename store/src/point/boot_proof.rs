//! Boot proofs of a point: the verdict in its log, the evidence (picture, console) in `v/`.
//!
//! Order: 1 evidence, under the next free number, by create-if-absent, durable · 2 the log entry that names it. If we die after 1: evidence that nobody
//! names; it goes with the point, as all evidence does once the point is forgotten and a collection tidies.
//! Must not: be read by listings; a picture is a thousand times as long as a log entry.

use super::{Point, numbered::create_next};
use crate::{Result, StoreError, store::Store};
use cairn_store_format::{
    ObjectName,
    boot_proof::{BootVerdict, Evidence},
    header::ObjectKind,
    limits::SMALL_BYTES_MAX,
    point_log::{Action, LogEntry},
};

/// Others that write evidence of the same point at the same moment; more tries than that mean something is wrong.
const TRIES_MAX: u32 = 100;

/// A boot proof as a point's log tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootProof {
    /// When it ended, Unix milliseconds by the clock of its host.
    pub time_unix_ms: u64,
    /// Host that it was made on.
    pub host: String,
    /// What came of it.
    pub verdict: BootVerdict,
}

impl Point {
    /// Boot proofs, oldest first. One whose words this version does not understand is left out.
    pub fn boot_proofs(&self) -> Vec<BootProof> {
        let read = |e: &LogEntry| Some(BootProof { time_unix_ms: e.time_unix_ms, host: e.host.clone(), verdict: BootVerdict::decode(&e.text).ok()? });
        self.log.iter().filter(|e| e.action == Action::BootProof).filter_map(read).collect()
    }
}

impl Store {
    /// Records a boot proof with its evidence, if there is any; the verdict as it was recorded.
    pub fn record_boot_proof(&self, point: &Point, verdict: &BootVerdict, evidence: &Evidence) -> Result<BootVerdict> {
        let mut verdict = verdict.clone();
        if !evidence.picture.is_empty() || !evidence.console.is_empty() {
            verdict.evidence = Some(self.add_evidence(point, evidence)?);
        }
        self.append(&point.id, Action::BootProof, &verdict.encode())?;
        Ok(verdict)
    }

    fn add_evidence(&self, point: &Point, evidence: &Evidence) -> Result<u32> {
        let number = create_next(&self.inner, &point.id, ObjectKind::Evidence, ObjectName::evidence, &evidence.encode(), 0, TRIES_MAX)?;
        number.ok_or_else(|| StoreError::Busy(format!("evidence of point {} is written by others all the time; try again", point.id)))
    }

    /// Evidence of a boot proof by its number; `None` where it is gone.
    pub fn evidence(&self, point: &Point, number: u32) -> Result<Option<Evidence>> {
        let (store, name) = (&*self.inner, ObjectName::evidence(&point.id, number));
        let Some(bytes) = store.platform.read(&name, SMALL_BYTES_MAX)? else { return Ok(None) };
        let payload = store.keys.open_object(&name, ObjectKind::Evidence, &point.id.0, number.into(), &bytes)?;
        Evidence::decode(&payload).map(Some).map_err(|e| StoreError::damaged(&name, e))
    }
}
