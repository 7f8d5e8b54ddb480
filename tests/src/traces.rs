//! What a backup may leave in QEMU and what it must not: looked up through the monitor, by names alone.

use crate::domain::Domain;
use crate::error::Result;
use serde_json::{Value, json};

/// Beginning of every bitmap and export name of ours.
const OURS: &str = "cairn";

/// Everything of a backup that is visible in a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// Our bitmaps as (node, name), each once.
    pub bitmaps: Vec<(String, String)>,
    /// Exports of QEMU's NBD server, whoever made them.
    pub exports: Vec<String>,
    /// Jobs of QEMU, whoever made them.
    pub jobs: Vec<String>,
    /// Whether libvirt shows a job on the domain.
    pub libvirt_job: bool,
}

impl Traces {
    /// True when nothing is left but at most `bitmaps_max` bitmaps (the trackers of committed points).
    #[must_use]
    pub fn only_bitmaps(&self, bitmaps_max: usize) -> bool {
        self.exports.is_empty() && self.jobs.is_empty() && !self.libvirt_job && self.bitmaps.len() <= bitmaps_max
    }
}

/// Looks at a running domain.
///
/// # Errors
/// The monitor does not answer.
pub fn look(domain: &Domain) -> Result<Traces> {
    let mut bitmaps = Vec::new();
    for node in list(&domain.qmp("query-named-block-nodes", &json!({ "flat": true }))?) {
        for bitmap in list(&node["dirty-bitmaps"]) {
            let name = bitmap["name"].as_str().unwrap_or_default();
            if name.starts_with(OURS) {
                bitmaps.push((node["node-name"].as_str().unwrap_or_default().to_owned(), name.to_owned()));
            }
        }
    }
    let names = |value: &Value, key: &str| list(value).iter().map(|item| item[key].as_str().unwrap_or("?").to_owned()).collect();
    let exports = names(&domain.qmp("query-block-exports", &Value::Null)?, "id");
    let jobs = names(&domain.qmp("query-jobs", &Value::Null)?, "id");
    let info = domain.virsh_ok(&["domjobinfo", domain.name()])?;
    let libvirt_job = info.lines().any(|line| line.starts_with("Job type:") && !line.contains("None"));
    Ok(Traces { bitmaps, exports, jobs, libvirt_job })
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}
