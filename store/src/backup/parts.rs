//! Parts that a parent point has already: an initrd of 100 MB is stored once, not with each point.
//!
//! Invariants, the same as of a disk's unchanged chunks
//! - Only parts of this point's parents are taken over: they are committed and not forgotten as of B3, so no collection takes their packs.
//! - The place is read in the pack's own footer in this session, and no report calls it bad. What is doubtful is stored anew.

use crate::session::Session;
use cairn_store_format::{map::Ref, register::Parent};
use std::collections::HashMap;

/// Reference and secrecy of each part of the parents, by name. A parent whose manifest cannot be read has none.
pub(super) fn known(session: &Session, parents: &[Parent]) -> HashMap<String, (Ref, bool)> {
    let mut out = HashMap::new();
    for parent in parents {
        let Some(manifest) = session.point(&parent.session).and_then(|p| crate::point::manifest(&session.store, p).ok()) else { continue };
        for (name, part) in &manifest.parts {
            if let Ok(r) = part.to_ref()
                && session.holds(&r)
            {
                out.insert(name.clone(), (r, part.secret));
            }
        }
    }
    out
}
