//! JSON shapes that scripts rely on (docs/command-line.md). Keys are only ever added.

use crate::failure::Outcome;
use cairn_store::{
    Damage, Point, PointState, Store,
    format::register::{DiskEntry, DiskMode},
};
use jiff::Timestamp;
use serde_json::{Value, json};

/// RFC 3339 in UTC.
pub fn rfc3339(unix_ms: u64) -> Value {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).map_or(Value::Null, |t| t.to_string().into())
}

/// A disk of a point; sizes in bytes.
pub fn disk_json(d: &DiskEntry) -> Value {
    let mode = match d.mode {
        DiskMode::Full => "full",
        DiskMode::Incremental => "incremental",
        DiskMode::Compare => "compare",
    };
    json!({
        "target": d.target, "size": d.size_bytes, "read": d.read_bytes, "changed": d.changed_bytes, "stored": d.stored_bytes,
        "mode": mode, "reason": d.reason, "root": d.root.map(|r| r.id.to_string()),
    })
}

/// Damaged ranges of disks.
pub fn damage_json(damage: &[Damage]) -> Value {
    damage.iter().map(|d| json!({"target": d.target, "offset": d.offset, "length": d.len, "why": d.why})).collect()
}

/// A point; the same object in `list` and `show`.
pub fn point_json(store: &Store, p: &Point) -> Outcome<Value> {
    let state = match p.state() {
        PointState::Good => "good",
        PointState::Damaged => "damaged",
        PointState::Unverified => "unverified",
    };
    let s = &p.summary;
    let disks: Vec<Value> = store.disks(p)?.iter().map(disk_json).collect();
    Ok(json!({
        "id": p.id.to_string(), "name": s.name, "time": rfc3339(s.time_unix_ms), "parent": p.body.parents.first().map(|x| x.session.to_string()),
        "quiesce": s.quiesce, "tags": p.tags(), "protected": p.is_protected(), "state": state, "duration_ms": s.duration_ms,
        "size": s.size_bytes, "read": s.read_bytes, "changed": s.changed_bytes, "stored": s.stored_bytes, "warning_count": s.warnings, "host": s.host, "note": p.note(), "disks": disks,
        "boot": p.boot_proofs().last().map(super::boot_proof_json),
    }))
}
