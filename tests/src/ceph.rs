//! A Ceph cluster of one monitor and one OSD that keeps its objects in memory: enough for RBD images under real snapshots, within seconds.
//!
//! It listens on this lab's own addresses, wants no keys, and ends with the lab at the latest.
//!
//! Functions here panic on failure, as tests do.

use crate::process::{run_ok, wait_for};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);
/// The pool that `rbd` takes unless told otherwise.
pub const POOL: &str = "rbd";
/// Where the monitor listens, by its second protocol.
pub const PORT: u16 = 13_300;
const OLD_PORT: u16 = 16_789;
/// It is named in the files of a cluster and nowhere else.
const CLUSTER: &str = "ce900000-0000-4000-8000-000000000001";
const OSD: &str = "ce900000-0000-4000-8000-000000000002";

/// The running cluster.
#[derive(Debug)]
pub struct Ceph {
    folder: PathBuf,
    daemons: Vec<Child>,
}

impl Ceph {
    /// Starts one below `folder`, with a pool.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        for part in ["mon", "osd"] {
            fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        let mut ceph = Self { folder: folder.to_owned(), daemons: Vec::new() };
        fs::write(ceph.config(), ceph.settings()).expect("written");
        // QEMU reads it, as its own user.
        crate::folder::set_mode(&ceph.config(), 0o644).expect("our own file");
        let (map, addresses) = (folder.join("monmap"), format!("[v2:127.0.0.1:{PORT},v1:127.0.0.1:{OLD_PORT}]"));
        let map = map.to_string_lossy().into_owned();
        ceph.ok("monmaptool", &["--create", "--fsid", CLUSTER, "--addv", "a", &addresses, &map]);
        ceph.ok("ceph-mon", &["--mkfs", "-i", "a", "--monmap", &map]);
        ceph.daemon("ceph-mon", "a");
        let answers =
            || Ok(ceph.command("ceph", &["--connect-timeout", "5", "quorum_status"]).stdout(Stdio::null()).status().is_ok_and(|s| s.success()).then_some(()));
        wait_for("the monitor", LIMIT, POLL, answers).expect("it answers");
        let id = ceph.ok("ceph", &["osd", "new", OSD]).trim().to_owned();
        ceph.ok("ceph-osd", &["-i", &id, "--mkfs", "--osd-uuid", OSD]);
        ceph.ok("ceph", &["osd", "crush", "add", &format!("osd.{id}"), "1.0", "host=lab", "root=default"]);
        ceph.daemon("ceph-osd", &id);
        wait_for("the OSD", LIMIT, POLL, || Ok(ceph.ok("ceph", &["osd", "stat"]).contains("1 up").then_some(()))).expect("it comes up");
        ceph.ok("ceph", &["osd", "pool", "create", POOL, "8"]);
        ceph.rbd(&["pool", "init", POOL]);
        ceph
    }

    /// The file that clients are told.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("ceph.conf")
    }

    fn settings(&self) -> String {
        let folder = self.folder.display();
        format!(
            "[global]\nfsid = {CLUSTER}\nmon_host = [v2:127.0.0.1:{PORT},v1:127.0.0.1:{OLD_PORT}]\nauth_cluster_required = none\nauth_service_required = none\n\
             auth_client_required = none\nosd_pool_default_size = 1\nosd_pool_default_min_size = 1\nosd_crush_chooseleaf_type = 0\nmon_allow_pool_size_one = true\n\
             mon_data = {folder}/mon\nosd_data = {folder}/osd\nosd_objectstore = memstore\nmemstore_device_bytes = 1073741824\nmon_data_avail_warn = 1\n\
             mon_data_avail_crit = 1\n[mon]\nrun_dir = {folder}\nlog_file = {folder}/mon.log\n[osd]\nrun_dir = {folder}\nlog_file = {folder}/osd.log\n"
        )
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--conf").arg(self.config()).args(args).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn ok(&self, program: &str, args: &[&str]) -> String {
        run_ok(self.command(program, args).stderr(Stdio::piped()), LIMIT).unwrap_or_else(|e| panic!("{}", e.report()))
    }

    /// An order to `rbd`; what it says.
    pub fn rbd(&self, args: &[&str]) -> String {
        self.ok("rbd", args)
    }

    fn daemon(&mut self, program: &str, id: &str) {
        // In a group of its own: an interruption that is meant for a test is none of its.
        self.daemons.push(self.command(program, &["-i", id, "--foreground"]).stdout(Stdio::null()).process_group(0).spawn().expect("it starts"));
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // Gone already is as good.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}
