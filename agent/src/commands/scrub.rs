//! `cairn verify --packs`, `--percent` and `--against-disk`: what lies in the store, and whether a source is still what was saved.

use super::{Done, verify::record};
use crate::{
    cli::{self, Common},
    context::{credential_of, open_store, state_dir, store_path},
    failure::{DAMAGED, FAILED, Failure, NOT_FOUND, Outcome, WARNINGS},
    interrupt,
    output::{self, Bar},
    points,
};
use cairn_store::{
    FileSource, Progress, Store,
    scrub::{ScrubOptions, ScrubReport, scrub_without_keys},
    verify::Verifier,
};
use std::{path::PathBuf, sync::Arc};

/// Findings printed; JSON has up to 1000.
const PRINTED_MAX: usize = 20;

/// `50MiB`, `1GiB`, `500KiB`, or bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no amount of bytes; write 1048576, 500KiB, 50MiB or 1GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return Err(wrong()),
    };
    let n: u64 = number.parse().map_err(|_| wrong())?;
    n.checked_mul(1 << shift).filter(|n| *n > 0).ok_or_else(wrong)
}

/// The same for a limit: 0 is none.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_bytes(text) }
}

/// Checks packs and all other objects, with keys or without.
pub fn packs(common: &Common, o: &cli::Verify) -> Outcome<Done> {
    let options = ScrubOptions { percent: o.percent.unwrap_or(100), rate_bytes_max: o.rate };
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "nothing; the next run goes on")?;
    let keyless = keyless_root(common)?;
    let store = if keyless.is_none() { Some(open_store(common)?) } else { None };
    let bar = Bar::start(common, "verify", &progress);
    let report = match (&store, &keyless) {
        (Some(store), _) => store.scrub(&options, &progress)?,
        (None, Some(root)) => scrub_without_keys(root, &state_dir(common)?, &options, &progress)?,
        (None, None) => unreachable!("one of both was made above"),
    };
    drop(bar);
    let marked = match &store {
        Some(store) if report.finding_count > 0 => mark_points(store, &progress)?,
        _ => Vec::new(),
    };
    if common.json {
        output::print_json(&json(&report, keyless.is_none(), &marked));
    } else {
        print(common, &report, keyless.is_none(), &marked);
    }
    Ok(if report.finding_count > 0 { Done::Code(DAMAGED) } else { Done::Clean })
}

/// The store's folder, if it is encrypted and no key is at hand.
fn keyless_root(common: &Common) -> Outcome<Option<PathBuf>> {
    let url = common.store.as_deref().ok_or_else(|| Failure::usage("no store was named; use --store PATH or set CAIRN_STORE"))?;
    let path = store_path(url)?;
    let (id, encrypted) = Store::identify(&path)?;
    Ok((encrypted && credential_of(common, &id, encrypted)?.is_none()).then_some(path))
}

/// Points that refer to what was found are marked, so that `list` shows them.
fn mark_points(store: &Store, progress: &Progress) -> Outcome<Vec<String>> {
    let verifier = Verifier::new(store)?;
    let mut marked = Vec::new();
    for p in store.points()? {
        let report = store.verify_point(&p, false, &verifier, progress)?;
        if report.damage_count > 0 {
            record(store, &p, false, &report)?;
            marked.push(format!("{} {}", p.summary.name, p.id));
        }
    }
    Ok(marked)
}

fn json(r: &ScrubReport, keyed: bool, marked: &[String]) -> serde_json::Value {
    let findings: Vec<_> = r.findings.iter().map(|f| serde_json::json!({"object": f.object, "offset": f.offset, "why": f.why})).collect();
    serde_json::json!({
        "with_keys": keyed, "good": r.finding_count == 0, "objects": r.objects, "packs_total": r.packs_total, "packs": r.packs, "frames": r.frames, "bytes": r.bytes,
        "finding_count": r.finding_count, "findings": findings, "damaged_points": marked,
    })
}

fn print(common: &Common, r: &ScrubReport, keyed: bool, marked: &[String]) {
    if !common.quiet || r.finding_count > 0 {
        let how = if keyed { "seals and ids hold" } else { "checksums hold; a key would prove seals and ids too" };
        let said = if r.finding_count == 0 { format!("good, {how}") } else { format!("DAMAGED, {} findings", r.finding_count) };
        out!("{} of {} packs, {} frames, {}; {} other objects: {said}", r.packs, r.packs_total, r.frames, output::bytes(r.bytes), r.objects);
    }
    for f in r.findings.iter().take(PRINTED_MAX) {
        let at = f.offset.map_or_else(String::new, |o| format!(" at {o}"));
        out!("  {}{at}: {}", f.object, output::shown(&f.why));
    }
    marked.iter().for_each(|m| out!("  damaged point: {}", output::shown(m)));
    if r.finding_count > 0 {
        let mut said: Vec<&str> = r.findings.iter().map(|f| remedy(&f.object)).collect();
        said.sort_unstable();
        said.dedup();
        said.iter().for_each(|what| out!("  {what}"));
    }
    if r.finding_count > 0 && !keyed {
        out!("  a run with a key leaves reports, by which backups and 'cairn gc' mend");
    }
}

/// What mends an object, by its kind.
fn remedy(object: &str) -> &'static str {
    let root = object.split('/').next().unwrap_or_default();
    match root {
        "m" => "m/: 'cairn gc' makes two whole copies of what either copy still has; what neither has the next backup stores again",
        "x" => "x/: 'cairn gc' replaces index files from the packs themselves",
        "c" => {
            "c/: while a copy in r/ serves, move the damaged file out of the store and run 'cairn gc', which puts the copy in its place; without one, put the file back \
             from a copy of the store, or give the point up: 'cairn forget --force ID'"
        }
        "r" => "r/: 'cairn gc' makes the copy of a register anew from c/",
        "p" => "p/: nobody else has an entry of a point's log: put the file back from a copy of the store; 'cairn unprotect' settles a lost 'protect'",
        "f" => "f/: the point's log forgets it too; put the file back from a copy of the store, or remove it and 'cairn forget' the point again",
        "config" => "config/: 'cairn gc' makes the copy anew from the whole one",
        "keys" if object.starts_with("keys/ring-") => "keys/ring-*: 'cairn gc' makes the copy anew from the whole one",
        "keys" => "keys/slot-*: its holder alone is shut out; put the file back from a copy of the store, and keep another key of this store at hand",
        "gc" => "gc/: 'cairn gc' clears away the lists of rounds that are over and says what it cannot; a damaged gc/pardon-* stays and costs nothing",
        "v" => "v/: evidence of a boot proof that nobody else has: remove the file, its verdict stays; 'cairn verify --boot' makes new evidence",
        "b" => "b/: a report that cannot be read says nothing: remove the file",
        _ => "d/: the next backup of what is damaged stores it again, then 'cairn gc' mends older points; 'cairn restore --allow-damaged' gets the rest",
    }
}

/// Compares a point's disks with files or devices.
pub fn against_disk(common: &Common, o: &cli::Verify) -> Outcome<Done> {
    let store = open_store(common)?;
    let all = store.points()?;
    let [spec] = &o.what[..] else { return Err(Failure::usage("--against-disk goes with one point")) };
    let p = points::select(&all, spec)?;
    let _pin = store.pin(&[p.id])?;
    let disks = store.disks(p)?;
    let chosen = sources(&store, p, &o.against_disk)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "nothing")?;
    let bar = Bar::start(common, "compare", &progress);
    let mut out = Vec::new();
    for (target, path) in chosen {
        let known = || disks.iter().map(|d| d.target.as_str()).collect::<Vec<_>>().join(", ");
        let disk =
            disks.iter().find(|d| d.target == target).ok_or_else(|| Failure::not_found(format!("the point has no disk '{target}'; it has {}", known())))?;
        let source = FileSource::open(&path).map_err(|e| Failure::new(NOT_FOUND, format!("cannot read {}: {e}", path.display())))?;
        out.push((target, path, store.compare(disk, &source, &progress)?));
    }
    drop(bar);
    if common.json {
        let value = |(target, path, c): &(String, PathBuf, cairn_store::Comparison)| {
            let ranges: Vec<_> = c.ranges.iter().map(|r| serde_json::json!({"offset": r.start, "length": r.end - r.start})).collect();
            serde_json::json!({"target": target, "path": path.display().to_string(), "equal": c.is_equal(), "other_size": c.other_size, "ranges": ranges})
        };
        output::print_json(&out.iter().map(value).collect::<Vec<_>>().into());
    } else if !common.quiet {
        for (target, path, c) in &out {
            let bytes: u64 = c.ranges.iter().map(|r| r.end - r.start).sum();
            let size = c.other_size.map_or_else(String::new, |s| format!(", and its size is {}", output::bytes(s)));
            let said =
                if c.is_equal() { "equal".into() } else { format!("differs in {} ranges of whole 4 MiB, {}{size}", c.ranges.len(), output::bytes(bytes)) };
            out!("{} and {}: {said}", output::shown(target), path.display());
        }
    }
    // Different content is no damage: disks are written to.
    Ok(if out.iter().all(|(_, _, c)| c.is_equal()) { Done::Clean } else { Done::Code(WARNINGS) })
}

/// TARGET=PATH as given, or the path that an image's point was made from.
fn sources(store: &Store, p: &cairn_store::Point, given: &[String]) -> Outcome<Vec<(String, PathBuf)>> {
    let mut out = Vec::new();
    for text in given {
        if let Some((target, path)) = text.split_once('=').filter(|(t, p)| !t.is_empty() && !p.is_empty()) {
            out.push((target.to_owned(), PathBuf::from(path)));
            continue;
        }
        if !text.is_empty() {
            return Err(Failure::usage(format!("--against-disk {text}: write TARGET=PATH, as in vda=/var/lib/libvirt/images/a.raw")));
        }
        let source = store.manifest(p)?.source;
        let path = source["path"].as_str().filter(|_| source["kind"] == "image");
        let path = path.ok_or_else(|| {
            Failure::usage(
                "the point is of a domain, whose disks may be in use and of any format: name raw files or devices, as in --against-disk vda=/dev/vg0/a",
            )
        })?;
        out.push(("disk0".into(), PathBuf::from(path)));
    }
    if out.is_empty() { Err(Failure::new(FAILED, "nothing to compare with")) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_remedy() {
        let kinds = ["d/aa/x", "m/aa/x.a", "x/2026-11/x", "c/2026-11/x", "r/2026-11/x", "p/2026-11/x", "f/2026-11/x", "gc/pardon-1", "v/2026-11/x", "b/x"];
        for object in kinds.iter().chain(&["config/00000001.a", "keys/ring-00000001.a", "keys/slot-01"]) {
            let root = object.split('/').next().expect("a first part");
            assert!(remedy(object).starts_with(&format!("{root}/")), "{object}: {}", remedy(object));
        }
        assert!(!remedy("c/2026-11/x").contains("next backup"));
    }

    #[test]
    fn amounts_parse_or_are_refused() {
        assert_eq!((parse_bytes("50MiB"), parse_bytes("7"), parse_bytes("1G")), (Ok(50 << 20), Ok(7), Ok(1 << 30)));
        for wrong in ["", "0", "x", "5 MiB", "-1", "99999999999999GiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
