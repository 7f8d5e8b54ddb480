//! Small objects of a point that are only ever added: each under the next free number, by create-if-absent.

use crate::{
    Result,
    platform::{Created, Durability},
    store::Inner,
};
use cairn_store_format::{ObjectName, SessionId, header::ObjectKind, name::parse_numbered};

/// Writes one, durable; its number, at least `number_min`. `None` where others took `tries_max` numbers meanwhile.
pub(super) fn create_next(
    store: &Inner,
    point: &SessionId,
    kind: ObjectKind,
    name: fn(&SessionId, u32) -> ObjectName,
    payload: &[u8],
    number_min: u32,
    tries_max: u32,
) -> Result<Option<u32>> {
    let used = store.platform.list(name(point, 0).dir())?;
    let next = used.iter().filter_map(|n| parse_numbered(n.file())).filter(|n| n.0 == *point).map(|n| n.1.saturating_add(1)).max().unwrap_or(0).max(number_min);
    for n in next..next.saturating_add(tries_max) {
        let bytes = store.keys.small_object(&*store.platform, kind, &point.0, n.into(), payload)?;
        if store.platform.create(&name(point, n), &bytes, Durability::Now)? == Created::New {
            return Ok(Some(n));
        }
    }
    Ok(None)
}
