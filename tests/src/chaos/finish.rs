//! What must hold once all is quiet: everything listed is whole, nothing that nobody needs is left, and a store without points holds no data.

use super::truth::Listed;
use super::verdict::Op;
use super::workers::{forget_points, restore, verify};
use super::world::World;
use crate::cairn::{Cairn, DONE, LIMIT};
use crate::error::{Error, Result};
use crate::process::run;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// Collections until one finds nothing to do.
const QUIET_MAX: usize = 8;
/// Packs that are taken away one by one; of more, so many from all over the list.
const PACKS_TRIED_MAX: usize = 24;
/// Of those tried, so many may be second places of moved frames.
const SPARE_MAX: usize = 4;
/// Commands do not take more than so many ids at once.
const IDS_MAX: usize = 50;
const STATE: usize = 0;

/// Figures of the end.
#[derive(Debug, Default)]
pub struct Quiet {
    /// Points that were restored and compared.
    pub points: usize,
    /// Pack files that were left.
    pub packs: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// Packs that were taken away to see that somebody misses them.
    pub tried: usize,
    /// Collections until one found nothing to do.
    pub collections: usize,
}

/// All checks; what fails is in `world.failures()`.
///
/// # Errors
/// The folder cannot be read or written.
pub fn check(world: &World) -> Result<Quiet> {
    world.be_quiet();
    let mut quiet = Quiet { collections: collect_all(world), ..Quiet::default() };
    // Before anybody reads: readers leave records, for the next collection to clear away.
    let (packs, rest) = files(world.store())?.into_iter().partition::<Vec<_>, _>(|f| is_below(f, &["d", "m"]));
    leftovers(world, &rest);
    quiet.packs = packs.len();
    for pack in &packs {
        quiet.bytes += fs::metadata(world.store().join(pack)).map_err(Error::io("look at", pack))?.len();
    }
    let Some(points) = world.list(STATE) else {
        world.fail("the points of the quiet store could not be listed: nothing of it was checked");
        return Ok(quiet);
    };
    quiet.points = points.len();
    points.iter().for_each(|p| restore(world, STATE, p));
    verify(world, Op::VerifyAll, STATE, &["verify", "--all", "--data"]);
    quiet.tried = each_pack_is_missed(world, &packs)?;
    forget_all(world, &points);
    quiet.collections += collect_all(world);
    let left: Vec<_> = files(world.store())?.into_iter().filter(|f| is_below(f, &["d", "m", "x", "b"])).collect();
    if !left.is_empty() {
        world.fail(format!("all points are forgotten, and {} files are left: {left:?}", left.len()));
    }
    Ok(quiet)
}

/// Nobody else is there: all that can go goes now.
fn collect_all(world: &World) -> usize {
    let args = ["gc", "--dead-after", "0s", "--even-if-alive", "--keep-interrupted", "0s", "--keep-trash", "0s"];
    for n in 1..=QUIET_MAX {
        let Some(report) = world.run(Op::Gc, STATE, &args).filter(|e| e.output.code() == DONE).and_then(|e| world.parse(&e).ok()) else {
            world.fail("a collection in a quiet store did not succeed");
            return n;
        };
        let numbers = ["condemned", "deleted_packs", "moved_frames", "kept_interrupted", "settled_rounds", "tidied", "purged_files"];
        let idle = numbers.iter().all(|key| report[key] == 0) && report["fenced"] == Value::Array(Vec::new());
        if idle {
            return n;
        }
    }
    world.fail(format!("{QUIET_MAX} collections in a quiet store, and each found something to do"));
    QUIET_MAX
}

/// Besides packs: no trash, no temporary files, no records of sessions, no open rounds.
fn leftovers(world: &World, files: &[PathBuf]) {
    let kept = |f: &Path| {
        let name = f.file_name().unwrap_or_default().to_string_lossy();
        match f.iter().next().unwrap_or_default().to_string_lossy().as_ref() {
            "gc" => name.starts_with("pardon-"),
            folder => ["config", "keys", "x", "c", "r", "p", "f", "v", "b"].contains(&folder) && !name.starts_with('.'),
        }
    };
    let left: Vec<_> = files.iter().filter(|f| !kept(f)).collect();
    if !left.is_empty() {
        world.fail(format!("a quiet store still holds {} files that nobody needs: {left:?}", left.len()));
    }
}

/// Without any one of its packs, the store is not whole: so nothing unreferenced is left. Tried on a copy made of links.
fn each_pack_is_missed(world: &World, packs: &[PathBuf]) -> Result<usize> {
    let (store, copy, aside) = (world.store(), world.dir.join("copy"), world.dir.join("aside"));
    for file in files(store)? {
        let to = copy.join(&file);
        let folder = to.parent().unwrap_or(&copy);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        fs::hard_link(store.join(&file), &to).map_err(Error::io("link", &to))?;
    }
    // Metadata packs lie there twice; one name stands for both.
    let packs: Vec<&PathBuf> = packs.iter().filter(|p| p.extension().is_none_or(|e| e != "b")).collect();
    let step = packs.len().div_ceil(PACKS_TRIED_MAX).max(1);
    fs::create_dir_all(&aside).map_err(Error::io("create", &aside))?;
    let (cairn, mut tried, mut spare) = (world.other_store(&copy), 0, 0);
    let backups = ids_of_points(world);
    for pack in packs.into_iter().step_by(step) {
        let copies: Vec<PathBuf> = [pack.clone(), pack.with_extension("b")].into_iter().filter(|p| copy.join(p).exists()).collect();
        for p in &copies {
            rename(&copy.join(p), &aside.join(p.file_name().unwrap_or_default()))?;
        }
        if is_whole(&cairn, world)? {
            let name = pack.file_name().unwrap_or_default().to_string_lossy();
            spare += 1;
            // Two collections that moved the same frame at the same time made two places for it, and two lists: all of them count as used.
            if backups.iter().any(|id| name.starts_with(id)) || spare > SPARE_MAX {
                world.fail(format!("nobody needs pack {}, and it is still there after the last collection", pack.display()));
            }
        }
        for p in &copies {
            rename(&aside.join(p.file_name().unwrap_or_default()), &copy.join(p))?;
        }
        tried += 1;
    }
    if !is_whole(&cairn, world)? {
        world.fail("the copy of the store is not whole with all packs in place: this check proves nothing");
    }
    Ok(tried)
}

/// Sessions that are points, forgotten ones as well: all others that have packs moved frames.
fn ids_of_points(world: &World) -> Vec<String> {
    let lists = [&["list"][..], &["list", "--forgotten"]].map(|args| world.run(Op::List, STATE, args).and_then(|e| world.parse(&e).ok()));
    let points = lists.iter().flatten().filter_map(Value::as_array).flatten();
    points.filter_map(|p| p["id"].as_str().map(str::to_owned)).collect()
}

/// Whether a verification of everything finds all where the maps say it is. Where it finds another copy elsewhere it says so in its log.
fn is_whole(cairn: &Cairn, world: &World) -> Result<bool> {
    let state = world.dir.join("state").join("copy");
    let mut command = cairn.command(&["verify", "--all", "--json", "--state-dir", &state.to_string_lossy()]);
    let output = run(command.env("CAIRN_LOG", "info"), LIMIT)?;
    // What one try found and reported must not lead the next.
    let reports = cairn.store().join("b");
    for report in files(&reports).unwrap_or_default() {
        fs::remove_file(reports.join(&report)).map_err(Error::io("remove", &report))?;
    }
    Ok(output.code() == DONE && !output.err_text().contains("looking for another copy"))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::io("rename", from))
}

/// Protections are taken away first.
fn forget_all(world: &World, points: &[Listed]) {
    for point in points {
        world.truth.will_unprotect(&point.id);
        let _ = world.run(Op::Log, STATE, &["unprotect", &point.id]);
    }
    for some in points.chunks(IDS_MAX) {
        forget_points(world, STATE, &some.iter().map(|p| p.id.as_str()).collect::<Vec<_>>());
    }
    match world.list(STATE) {
        Some(left) if left.is_empty() => {}
        other => world.fail(format!("all points were forgotten, and listed are: {other:?}")),
    }
}

/// All files below `root`, by their path in it.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut out, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io("list", &folder))? {
            let path = entry.map_err(Error::io("list", &folder))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                out.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    out.sort();
    Ok(out)
}

fn is_below(file: &Path, folders: &[&str]) -> bool {
    folders.iter().any(|f| file.starts_with(f))
}
