//! Those who write, read, forget and collect, each in a thread of its own until the time is up.

use super::children::Ended;
use super::image::Image;
use super::rng::Rng;
use super::truth::{Listed, TAG_PREFIX};
use super::verdict::Op;
use super::world::{STATES, WRITERS, World};
use crate::cairn::DONE;
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// State folder of those who forget and collect.
const OPERATOR: usize = STATES - 1;
/// More points than this are too many to read all of them often.
const POINTS_MAX: usize = 40;
/// Points that are kept protected at most.
const HELD_MAX: usize = 5;

/// Name of a writer's points.
#[must_use]
pub fn name_of(writer: usize) -> String {
    format!("img{writer}")
}

/// State folder of a writer: the last two share one.
fn state_of(writer: usize) -> usize {
    writer.min(WRITERS - 2)
}

/// Changes an image and saves it, again and again.
pub fn write(world: &World, writer: usize, mut rng: Rng) {
    let path = world.dir.join(format!("image-{writer}"));
    let (name, mut on_disk, mut image) = (name_of(writer), Image::default(), Image::new(&mut rng));
    while !world.is_over() {
        if let Err(e) = image.write(&on_disk, &path) {
            return world.fail(e.report());
        }
        on_disk = image.clone();
        let kept = Arc::new(image.clone());
        let tag = format!("{TAG_PREFIX}{writer}-{}", world.unique());
        world.truth.will_be(&tag, kept.clone());
        world.remember(kept);
        let before = world.truth.expect();
        let args = ["backup-image", &path.to_string_lossy(), "--name", &name, "--tag", &tag];
        if let Some(ended) = world.run(Op::Backup, state_of(writer), &args).filter(|e| e.output.code() == DONE) {
            world.committed(&ended, &before);
        }
        // Every now and then the same content once more.
        if rng.percent(92) {
            image.change(&mut rng, &world.past());
        }
        world.pause(&mut rng, 400);
    }
}

/// Restores and verifies what is listed.
pub fn read(world: &World, mut rng: Rng) {
    while !world.is_over() {
        let state = rng.index(STATES);
        let Some(points) = world.list(state) else { continue };
        if points.is_empty() {
            world.pause(&mut rng, 300);
            continue;
        }
        let _patience = world.patience.read().unwrap_or_else(PoisonError::into_inner);
        match rng.below(100) {
            0..78 => restore(world, state, rng.pick(&points)),
            78..86 => verify(world, Op::VerifyAll, state, &["verify", "--all", "--data"]),
            86..94 => verify(world, Op::VerifyAll, state, &["verify", "--all"]),
            _ => {
                let point = rng.pick(&points);
                verify_about(world, Op::VerifyName, state, &["verify", &point.name, "--data"], || world.truth.may_be_gone(&point.id));
            }
        }
    }
}

/// Restores a point and compares every byte.
pub fn restore(world: &World, state: usize, point: &Listed) {
    let path = world.dir.join("restored").join(world.unique().to_string());
    let args = ["restore", &point.id, "--disk", &format!("disk0={}", path.display())];
    let ended = world.run_about(Op::Restore, state, &args, || world.truth.may_be_gone(&point.id));
    if let Some(ended) = ended.filter(|e| e.output.code() == DONE) {
        let differs = world.truth.image(&point.tag).and_then(|image| image.difference(&path));
        match differs {
            Ok(None) => {}
            Ok(Some(how)) => world.fail(format!("point {} ({}) restores to something else: {how}\n{}", point.id, point.tag, ended.output.err_text())),
            Err(e) => world.fail(e.report()),
        }
    }
    for path in [path.clone(), path.with_extension("cairn-partial")] {
        // A killed restore leaves the one or the other, or none.
        let _ = std::fs::remove_file(path);
    }
}

/// Verifies; everything must be good.
pub fn verify(world: &World, op: Op, state: usize, args: &[&str]) {
    verify_about(world, op, state, args, || false);
}

fn verify_about(world: &World, op: Op, state: usize, args: &[&str], may_be_gone: impl Fn() -> bool) {
    let Some(ended) = world.run_about(op, state, args, may_be_gone).filter(|e| e.output.code() == DONE) else { return };
    let good = |point: &Value| point["good"] == true;
    match world.parse(&ended) {
        Ok(Value::Array(points)) if points.iter().all(good) => {}
        Ok(other) => world.fail(format!("verify found: {other}")),
        Err(e) => world.fail(e.report()),
    }
}

/// Forgets, prunes, takes back, tags, protects.
pub fn forget(world: &World, mut rng: Rng) {
    while !world.is_over() {
        world.pause(&mut rng, 700);
        let state = if rng.percent(70) { OPERATOR } else { rng.index(STATES) };
        let Some(points) = world.list(state).filter(|p| !p.is_empty()) else { continue };
        let point = rng.pick(&points);
        if points.len() > POINTS_MAX {
            let (count, held) = (rng.within(5, 20), world.truth.held());
            let chosen: Vec<&str> = (0..count).map(|_| rng.pick(&points).id.as_str()).filter(|id| !held.iter().any(|h| h == id)).collect();
            if !chosen.is_empty() {
                forget_points(world, state, &chosen);
            }
            continue;
        }
        match rng.below(100) {
            0..30 => forget_points(world, state, &[&point.id]),
            30..40 => prune(world, state, &mut rng),
            40..55 => undo(world, state, &mut rng),
            55..70 => drop(log(world, state, &point.id, &["tag", &point.id, "x-tagged"])),
            70..75 => drop(log(world, state, &point.id, &["tag", &point.id, "--remove", "x-tagged"])),
            75..80 => drop(log(world, state, &point.id, &["note", &point.id, "looked at"])),
            80..90 => protect(world, state, point),
            _ => unprotect(world, state, point, &mut rng),
        }
    }
}

/// A forget by id.
pub fn forget_points(world: &World, state: usize, ids: &[&str]) {
    // Only this thread forgets: what was certain before this try is there for it.
    let may_be_gone = ids.iter().any(|id| world.truth.may_be_gone(id));
    let op = if world.truth.will_forget(ids) { Op::ForgetProtected } else { Op::Forget };
    let args = [&["forget", "--force"], ids].concat();
    if world.run_about(op, state, &args, || may_be_gone).is_some_and(|e| e.output.code() == DONE) {
        world.truth.forgot(ids);
    }
}

fn prune(world: &World, state: usize, rng: &mut Rng) {
    let (name, keep) = (name_of(rng.index(WRITERS / 2)), rng.within(1, 8).to_string());
    let may_have_none = world.truth.may_have_none(&name);
    world.truth.will_prune(&name);
    let _ = world.run_about(Op::Prune, state, &["prune", &name, "--keep-last", &keep], || may_have_none);
    world.truth.pruned(&name);
}

fn undo(world: &World, state: usize, rng: &mut Rng) {
    let Some(ended) = world.run(Op::List, state, &["list", "--forgotten"]).filter(|e| e.output.code() == DONE) else { return };
    let ids: Vec<String> = match world.parse(&ended) {
        Ok(Value::Array(points)) => points.iter().rev().take(8).filter_map(|p| p["id"].as_str().map(str::to_owned)).collect(),
        other => return world.fail(format!("list --forgotten: {other:?}")),
    };
    if ids.is_empty() {
        return;
    }
    let before = world.truth.expect();
    // Its data may be collected at any time.
    let ended = world.run_about(Op::Undo, state, &["forget", "--undo", rng.pick::<String>(&ids)], || true);
    if let Some(ended) = ended.filter(|e| e.output.code() == DONE) {
        world.committed(&ended, &before);
    }
}

fn log(world: &World, state: usize, id: &str, args: &[&str]) -> Option<Ended> {
    world.run_about(Op::Log, state, args, || world.truth.may_be_gone(id))
}

fn protect(world: &World, state: usize, point: &Listed) {
    if world.truth.held().len() < HELD_MAX && log(world, state, &point.id, &["protect", &point.id]).is_some_and(|e| e.output.code() == DONE) {
        world.truth.protected(&point.id);
    }
}

/// Mostly one that is known to be protected; sometimes the first try is to forget it.
fn unprotect(world: &World, state: usize, point: &Listed, rng: &mut Rng) {
    let held = world.truth.held();
    let id = if held.is_empty() { &point.id } else { rng.pick(&held) };
    if rng.percent(50) {
        return forget_points(world, state, &[id]);
    }
    world.truth.will_unprotect(id);
    let _ = log(world, state, id, &["unprotect", id]);
}

/// Collects in all ways there are.
pub fn collect(world: &World, mut rng: Rng) {
    while !world.is_over() {
        world.pause(&mut rng, 1500);
        let state = if rng.percent(60) { OPERATOR } else { rng.index(STATES) };
        let (trash, wait) = (format!("{}s", rng.below(8)), format!("{}s", rng.pick(&[0, 5, 60])));
        let args = ["gc", "--wait", &wait, "--keep-trash", &trash];
        match rng.below(100) {
            0..30 => gc(world, Op::Gc, state, &args, &["--keep-interrupted", "0s"]),
            30..60 => gc(world, Op::Gc, state, &args, &["--keep-interrupted", "0s", "--repack-below", "90"]),
            60..75 => gc(world, Op::Gc, state, &args, &["--keep-interrupted", "3s", "--repack-below", "0"]),
            75..85 => gc(world, Op::Gc, state, &["gc", "--keep-trash", "10s"], &[]),
            85..92 => gc(world, Op::GcDryRun, state, &["gc", "--dry-run"], &[]),
            _ => {
                let _alone = world.patience.write().unwrap_or_else(PoisonError::into_inner);
                gc(world, Op::GcImpatient, state, &args, &["--keep-interrupted", "0s", "--dead-after", "1s", "--even-if-alive"]);
            }
        }
    }
}

fn gc(world: &World, op: Op, state: usize, args: &[&str], more: &[&str]) {
    if let Some(ended) = world.run(op, state, &[args, more].concat()).filter(|e| e.output.code() == DONE) {
        match world.parse(&ended) {
            Ok(report) => {
                for key in ["deleted_packs", "pardoned", "moved_frames", "settled_rounds", "kept_interrupted"] {
                    if report[key].as_u64().is_some_and(|n| n > 0) {
                        world.count(op, format!("with {key}"));
                    }
                }
                if report["fenced"].as_array().is_some_and(|f| !f.is_empty()) {
                    world.count(op, "with fenced sessions");
                }
            }
            Err(e) => world.fail(e.report()),
        }
    }
}

/// Deletes or damages the cache of a state folder that nobody uses at that moment.
pub fn sabotage(world: &World, mut rng: Rng) {
    while !world.is_over() {
        world.pause(&mut rng, 24_000);
        let kind = rng.below(4);
        let result = world.spoil_state(rng.index(STATES), |folder| spoil(folder, kind, &mut rng));
        match result {
            Ok(()) => world.count(
                Op::List,
                format!("cache {}", ["deleted", "cut short", "begun anew with garbage", "without its log"][usize::try_from(kind).unwrap_or(0)]),
            ),
            Err(e) => world.fail(format!("cannot spoil a cache: {e}")),
        }
    }
}

fn spoil(folder: &Path, kind: u64, rng: &mut Rng) -> std::io::Result<()> {
    let index = folder.join("index");
    if kind == 0 {
        return match std::fs::remove_dir_all(&index) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    let Ok(entries) = std::fs::read_dir(&index) else { return Ok(()) };
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let log = path.extension().is_some_and(|e| e.to_string_lossy().ends_with("-wal"));
        match kind {
            1 if !log => {
                let file = std::fs::OpenOptions::new().write(true).open(&path)?;
                file.set_len(rng.below(file.metadata()?.len() + 1))?;
            }
            2 if !log => {
                let bytes: Vec<u8> = (0..512).flat_map(|_| rng.bits().to_le_bytes()).collect();
                std::os::unix::fs::FileExt::write_all_at(&std::fs::OpenOptions::new().write(true).open(&path)?, &bytes, 0)?;
            }
            3 if log => std::fs::remove_file(&path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Stops, continues and kills whoever runs.
pub fn torment(world: &World, mut rng: Rng) -> (u64, u64) {
    use super::children::Blow;
    let (mut kills, mut stops) = (0, 0);
    let mut next = Instant::now();
    while !world.is_over() {
        world.children.wake(false);
        std::thread::sleep(Duration::from_millis(5));
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + Duration::from_millis(rng.within(20, 500));
        let nth = rng.index(64);
        if rng.percent(35) {
            kills += u64::from(world.children.hit(nth, Blow::Kill));
        } else {
            // Mostly short, sometimes as long as many other commands take together.
            let ms_max = *rng.pick(&[150, 600, 5000]);
            stops += u64::from(world.children.hit(nth, Blow::Stop(Duration::from_millis(rng.within(100, ms_max)))));
        }
    }
    world.children.wake(true);
    (kills, stops)
}
