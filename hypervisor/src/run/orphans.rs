//! Copies that libvirt has forgotten: when libvirtd dies while a copy begins or ends, QEMU may go on with a job or keep an image open that libvirt,
//! started again, does not know of. The image then cannot be made anew ("Failed to get write lock").
//!
//! What it must not do: touch a job or an image that libvirt knows of; so it is called only where libvirt says that the disk has no job.

use serde::{Deserialize, Serialize};

use crate::domain::Domain;
use crate::qmp::{self, Nothing, QmpError};

#[derive(Deserialize)]
struct Job {
    id: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Node {
    node_name: Option<String>,
    drv: String,
    file: String,
}

#[derive(Serialize)]
struct Cancel<'a> {
    device: &'a str,
    force: bool,
}

#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Named<'a> {
    node_name: &'a str,
}

#[derive(Serialize)]
struct Flat {
    flat: bool,
}

impl Domain {
    /// Ends forgotten copies of a disk and closes forgotten images at `path`; tells how many things there were. What has only been asked to end is
    /// gone at one of the next calls.
    ///
    /// # Errors
    /// [`QmpError`]; among them that something is still in use.
    pub fn drop_forgotten_copy(&self, target: &str, path: &str) -> Result<usize, QmpError> {
        let mut found = 0;
        let jobs: Vec<Job> = qmp::query(self, "query-jobs")?;
        // libvirt's name for such a job: copy-<target>-<node>.
        for job in jobs.iter().filter(|job| job.id.starts_with(&format!("copy-{target}-"))) {
            found += 1;
            let _: Nothing = if job.status == "concluded" {
                qmp::execute(self, "job-dismiss", &Id { id: &job.id })?
            } else {
                qmp::execute(self, "block-job-cancel", &Cancel { device: &job.id, force: true })?
            };
        }
        if found > 0 {
            return Ok(found);
        }
        let mut nodes: Vec<Node> = qmp::execute(self, "query-named-block-nodes", &Flat { flat: true })?;
        nodes.retain(|node| node.file == path);
        // The format lies on top of the file.
        nodes.sort_by_key(|node| matches!(node.drv.as_str(), "file" | "host_device"));
        for name in nodes.iter().filter_map(|node| node.node_name.as_deref()) {
            found += 1;
            let _: Nothing = qmp::execute(self, "blockdev-del", &Named { node_name: name })?;
        }
        Ok(found)
    }
}
