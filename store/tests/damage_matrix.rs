//! Every kind of object, damaged in every region and in every way that files get damaged: it is found, it never makes wrong bytes, it stops
//! nothing that does not need it, and it heals where there is a source. What is asked of each case stands in `damage/trial.rs`.
//!
//! What scrubs cannot see, and why, is said at the case (`unseen`). In short: nobody can miss what may rightly be absent (a report, a log's last
//! entry, a tombstone), a key slot opens for its holder alone, and files that are no objects are nobody's. No bit flip is among them: bits that
//! readers ignore are under a checksum too.

mod common;
mod damage;
mod zoo;

use damage::{
    case::{Case, Edit, deleted, flips, foreign, lengths, misplaced, replayed, swapped},
    home::scratch,
    trial::run,
};
use std::path::PathBuf;
use zoo::{Death, LAST_ROUND, Zoo};

/// A store, and another one of the same kind.
struct Pair {
    _dirs: [tempfile::TempDir; 2],
    zoo: Zoo,
    other: Zoo,
}

impl Pair {
    fn new(encrypted: bool, passphrase: bool) -> Self {
        let dirs = [scratch(), scratch()];
        // Both ways to leave a round open, over the two kinds of stores.
        let last = if encrypted { Death::BeforeDiscard } else { Death::BeforePardon };
        let zoo = Zoo::make(dirs[0].path(), encrypted, passphrase, last);
        let other = Zoo::make(dirs[1].path(), encrypted, false, last);
        Self { _dirs: dirs, zoo, other }
    }

    fn root(&self) -> PathBuf {
        self.zoo.root()
    }

    /// Paths of objects below `folder` whose path contains `part`.
    fn all(&self, folder: &str, part: &str) -> Vec<String> {
        paths(&self.zoo, folder, part)
    }

    /// One such path, by the point's session.
    fn of(&self, folder: &str, point: &str) -> String {
        self.all(folder, &self.zoo.point(point).id.to_string()).remove(0)
    }

    fn others(&self, folder: &str, part: &str) -> String {
        paths(&self.other, folder, part).remove(0)
    }

    /// Flips and lengths of one object, and another store's in its place.
    fn usual(&self, path: &str, foreign_from: &str) -> Vec<Case> {
        let mut out = flips(&self.root(), path);
        out.extend(lengths(&self.root(), path));
        out.push(foreign(&self.other.root(), foreign_from, path));
        out
    }
}

fn paths(zoo: &Zoo, folder: &str, part: &str) -> Vec<String> {
    let root = zoo.root();
    let all = zoo::files(&root.join(folder)).into_iter().map(|f| f.strip_prefix(&root).expect("below it").to_str().expect("ascii").to_owned());
    all.filter(|p| p.contains(part)).collect()
}

fn hiding(cases: Vec<Case>, point: &str) -> Vec<Case> {
    cases.into_iter().map(|c| c.hides(point)).collect()
}

fn hurting(cases: Vec<Case>, family: &str) -> Vec<Case> {
    cases.into_iter().map(|c| c.hurts(family)).collect()
}

fn none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n  {}", problems.len(), problems.join("\n  "));
}

fn both(test: impl Fn(&Pair) -> Vec<Case>) {
    let problems = [true, false].map(|encrypted| {
        let pair = Pair::new(encrypted, false);
        // The layouts are the same with and without seals: without, flips are asked the questions that a seal could answer differently.
        let quick = |c: Case| if encrypted { c } else { c.quick_flip() };
        run(&pair.zoo, test(&pair).into_iter().map(quick).collect())
    });
    none(&problems.concat());
}

const NOBODY_MISSES: &str = "that it is gone is no damage that anybody could tell from its never having been there";
const ONLY_A_REGISTER: &str = "a point is its register: without it nothing says that its packs are not an interrupted backup's";
const HOLDERS_ONLY: &str = "a slot is sealed for its holder; that it is another's shows when nobody can open it";
const A_ROUND_IS_OPEN: &str = "while a round is open nobody without keys can tell a lost pack from one that the round took";
const SEALED_ONLY: &str = "only its seal says which store it belongs to";
const UNSEALED: &str = "without encryption nothing ties it to its store; what it names is nothing of this one's";

#[test]
fn configurations() {
    both(|p| {
        let mut cases = Vec::new();
        for copy in ["config/00000001.a", "config/00000001.b"] {
            cases.extend(p.usual(copy, copy));
            cases.push(deleted(copy));
        }
        cases.push(replayed(&p.root(), "config/00000001.a", "config/00000002.a"));
        cases
    });
}

#[test]
fn key_rings() {
    both(|p| {
        let mut cases = Vec::new();
        for copy in ["keys/ring-00000001.a", "keys/ring-00000001.b"] {
            cases.extend(p.usual(copy, copy));
            cases.push(deleted(copy));
        }
        cases.push(replayed(&p.root(), "keys/ring-00000001.a", "keys/ring-00000002.a").may_not_open());
        cases
    });
}

#[test]
fn key_slots() {
    let pair = Pair::new(true, false);
    let slots = pair.all("keys", "slot-");
    let mut cases = Vec::new();
    for slot in &slots {
        // The store is opened with the key file; no other slot matters to it.
        let is_its = std::fs::read(pair.root().join(slot)).expect("reads")[26] == 2;
        let opens = |c: Case| if is_its { c.may_not_open() } else { c };
        cases.extend(flips(&pair.root(), slot).into_iter().chain(lengths(&pair.root(), slot)).map(opens));
        cases.push(opens(deleted(slot)).unseen(NOBODY_MISSES));
        cases.push(opens(foreign(&pair.other.root(), &pair.others("keys", "slot-"), slot)).unseen(HOLDERS_ONLY));
    }
    cases.push(swapped(&pair.root(), &slots[0], &slots[1]).unseen("a slot's name is a random number; under any other it is the same slot"));
    none(&run(&pair.zoo, cases));
}

#[test]
fn data_packs() {
    both(|p| {
        let pack = p.of("d", "alpha-1");
        let mut cases = p.usual(&pack, &p.others("d", ""));
        cases.push(deleted(&pack).unseen_without_keys(A_ROUND_IS_OPEN));
        cases.push(replayed(&p.root(), &p.of("d", "alpha-2"), &pack));
        cases.push(misplaced(&p.root(), &pack, "d/zz"));
        cases.push(swapped(&p.root(), &pack, &p.of("d", "alpha-2")));
        cases = hurting(cases, "alpha");
        cases.push(swapped(&p.root(), &pack, &p.of("d", "beta")).hurts("alpha").hurts("beta"));
        cases
    });
}

#[test]
fn metadata_packs() {
    both(|p| {
        let copies = p.all("m", &p.zoo.point("beta").id.to_string());
        let mut cases: Vec<Case> = copies.iter().flat_map(|copy| p.usual(copy, &p.others("m", ".a"))).collect();
        cases.extend(lengths(&p.root(), &p.of("m", "alpha-1")));
        cases.extend(copies.iter().map(|copy| deleted(copy)));
        cases.push(misplaced(&p.root(), &copies[0], "m/zz"));
        cases.push(swapped(&p.root(), &copies[0], &p.of("m", "alpha-1")));
        cases
    });
}

#[test]
fn the_packs_of_a_repack() {
    both(|p| {
        let relocation = relocation(p);
        let data = hurting(p.usual(&p.all("d", &relocation).remove(0), &p.others("d", "")), "gamma");
        let meta = p.all("m", &relocation).remove(0);
        [data, p.usual(&meta, &p.others("m", ".a"))].concat()
    });
}

/// The session whose packs hold what of `gamma` was moved.
fn relocation(p: &Pair) -> String {
    let points: Vec<String> = p.zoo.living.iter().map(|l| l.id).chain(p.zoo.forgotten.iter().copied()).map(|id| id.to_string()).collect();
    let moved = p.all("d", "").into_iter().find(|pack| points.iter().all(|id| !pack.contains(id.as_str()))).expect("a repack's");
    moved.rsplit('/').next().and_then(|file| file.split('-').next()).expect("a session").to_owned()
}

#[test]
fn index_files() {
    both(|p| {
        let first = p.of("x", "alpha-1");
        // One that a collection wrote anew, where one did; else that of a collection's own packs.
        let all = p.all("x", "");
        let rewritten = all.iter().find(|x| !x.ends_with("-00000000")).or_else(|| all.iter().rfind(|x| **x != first)).expect("more than one").clone();
        let mut cases = Vec::new();
        for file in [&rewritten, &first] {
            cases.extend(p.usual(file, &p.others("x", "")));
            cases.push(deleted(file).unseen(NOBODY_MISSES));
        }
        cases.push(swapped(&p.root(), &rewritten, &first));
        cases.push(replayed(&p.root(), &p.of("x", "alpha-2"), &first));
        cases
    });
}

#[test]
fn registers_of_points() {
    both(|p| {
        let (first, second) = (p.of("c", "alpha-1"), p.of("c", "alpha-2"));
        let mut cases = hiding(p.usual(&second, &p.others("c", "")), "alpha-2");
        let (copy, parents_copy) = (p.of("r", "alpha-2"), p.of("r", "alpha-1"));
        cases.push(deleted(&second));
        cases.extend(p.usual(&copy, &p.others("r", "")));
        cases.push(deleted(&copy).unseen(NOBODY_MISSES));
        let both = |a: &str, b: &str| vec![Edit::Delete(a.into()), Edit::Delete(b.into())];
        cases.push(Case::new(format!("{first} and its copy: deleted"), both(&first, &parents_copy)).hides("alpha-1").unseen_without_keys(NOBODY_MISSES));
        let last = p.of("c", "empty");
        let lost = Case::new(format!("{last} and its copy: deleted"), both(&last, &p.of("r", "empty")));
        cases.push(lost.hides("empty").unseen(NOBODY_MISSES).collectable(ONLY_A_REGISTER));
        cases.push(replayed(&p.root(), &first, &second).hides("alpha-2"));
        cases.push(swapped(&p.root(), &first, &second).hides("alpha-1").hides("alpha-2"));
        cases.push(misplaced(&p.root(), &first, "c/2020-01").hides("alpha-1"));
        let month = first.split('/').nth(1).expect("a month");
        cases.push(replayed(&p.root(), &first, &first.replace(month, "2020-01")));
        cases.push(replayed(&p.root(), &first, &p.of("c", "alpha-1").replace(&p.zoo.point("alpha-1").id.to_string(), &"7".repeat(32))));
        cases
    });
}

#[test]
fn registers_of_repacks_fences_and_aborts() {
    both(|p| {
        let of = |kind: u8| {
            let is = |path: &String| std::fs::read(p.root().join(path)).expect("reads")[32] == kind;
            p.all("c", "").into_iter().find(is).expect("one of each kind")
        };
        let mut cases = Vec::new();
        for kind in [2, 3, 4] {
            cases.extend(p.usual(&of(kind), &p.others("c", "")));
            let case = deleted(&of(kind));
            cases.push(if kind == 2 { case } else { case.unseen(NOBODY_MISSES) });
        }
        cases.push(swapped(&p.root(), &of(3), &of(4)));
        cases.push(replayed(&p.root(), &of(3), &p.of("c", "alpha-2")).hides("alpha-2"));
        cases
    });
}

#[test]
fn logs_of_points() {
    both(|p| {
        let log = p.all("p", &p.zoo.point("alpha-1").id.to_string());
        let mut cases: Vec<Case> = p.usual(&log[0], &p.others("p", ""));
        cases.extend(flips(&p.root(), &log[4]));
        cases.push(deleted(&log[1]));
        cases.push(deleted(log.last().expect("some")).unseen(NOBODY_MISSES));
        cases.push(replayed(&p.root(), &log[3], &log[4]));
        cases.push(replayed(&p.root(), &log[5], &log[5].replace("00000005", "00000006")));
        cases.push(swapped(&p.root(), &log[1], &log[2]));
        cases.push(misplaced(&p.root(), &log[1], "p/2020-01"));
        // Of forgotten points: the tombstone and the log say the same, and either does.
        let forgets = p.all("p", &p.zoo.forgotten[3].to_string()).remove(0);
        cases.extend(p.usual(&forgets, &p.others("p", "")));
        cases.push(deleted(&forgets).unseen(NOBODY_MISSES));
        cases.push(replayed(&p.root(), &forgets, &p.of("p", "alpha-2")));
        cases
    });
}

#[test]
fn tombstones() {
    both(|p| {
        let stone = p.all("f", &p.zoo.forgotten[3].to_string()).remove(0);
        let mut cases = p.usual(&stone, &p.others("f", ""));
        cases.push(deleted(&stone).unseen(NOBODY_MISSES));
        cases.push(swapped(&p.root(), &stone, &p.all("f", &p.zoo.forgotten[2].to_string()).remove(0)));
        // Under a living point's name it forgets nothing for good.
        let alpha = p.of("c", "alpha-2").replace("c/", "f/");
        cases.push(replayed(&p.root(), &stone, &alpha).hides("alpha-2"));
        cases.push(misplaced(&p.root(), &stone, "f/2020-01"));
        cases
    });
}

#[test]
fn session_records_and_beats() {
    both(|p| {
        let records = p.all("gc", "session-");
        let mut cases: Vec<Case> = records[..2].iter().flat_map(|r| flips(&p.root(), r)).collect();
        cases.extend(lengths(&p.root(), &records[0]));
        cases.push(foreign(&p.other.root(), &p.others("gc", "session-"), &records[0]));
        cases.extend(records.iter().map(|r| deleted(r).unseen(NOBODY_MISSES)));
        cases.push(swapped(&p.root(), &records[0], &records[1]));
        let beat = p.all("gc", "beat-").remove(0);
        cases.extend(p.usual(&beat, &p.others("gc", "beat-")));
        cases.push(deleted(&beat).unseen(NOBODY_MISSES));
        cases.push(replayed(&p.root(), &beat, &beat.replace("-00000001", "-00000002")));
        cases
    });
}

#[test]
fn rounds() {
    both(|p| {
        let round = |kind: &str, n: u8| format!("gc/{kind}-0000000{n}");
        let mut cases = Vec::new();
        for object in p.all("gc", "-0000000").into_iter().filter(|path| !path.contains("beat")) {
            // Of each kind, the last one of the store: that is the one which still has a say.
            let last = [
                round("condemned", LAST_ROUND),
                round("done", LAST_ROUND - 1),
                if p.zoo.encrypted { round("pardon", LAST_ROUND) } else { round("pardon", LAST_ROUND - 1) },
            ];
            let cuts = if last.contains(&object) {
                [flips(&p.root(), &object), lengths(&p.root(), &object)].concat()
            } else {
                lengths(&p.root(), &object).drain(..2).collect()
            };
            cases.extend(cuts);
            let foreign = foreign(&p.other.root(), &object, &object);
            cases.push(if p.zoo.encrypted { foreign.unseen_without_keys(SEALED_ONLY) } else { foreign.unseen(UNSEALED) });
            cases.push(deleted(&object).unseen(NOBODY_MISSES));
        }
        for kind in ["condemned", "pardon", "done"] {
            cases.push(replayed(&p.root(), &round(kind, LAST_ROUND - 1), &round(kind, LAST_ROUND)));
            cases.push(replayed(&p.root(), &round(kind, LAST_ROUND - 1), &round(kind, LAST_ROUND + 1)));
        }
        cases.push(replayed(&p.root(), &round("pardon", 1), &round("pardon", 2)));
        cases.push(replayed(&p.root(), &round("pardon", 1), &round("pardon", 3)));
        cases.push(swapped(&p.root(), &round("condemned", LAST_ROUND - 1), &round("condemned", LAST_ROUND)));
        cases
    });
}

#[test]
fn reports() {
    both(|p| {
        let report = p.all("b", "").remove(0);
        let mut cases = p.usual(&report, &p.others("b", ""));
        cases.push(deleted(&report).unseen(NOBODY_MISSES));
        cases.push(replayed(&p.root(), &report, &format!("b/{}", "7".repeat(32))));
        cases
    });
}

#[test]
fn trash_and_files_that_are_no_objects() {
    both(|p| {
        const NOBODYS: &str = "what is in the trash is on its way out, and other files are nobody's";
        let trashed = p.all("trash", "").remove(0);
        let mut cases: Vec<Case> = lengths(&p.root(), &trashed);
        cases.push(deleted(&trashed));
        for name in
            ["d/00/readme", "m/00/x.a", "x/2026-11/notes", "c/2026-11/notes", "p/2026-11/x-1", "f/2026-11/x", "gc/notes", "gc/done-7", "b/notes", "c/notes"]
        {
            cases.push(Case::new(format!("{name}: a file that is no object"), vec![Edit::Write(name.into(), b"hello".to_vec())]));
        }
        cases.into_iter().map(|c| c.unseen(NOBODYS)).collect()
    });
}
