//! Transactions over dirty bitmaps: all disks or none.

use serde::Serialize;

use super::{Nothing, QmpError, execute};
use crate::domain::Domain;

/// Bytes per bit, always: bitmaps of different granularity would make unions coarser than they need to be.
pub const GRANULARITY_BYTES: u32 = 65536;

/// One action on bitmaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum BitmapAction {
    /// Add.
    BlockDirtyBitmapAdd {
        /// Node.
        node: String,
        /// Bitmap.
        name: String,
        /// Bytes per bit.
        granularity: u32,
        /// Stored in the image (qcow2 version 3).
        persistent: bool,
        /// Does not record.
        disabled: bool,
    },
    /// Remove.
    BlockDirtyBitmapRemove {
        /// Node.
        node: String,
        /// Bitmap.
        name: String,
    },
    /// Merge others into one.
    BlockDirtyBitmapMerge {
        /// Node of the target.
        node: String,
        /// Bitmap that grows.
        target: String,
        /// What is merged.
        bitmaps: Vec<BitmapRef>,
    },
}

/// A bitmap on any node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BitmapRef {
    /// Node.
    pub node: String,
    /// Bitmap.
    pub name: String,
}

#[derive(Serialize)]
struct Actions<'a> {
    actions: &'a [BitmapAction],
}

/// Runs all actions or none. Nothing is sent for an empty list.
///
/// # Errors
/// [`QmpError`].
pub fn transaction(domain: &Domain, actions: &[BitmapAction]) -> Result<(), QmpError> {
    if actions.is_empty() {
        return Ok(());
    }
    let _: Nothing = execute(domain, "transaction", &Actions { actions })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_what_qemu_expects() {
        let add =
            BitmapAction::BlockDirtyBitmapAdd { node: "n".to_owned(), name: "b".to_owned(), granularity: GRANULARITY_BYTES, persistent: true, disabled: false };
        let text = serde_json::to_value(Actions { actions: &[add] }).expect("JSON");
        let expected = serde_json::json!({"actions": [{"type": "block-dirty-bitmap-add",
            "data": {"node": "n", "name": "b", "granularity": 65536, "persistent": true, "disabled": false}}]});
        assert_eq!(text, expected);
    }
}
