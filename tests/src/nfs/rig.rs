//! A server, two clients and a store on the mount, and what every suite asks of them.
//!
//! Images are made of numbered noise and named by what they are made of, so that each point of a list can be compared
//! with its image on any client, whoever saved it. Functions here panic on failure, as tests do.

use crate::cairn::{self, Cairn};
use crate::domain::Exec;
use crate::lab::Lab;
use crate::nfs::client::{Client, EXEC_LIMIT, MOUNTED, Running};
use crate::nfs::server::{Server, Setup};
use crate::{initramfs, process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const INIT: &str = include_str!("../../guest/nfs-init.sh");
const MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "virtio_net", "nfsv4"];
const MIB: u64 = 1 << 20;
/// Nothing is kept back for later, and who is silent for five seconds is dead.
pub const GC_NOW: &str = "gc --keep-interrupted 0s --keep-trash 0s --dead-after 5s --even-if-alive --wait 120s";

/// An image: its first half is shared by all of the same `common`, the other is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// Seed of the first half.
    pub common: u64,
    /// Seed of the second half.
    pub own: u64,
    /// Size.
    pub mib: u64,
}

impl Image {
    /// The name under which it is saved.
    #[must_use]
    pub fn name(&self) -> String {
        format!("image-{}-{}-{}", self.common, self.own, self.mib)
    }

    /// What a name says.
    ///
    /// # Panics
    /// It is no name of ours.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let numbers: Vec<u64> = name.split('-').skip(1).map(|part| part.parse().expect("a number")).collect();
        Self { common: numbers[0], own: numbers[1], mib: numbers[2] }
    }

    /// A script that writes it to `path`.
    #[must_use]
    pub fn script(&self, path: &str) -> String {
        let half = self.mib * MIB / 2;
        let noise = "/bin/lab-guest __lab-guest noise";
        format!("rm -f {path} && {noise} {path} 0 {half} {} && {noise} {path} {half} {half} {}", self.common, self.own)
    }
}

/// Both clients, mounted.
#[derive(Debug)]
pub struct Rig {
    /// The server.
    pub server: Server,
    /// Its clients.
    pub clients: Vec<Client>,
    lab: Lab,
    boot: PathBuf,
}

impl Rig {
    /// Starts everything and mounts the export on both clients. `helper` is the program `cairn-lab`, `test` the suite itself.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(lab: &Lab, helper: &str, setup: Setup) -> Self {
        let begin = Instant::now();
        let boot = lab.folder().join("boot");
        let test = std::env::current_exe().expect("a running test has a path");
        let cairn = lab.cairn().expect("a program under test");
        let agent = initramfs::guest_agent().expect("qemu-guest-agent");
        let programs = [("qemu-ga", agent), ("lab-guest", PathBuf::from(helper)), ("cairn", cairn), ("suite", test)];
        initramfs::write(&boot, &initramfs::Content { init: INIT, modules: &MODULES, scripts: &[], programs: &programs }).expect("initramfs");
        let server = Server::start(&lab.dir(), setup).expect("NFS server");
        let mut rig = Self { server, clients: Vec::new(), lab: lab.clone(), boot };
        rig.clients = std::thread::scope(|scope| {
            let starting: Vec<_> = ["one", "two"].map(|name| scope.spawn(|| rig.boot(name))).into();
            starting.into_iter().map(|thread| thread.join().expect("a client")).collect()
        });
        println!("server and two clients after {:.1} s", begin.elapsed().as_secs_f64());
        rig
    }

    fn boot(&self, name: &str) -> Client {
        let client = Client::start(&self.lab.dir(), &self.boot, name).expect("a client");
        println!("{}", client.mount(self.server.port(), "hard").expect("mount").trim());
        client
    }

    /// Cuts a client's power and starts it again, with nothing of what it had in memory.
    ///
    /// # Panics
    /// It does not come up again.
    pub fn reboot(&mut self, index: usize) {
        self.clients[index] = self.boot(self.clients[index].name());
    }

    /// The store as the host sees it, beside NFS.
    ///
    /// # Panics
    /// `CAIRN` names no program.
    #[must_use]
    pub fn on_host(&self) -> Cairn {
        let export = self.server.export();
        Cairn::new(&self.lab, "unused").expect("a program under test").with_store(export.join("store")).with_key(export.join("main.key"))
    }

    /// Starts the program on a client.
    ///
    /// # Panics
    /// The agent does not answer.
    #[must_use]
    pub fn spawn(&self, index: usize, args: &str) -> Running {
        self.clients[index].spawn(&cairn_script(args)).expect("starts")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It hangs.
    #[must_use]
    pub fn wait(&self, index: usize, running: &Running) -> Exec {
        self.clients[index].wait(running, EXEC_LIMIT).expect("it ends")
    }

    /// Runs the program on a client; gives its output.
    ///
    /// # Panics
    /// Any exit code but 0.
    pub fn cairn(&self, index: usize, args: &str) -> String {
        self.clients[index].sh(&cairn_script(args)).expect("cairn")
    }

    /// A script that makes an image and saves it.
    #[must_use]
    pub fn backup_script(image: &Image) -> String {
        let (name, path) = (image.name(), format!("/tmp/{}", image.name()));
        format!("{} && {}; code=$?; rm -f {path}; exit $code", image.script(&path), cairn_script(&format!("backup-image {path} --name {name}")))
    }

    /// Saves an image from a client.
    ///
    /// # Panics
    /// It fails.
    pub fn backup(&self, index: usize, image: &Image) {
        self.clients[index].sh(&Self::backup_script(image)).expect("backup");
    }

    /// Id and image of each point, oldest first, as a client lists them.
    ///
    /// # Panics
    /// `cairn list` fails.
    #[must_use]
    pub fn points(&self, index: usize) -> Vec<(String, Image)> {
        let list: Value = serde_json::from_str(&self.cairn(index, "list --json")).expect("JSON");
        let field = |point: &Value, key| cairn::text(point, key).expect("a text");
        list.as_array().expect("a list").iter().map(|point| (field(point, "id"), Image::of(&field(point, "name")))).collect()
    }

    /// Restores each listed point on both clients in turn and compares it with its image; gives their number.
    ///
    /// # Panics
    /// The clients list different points, or any byte differs.
    pub fn assert_points(&self) -> usize {
        let points = self.points(0);
        assert_eq!(points, self.points(1), "both clients list the same points");
        std::thread::scope(|scope| {
            for index in 0..2 {
                let mine = points.iter().skip(index).step_by(2);
                scope.spawn(move || mine.for_each(|(id, image)| self.assert_restores(index, id, image)));
            }
        });
        points.len()
    }

    /// Restores a point on a client and compares it with its image.
    ///
    /// # Panics
    /// Any byte differs.
    pub fn assert_restores(&self, index: usize, id: &str, image: &Image) {
        let (restored, expected) = (format!("/tmp/{id}.raw"), format!("/tmp/{id}.expected"));
        let restore = cairn_script(&format!("restore {id} --disk disk0={restored} --format raw"));
        let script = format!("{} && {restore} && cmp {restored} {expected} && rm {restored} {expected}", image.script(&expected));
        self.clients[index].sh(&script).unwrap_or_else(|error| panic!("point {id} of {}: {}", image.name(), error.report()));
    }

    /// The end of a suite: whole for the host as well; collected, nothing of interrupted work is left; all forgotten, no pack is left.
    ///
    /// # Panics
    /// Not so.
    pub fn assert_clean_end(&self) {
        self.cairn(1, GC_NOW);
        let again: Value = serde_json::from_str(&self.cairn(0, &format!("{GC_NOW} --dry-run --json"))).expect("JSON");
        assert_eq!((&again["condemned"], &again["would_free"]), (&0.into(), &0.into()), "a collection right after one finds something: {again}");
        let said = self.on_host().ok(&["verify", "--all", "--data"]).expect("verify");
        println!("verified on the host: {}", said.lines().last().unwrap_or_default());
        self.on_host().ok(&["verify", "--packs"]).expect("verify");
        let ids: Vec<String> = self.points(0).into_iter().map(|(id, _)| id).collect();
        if !ids.is_empty() {
            self.cairn(0, &format!("forget --force {}", ids.join(" ")));
        }
        self.cairn(1, GC_NOW);
        // Temporary files of the dead go by age.
        std::thread::sleep(Duration::from_secs(6));
        self.cairn(0, GC_NOW);
        let left = files(&self.server.export().join("store"), &["d", "m", "x", "trash"]);
        assert!(left.is_empty(), "nothing refers to these, and they were not collected: {left:?}");
        let temporary: Vec<_> = files(&self.server.export().join("store"), &["."]).into_iter().filter(|path| is_temporary(path)).collect();
        assert!(temporary.is_empty(), "{temporary:?}");
    }
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn cairn_script(args: &str) -> String {
    format!("CAIRN_STORE={MOUNTED}/store CAIRN_KEY_FILE={MOUNTED}/main.key cairn -q {args}")
}

/// All files below some folders of a store, as the host sees them.
fn files(store: &Path, roots: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = roots.iter().map(|root| store.join(root)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Asks until a condition holds.
///
/// # Panics
/// It does not within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    process::wait_for(what, limit, Duration::from_millis(20), || Ok(holds().then_some(()))).expect("in time");
}
