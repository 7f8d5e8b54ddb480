//! What is asked of a store with one damage: everything, in the order an admin might, from a new host and from one that has a cache.
//!
//! Invariants that are checked for every case:
//! - nothing panics; what opens lists and restores; a restore that succeeds gives the right bytes;
//! - no forgotten point is listed, and only the points that the case names may be missing or unreadable, each by an error that names the object;
//! - both scrubs name the object, unless the case says why they cannot;
//! - full, comparing and incremental backups commit points that restore, the first two also before anybody has read the damage; those and the next collection heal what they have a source for;
//! - a collection that refuses has deleted nothing; one that does not has deleted nothing that the undamaged store needs.

use super::{case::Case, home::Home};
use crate::zoo::{self, Disk, Living, Zoo, at_once};
use cairn_store::{
    GcOptions, Plan, Point, Progress, Store, StoreError,
    format::SessionId,
    scrub::{Finding, ScrubOptions, scrub_without_keys},
    verify::Verifier,
};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

const ALL: ScrubOptions = ScrubOptions { percent: 100, rate_bytes_max: None };

/// Of the regions of an object one of so many is flipped, unless CAIRN_DAMAGE_FULL is set: they stand beside each other in a list. All other damage is of a
/// kind of its own.
const SAMPLE: usize = 2;

/// Runs them; everything that was wrong.
pub fn run(zoo: &Zoo, cases: Vec<Case>) -> Vec<String> {
    let mut problems = Vec::new();
    let sample = if std::env::var_os("CAIRN_DAMAGE_FULL").is_some() { 1 } else { SAMPLE };
    let is_chosen = |(number, case): &(usize, Case)| number.is_multiple_of(sample) || !case.is_flip();
    for (_, case) in cases.into_iter().enumerate().filter(is_chosen) {
        let found = catch_unwind(AssertUnwindSafe(|| Trial::of(zoo, &case))).unwrap_or_else(|_| vec!["it panics".into()]);
        let sealed = if zoo.encrypted { "encrypted" } else { "plain" };
        problems.extend(found.into_iter().map(|p| format!("{sealed}, {}\n      {p}", case.label)));
    }
    problems
}

struct Trial<'a> {
    zoo: &'a Zoo,
    case: &'a Case,
    home: Home,
    problems: RefCell<Vec<String>>,
}

impl<'a> Trial<'a> {
    fn of(zoo: &'a Zoo, case: &'a Case) -> Vec<String> {
        let mut all = Self::damaged(zoo, case);
        if (case.quick || all.read("warm").is_some()) && all.read("fresh").is_some() {
            all.scrub();
            all.back_up();
            if !case.quick {
                all.collect(true);
            }
            all.collect(false);
            all.heals();
        }
        all.mended();
        // A flip in a small object is to a collection what a cut is: that it does not open.
        let is_flip = case.label.contains(" flipped at ");
        if is_flip && !case.edits.iter().any(|e| ["d/", "m/", "c/"].iter().any(|root| e.path().starts_with(root))) || case.quick {
            return all.problems.into_inner();
        }
        let mut problems = all.problems.into_inner();
        // A backup that comes before anybody has looked. A flip inside of a frame it cannot know of.
        if !is_flip && case.edits.iter().any(|e| e.path().starts_with("d/")) {
            let compare = Plan::Compare { reason: "a test".into(), base: (zoo.point("alpha-1").id, 0) };
            for (name, plan) in [("early full", zoo::full()), ("early compare", compare)] {
                let early = Self::damaged(zoo, case);
                if let Some(store) = early.open("fresh") {
                    early.back_up_one(&store, name, &zoo.point("alpha-1").disks, &plan);
                }
                problems.extend(early.problems.into_inner());
            }
        }
        // A collection that does.
        let mut early = Self::damaged(zoo, case);
        early.collect(false);
        early.mended();
        problems.extend(early.problems.into_inner());
        problems
    }

    fn damaged(zoo: &'a Zoo, case: &'a Case) -> Self {
        let mut home = Home::of(zoo);
        home.damage(&case.edits);
        Self { zoo, case, home, problems: RefCell::default() }
    }

    fn problem(&self, what: String) {
        self.problems.borrow_mut().push(what);
    }

    /// Whether a message leads to the object: by its file name, or by the session that is in it.
    fn names(&self, message: &str) -> bool {
        self.case.edits.iter().any(|e| {
            let file = e.path().rsplit('/').next().expect("a path has a last part");
            // A key slot that is not there cannot be named.
            if e.path().starts_with("keys/slot-") && message.contains("key slots") {
                return true;
            }
            let stem = file.strip_suffix(".a").or_else(|| file.strip_suffix(".b")).unwrap_or(file);
            message.contains(stem) || stem.split('-').any(|part| part.len() == 32 && message.contains(part))
        })
    }

    fn open(&self, state: &str) -> Option<Store> {
        match self.home.open(state) {
            Ok(store) => Some(store),
            Err(e) => {
                if !self.case.may_not_open || !self.names(&e.to_string()) {
                    self.problem(format!("{state}: opening: {e}"));
                }
                None
            }
        }
    }

    fn living(&self, id: &SessionId) -> Option<&'a Living> {
        self.zoo.living.iter().find(|l| l.id == *id)
    }

    fn excused(&self, name: &str) -> bool {
        self.case.hurts.iter().any(|family| name.starts_with(family.as_str()))
    }

    /// Lists, restores and verifies everything.
    fn read(&self, state: &str) -> Option<()> {
        let store = self.open(state)?;
        let points = match store.points() {
            Ok(points) => points,
            Err(e) => {
                self.problem(format!("{state}: listing: {e}"));
                return None;
            }
        };
        for p in points.iter().filter(|p| self.living(&p.id).is_none()) {
            self.problem(format!("{state}: {} {} is listed and should not be", p.summary.name, p.id));
        }
        let twice = points.iter().map(|p| p.id).collect::<BTreeSet<_>>().len() < points.len();
        if twice {
            self.problem(format!("{state}: a point is listed twice"));
        }
        for l in self.zoo.living.iter().filter(|l| points.iter().all(|p| p.id != l.id) && !self.case.hides.contains(&l.name)) {
            self.problem(format!("{state}: {} is not listed", l.name));
        }
        if let Err(e) = store.forgotten_points() {
            self.problem(format!("{state}: listing what is forgotten: {e}"));
        }
        for p in points {
            if let Some(living) = self.living(&p.id) {
                self.read_point(state, &store, &p, living);
            }
        }
        Some(())
    }

    fn read_point(&self, state: &str, store: &Store, p: &Point, living: &Living) {
        let whole = self.restores(state, store, p, &living.disks, self.excused(&living.name));
        let verified = Verifier::new(store).and_then(|v| store.verify_point(p, true, &v, &Progress::default()));
        match verified {
            Ok(report) if !whole && report.damage_count == 0 => self.problem(format!("{state}: {} does not restore and verifies", living.name)),
            Ok(_) => {}
            Err(e) => self.problem(format!("{state}: verifying {}: {e}", living.name)),
        }
    }

    /// Restores a point and compares; whether it is whole.
    fn restores(&self, state: &str, store: &Store, p: &Point, want: &[Disk], excused: bool) -> bool {
        match zoo::restore_all(store, p) {
            Ok(disks) => {
                if disks != want {
                    self.problem(format!("{state}: {} restores to WRONG BYTES", p.summary.name));
                }
                true
            }
            Err(e @ (StoreError::Damaged { .. } | StoreError::Format(_))) if excused => {
                if !self.names(&e.to_string()) {
                    self.problem(format!("{state}: {}: this error does not name the object: {e}", p.summary.name));
                }
                false
            }
            Err(e) => {
                self.problem(format!("{state}: restoring {}: {e}", p.summary.name));
                false
            }
        }
    }

    fn scrub(&self) {
        let Some(store) = self.open("fresh") else { return };
        let keyed = store.scrub(&ALL, &Progress::default()).map(|r| r.findings);
        let keyless = scrub_without_keys(&self.home.root(), &self.home.path().join("keyless"), &ALL, &Progress::default()).map(|r| r.findings);
        for (how, found, unseen) in [("with", keyed, self.case.unseen), ("without", keyless, self.case.unseen_without_keys)] {
            match found {
                Ok(findings) if unseen.is_none() && !findings.iter().any(|f| self.is_about(f)) => {
                    self.problem(format!("a scrub {how} keys does not tell; it found {findings:?}"));
                }
                Ok(_) => {}
                Err(e) => self.problem(format!("a scrub {how} keys: {e}")),
            }
        }
    }

    /// Of objects that lie there twice either copy will do.
    fn is_about(&self, f: &Finding) -> bool {
        let base = |path: &str| path.trim_end_matches(".a").trim_end_matches(".b").to_owned();
        self.case.edits.iter().any(|e| base(e.path()) == base(&f.object))
    }

    /// Three backups of the `alpha` disk: new content, and the old contents on top of the old points.
    fn back_up(&self) {
        let Some(store) = self.open("fresh") else { return };
        let alpha = |n: u8| self.zoo.point(&format!("alpha-{n}"));
        let listed: Vec<SessionId> = store.points().map(|p| p.into_iter().map(|p| p.id).collect()).unwrap_or_default();
        let on = |l: &Living, plan: Plan| if listed.contains(&l.id) { plan } else { zoo::full() };
        let (one, two) = (alpha(1), alpha(2));
        let plans = [
            ("full", vec![("disk0".to_owned(), zoo::noise(50_000, 77))], zoo::full()),
            ("compare", one.disks.clone(), on(one, Plan::Compare { reason: "a test".into(), base: (one.id, 0) })),
            ("incremental", two.disks.clone(), on(two, Plan::Incremental { base: (two.id, 0), dirty: vec![] })),
        ];
        for (name, disks, plan) in plans.into_iter().skip(usize::from(self.case.quick)) {
            self.back_up_one(&store, name, &disks, &plan);
        }
    }

    /// One backup, and what a reader gets of it.
    fn back_up_one(&self, store: &Store, name: &str, disks: &[Disk], plan: &Plan) {
        match zoo::back_up(store, name, disks, plan) {
            Ok(out) => {
                // The first reader without this host's cache is a new host.
                let Some(reader) = self.open("another") else { return };
                match reader.points().map(|all| all.into_iter().find(|p| p.id == out.id)) {
                    Ok(Some(p)) => drop(self.restores("another", &reader, &p, disks, false)),
                    other => self.problem(format!("another: the {name} backup is not listed: {other:?}")),
                }
            }
            Err(e) => self.problem(format!("{name} backup: {e}")),
        }
    }

    fn collect(&self, dry_run: bool) {
        let Some(store) = self.home.open("fresh").ok() else { return };
        let before = self.home.packs();
        let result = store.collect(&GcOptions { dry_run, ..at_once() }, &Progress::default());
        let refused = match &result {
            Ok(_) => false,
            Err(StoreError::Damaged { .. } | StoreError::Format(_) | StoreError::Busy(_)) => true,
            Err(e) => {
                let e = e.to_string();
                self.problem(format!("collecting: {e}"));
                true
            }
        };
        // A round of another collection may have been finished before something stopped this one.
        let settled = self.home.root().join(format!("gc/done-0000000{}", zoo::LAST_ROUND)).exists();
        if (dry_run || (refused && !settled)) && self.home.packs() != before {
            self.problem(format!("a collection that changes nothing has taken packs: {result:?}"));
        }
        if let Err(e) = result
            && !self.names(&e.to_string())
        {
            self.problem(format!("this refusal to collect does not name the object: {e}"));
        }
    }

    /// After the backups and the collection: what had a source is whole again, and what is new too.
    fn heals(&self) {
        let Some(store) = self.open("healed") else { return };
        for p in store.points().expect("lists") {
            if let Some(l) = self.living(&p.id) {
                let excused = self.excused(&l.name) && !l.name.starts_with("alpha");
                self.restores("healed", &store, &p, &l.disks, excused);
            }
        }
    }

    /// The original files are back: nothing that belongs to them may be gone.
    fn mended(&mut self) {
        self.home.mend();
        let Some(store) = self.home.open("mended").map_err(|e| self.problem(format!("mended: opening: {e}"))).ok() else { return };
        let points = store.points().expect("lists");
        for l in &self.zoo.living {
            if self.case.collectable.is_some() && self.case.hides.contains(&l.name) {
                continue;
            }
            match points.iter().find(|p| p.id == l.id) {
                Some(p) => drop(self.restores("mended", &store, p, &l.disks, false)),
                None => self.problem(format!("mended: {} is not listed", l.name)),
            }
        }
    }
}
