//! NBD exports of our own on libvirt's NBD server (a QEMU process has only one).

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::bitmaps::BitmapRef;
use super::{Nothing, QmpError, execute, query};
use crate::domain::Domain;

/// Every export of ours has an id that begins so. Ids allow no ':'.
pub const ID_PREFIX: &str = "cairn-";
/// How long a deleted export may take to be gone.
pub const REMOVE_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Exports a node read-only with one bitmap.
///
/// # Errors
/// [`QmpError`].
pub fn add(domain: &Domain, id: &str, node: &str, name: &str, bitmap: &BitmapRef) -> Result<(), QmpError> {
    let arguments = serde_json::json!({
        "type": "nbd", "id": id, "node-name": node, "name": name, "writable": false, "bitmaps": [bitmap],
    });
    let _: Nothing = execute(domain, "block-export-add", &arguments)?;
    Ok(())
}

/// Ids of our exports that exist now.
///
/// # Errors
/// [`QmpError`].
pub fn ours(domain: &Domain) -> Result<Vec<String>, QmpError> {
    #[derive(Deserialize)]
    struct Export {
        id: String,
    }
    let all: Vec<Export> = query(domain, "query-block-exports")?;
    Ok(all.into_iter().map(|export| export.id).filter(|id| id.starts_with(ID_PREFIX)).collect())
}

/// Deletes our exports and waits until QEMU lists them no more; false if some are still there after [`REMOVE_LIMIT`]. Asking is as good as the
/// BLOCK_EXPORT_DELETED event: QEMU sends it when the export leaves the list.
///
/// # Errors
/// [`QmpError`].
pub fn remove_ours(domain: &Domain) -> Result<bool, QmpError> {
    let start = Instant::now();
    let mut left = ours(domain)?;
    for id in &left {
        // "hard" disconnects what is left of our own clients; a refusal means it is on its way out already.
        let result: Result<Nothing, _> = execute(domain, "block-export-del", &serde_json::json!({"id": id, "mode": "hard"}));
        match result {
            Ok(_) | Err(QmpError::Refused { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    while !left.is_empty() && start.elapsed() < REMOVE_LIMIT {
        std::thread::sleep(POLL);
        left = ours(domain)?;
    }
    Ok(left.is_empty())
}
