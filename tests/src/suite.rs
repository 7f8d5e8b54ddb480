//! What the end-to-end suites share: a store, backups with exact references, the state of the guest afterwards.
//!
//! Functions here panic on failure, as tests do; the messages say what was expected.

use crate::cairn::{self, Cairn};
use crate::domain::Domain;
use crate::filesystem;
use crate::lab::Lab;
use crate::process::{Output, wait_for};
use crate::reference::{self, Pair};
use crate::traces;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Each of the two disks may keep one bitmap: the tracker of the last committed point.
pub const TRACKERS_MAX: usize = 2;
/// After its process was killed, all of a backup but its trackers is gone within this time.
pub const CLEAN_LIMIT: Duration = Duration::from_secs(15);

/// A lab with a store.
pub struct Suite {
    /// The lab.
    pub lab: Lab,
    /// `lab1`.
    pub domain: Domain,
    /// The program with a fresh store.
    pub cairn: Cairn,
}

/// A point and what it must restore to.
pub struct Kept {
    /// The point's id.
    pub id: String,
    /// Both disks as they were.
    pub reference: Pair,
}

impl Suite {
    /// Makes the store.
    ///
    /// # Panics
    /// `cairn init` fails.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        let cairn = Cairn::new(lab, "store").expect("a program under test");
        cairn.init().expect("cairn init");
        Self { lab: lab.clone(), domain: lab.domain(), cairn }
    }

    /// A new name in the lab's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }

    /// A backup while both file systems are mounted read-only, between two equal references.
    ///
    /// # Panics
    /// The backup fails, the disks changed meanwhile, or no point came of it.
    #[must_use]
    pub fn quiet_backup(&self, name: &str) -> Kept {
        self.domain.read_only(true).expect("read-only");
        let kept = self.still_backup(name, &["backup", self.domain.name()]);
        self.domain.read_only(false).expect("read-write");
        kept
    }

    /// A backup by these arguments while the caller keeps the disks still, between two equal references.
    ///
    /// # Panics
    /// The backup fails, the disks changed meanwhile, or no point came of it.
    #[must_use]
    pub fn still_backup(&self, name: &str, args: &[&str]) -> Kept {
        let folder = self.path(&format!("reference-{name}"));
        let before = reference::take(&self.domain, &folder.join("before")).expect("reference");
        let points = self.points();
        self.cairn.ok(args).expect("backup");
        let after = reference::take(&self.domain, &folder.join("after")).expect("reference");
        assert_eq!(before.difference(&after).expect("readable"), None, "the disks were to stay as they are");
        std::fs::remove_dir_all(folder.join("after")).expect("our own folder");
        let now = self.points();
        assert_eq!(now.len(), points.len() + 1, "one new point: {now:?} after {points:?}");
        assert_eq!(now[..points.len()], points, "points are listed oldest first");
        Kept { id: now.last().cloned().expect("one more than before"), reference: before }
    }

    /// The ids of the domain's points, oldest first.
    ///
    /// # Panics
    /// `cairn list` fails.
    #[must_use]
    pub fn points(&self) -> Vec<String> {
        self.cairn.points(self.domain.name()).expect("cairn list")
    }

    /// One point by `cairn show`.
    ///
    /// # Panics
    /// It fails.
    #[must_use]
    pub fn point(&self, id: &str) -> Value {
        self.cairn.point(id).expect("cairn show")
    }

    /// Restores a point and compares it with its reference.
    ///
    /// # Panics
    /// Any byte differs.
    pub fn assert_restores(&self, kept: &Kept) {
        let folder = self.path(&format!("restored-{}", kept.id));
        let restored = self.cairn.restore_raw(&kept.id, &folder).expect("restore");
        assert_eq!(kept.reference.difference(&restored).expect("readable"), None, "point {} restores to something else", kept.id);
        std::fs::remove_dir_all(&folder).expect("our own folder");
    }

    /// Restores disks of a point as raw files and compares each with what `qemu-img convert` makes of its image: (target, image, format).
    ///
    /// # Panics
    /// Any byte differs.
    pub fn assert_disks(&self, id: &str, images: &[(&str, &Path, &str)]) {
        let folder = self.path(&format!("disks-{id}"));
        std::fs::create_dir_all(&folder).expect("folder");
        let raw = |target: &str| folder.join(format!("{target}.raw"));
        let disks: Vec<String> = images.iter().map(|(target, ..)| format!("{target}={}", raw(target).display())).collect();
        let mut args = vec!["restore", id, "--format", "raw"];
        args.extend(disks.iter().flat_map(|disk| ["--disk", disk]));
        self.cairn.ok(&args).expect("restore");
        for (target, image, format) in images {
            let wanted = folder.join(format!("{target}.wanted"));
            reference::raw_copy(image, format, &wanted).expect("reference");
            assert_eq!(reference::difference(&wanted, &raw(target)).expect("readable"), None, "{target} of {id}");
        }
        std::fs::remove_dir_all(&folder).expect("our own folder");
    }

    /// Restores a point that was taken under the writer; gives the writer's counts.
    ///
    /// # Panics
    /// Not one point in time, damaged, or (when it says that it was frozen) not settled.
    pub fn assert_one_moment(&self, id: &str) -> (u64, u64) {
        let folder = self.path(&format!("moment-{id}"));
        let pair = self.cairn.restore_raw(id, &folder).expect("restore");
        let scratch = self.path("scratch");
        let counts = filesystem::check_journals(&pair.vda, &pair.vdb, &scratch).expect("one point in time");
        let frozen = quiesce(&self.point(id)) != "crash";
        for image in [&pair.vda, &pair.vdb] {
            let moment = filesystem::moment(image, &scratch).expect("ext4");
            assert!(moment.whole, "fsck finds errors in {}", image.display());
            assert!(moment.settled || !frozen, "{} is of a point that says it was frozen, and its journal is open", image.display());
        }
        std::fs::remove_dir_all(&folder).expect("our own folder");
        counts
    }

    /// Under the writer until now: the next backup is as good as any, and no point is of two moments.
    ///
    /// # Panics
    /// Not so.
    pub fn assert_goes_on(&self) {
        self.domain.writer_stop().expect("the writer ran all the time");
        self.cairn.ok(&["backup", "lab1"]).expect("backup");
        let points = self.points();
        assert_eq!(quiesce(&self.point(points.last().expect("a point"))), "filesystem");
        for id in &points {
            self.assert_one_moment(id);
        }
    }

    /// The backup after one that was ended without a thaw asks for no freeze, and says so (docs/adr/0023).
    ///
    /// # Panics
    /// Not so.
    pub fn assert_spared(&self) {
        let output = self.cairn.run(&["backup", self.domain.name()]).expect("it ends");
        assert_refused(&output, cairn::WARNINGS, "no freeze was asked for");
        let point = self.point(self.points().last().expect("a point"));
        let reason = point["source"]["quiesce"]["reason"].as_str().unwrap_or_default();
        assert!(quiesce(&point) == "crash" && reason.contains("no freeze was asked for"), "{point:#}");
    }

    /// The guest runs, is thawed and can write; QEMU carries nothing of ours but trackers; no scratch is left.
    ///
    /// # Panics
    /// Not so within `limit`.
    pub fn assert_left_alone(&self, limit: Duration) {
        let start = Instant::now();
        let state = || -> crate::Result<Result<(), String>> {
            let traces = traces::look(&self.domain)?;
            let (state, frozen) = (self.domain.state()?, self.domain.freeze_status()?);
            let scratch = scratch_files();
            let good = state == "running" && frozen == "thawed" && traces.only_bitmaps(TRACKERS_MAX) && scratch.is_empty();
            Ok(if good { Ok(()) } else { Err(format!("{state}, {frozen}, {traces:?}, scratch {scratch:?}")) })
        };
        let mut last = String::new();
        let done = wait_for("end of all that the backup left", limit, Duration::from_millis(200), || {
            Ok(match state() {
                Ok(Ok(())) => Some(()),
                Ok(Err(text)) => {
                    last = text;
                    None
                }
                Err(error) => {
                    last = error.report();
                    None
                }
            })
        });
        assert!(done.is_ok(), "after {:.1} s the guest is not left alone: {last}", start.elapsed().as_secs_f64());
        self.domain.sh("echo still here > /mnt/a/alive && sync && rm /mnt/a/alive").expect("the guest writes");
    }
}

/// Asserts an exit code and that the message names `word`; gives the message.
///
/// # Panics
/// Another code, or an unhelpful message.
pub fn assert_refused(output: &Output, code: i32, word: &str) -> String {
    let said = output.err_text();
    assert_eq!(output.code(), code, "stdout: {}\nstderr: {said}", output.text());
    assert!(said.contains(word), "the message should name {word:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A point's quiesce level: a text, or an object with the text in `level`.
///
/// # Panics
/// Neither.
#[must_use]
pub fn quiesce(point: &Value) -> String {
    let value = &point["quiesce"];
    value.as_str().or_else(|| value["level"].as_str()).unwrap_or_else(|| panic!("no quiesce in {point}")).to_owned()
}

/// The mode in which a disk of a point was read.
///
/// # Panics
/// The point has no such disk, or the disk no mode.
#[must_use]
pub fn mode(point: &Value, target: &str) -> String {
    cairn::text(cairn::disk(point, target).expect("a disk"), "mode").expect("a mode")
}

/// Files on the lab's disk whose name says that they are scratch of a backup.
fn scratch_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in ["/var/lib/libvirt", "/var/lib/cairn", "/run/cairn"] {
        collect(Path::new(root), 6, &mut found);
    }
    found
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 0 {
            collect(&entry.path(), depth - 1, found);
        } else if kind.is_file() && entry.file_name().to_string_lossy().contains("scratch") {
            found.push(entry.path());
        }
    }
}
