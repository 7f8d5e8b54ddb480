//! `cargo xtask bench`: Cairn beside the least work for its format and beside its peers, in one run.
//!
//! Invariants: figures come only from commands that ended with 0 and restores that were compared with their image; a missed budget is told,
//! not an error; nothing is left behind but the images.

mod capture;
mod churn;
mod disk;
mod images;
mod lab;
mod lone;
mod machine;
mod measure;
mod options;
mod page;
mod random;
mod recovery;
mod report;
mod runner;
mod tools;
mod tree;

use crate::error::{Error, Result};
use crate::say::say;
use crate::{setup, workspace};
use images::Images;
use options::{Options, Part, USAGE};
use report::{Report, budget_table};
use runner::Runner;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use tools::Kind;

const PAGE: &str = "docs/benchmarks.md";
/// Images, stores of the tools and a restored image, in sizes of a disk, of which half is used.
const ROOM_DISKS: u64 = 11;

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    if args.first().is_some_and(|arg| arg == "--help" || arg == "-h") {
        say!("{}", USAGE.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    setup::install_missing()?;
    let kinds = wanted(&options)?;
    let packages: Vec<&'static str> = kinds.iter().filter_map(|k| k.package()).collect();
    setup::install_packages(&packages)?;
    match options.part {
        Part::Store => {}
        Part::Recovery => setup::install_packages(&recovery::PACKAGES)?,
        Part::Capture => {
            setup::install_packages(&capture::PACKAGES)?;
            return capture::bench(&options).map(|()| ExitCode::SUCCESS);
        }
    }
    let failed = |e: std::io::Error| Error::failed(format!("{}: {e}; name another folder with --dir", options.dir.display()));
    fs::create_dir_all(&options.dir).map_err(failed)?;
    // Commands run in folders of their own.
    let base = options.dir.canonicalize().map_err(failed)?;
    let images = Images::get(&base, options.bytes)?;
    if options.images_only {
        return Ok(ExitCode::SUCCESS);
    }
    check_room(&base, options.bytes)?;
    let dir = base.join(format!("run-{}", std::process::id()));
    let result = if options.part == Part::Recovery { recovery::bench(&options, &images, &dir) } else { bench(&options, &kinds, &images, &dir) };
    // The result matters more; what stays is named.
    if let Err(e) = fs::remove_dir_all(&dir)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("xtask: cannot remove {}: {e}; remove it by hand", dir.display());
    }
    result.map(|()| ExitCode::SUCCESS)
}

fn bench(options: &Options, kinds: &[Kind], images: &Images, dir: &Path) -> Result<()> {
    let cairn = workspace::released()?;
    let floor = example("floor")?;
    let programs: Vec<(Kind, PathBuf)> = kinds.iter().map(|k| (*k, program(*k, &cairn, &floor))).collect();
    let records = Runner { images, programs: &programs, dir }.run(options.repeat)?;
    let change = if kinds.contains(&Kind::Cairn) { Some(lone::one_change(&example("one_change")?, dir)?) } else { None };
    let report = Report(&records);
    say!("\n{}{}", report.tables(), budget_table(&report.budgets(change.as_ref())));
    if options.write {
        let path = workspace::root().join(PAGE);
        let text = page::page(images, &records, change.as_ref(), &options.dir, options.repeat);
        fs::write(&path, text).map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
        say!("bench: wrote {PAGE}");
    }
    Ok(())
}

/// All tools, or those asked for; rustic only where it is installed, since Debian has no package of it.
fn wanted(options: &Options) -> Result<Vec<Kind>> {
    let has_rustic = setup::on_path("rustic");
    if options.only.contains(&Kind::Rustic) && !has_rustic {
        return Err(Error::failed("rustic is not on PATH, and Debian has no package of it; install it with `cargo install rustic-rs --locked`"));
    }
    let asked = |k: &Kind| if options.only.is_empty() { *k != Kind::Rustic || has_rustic } else { options.only.contains(k) };
    Ok(Kind::ALL.into_iter().filter(asked).collect())
}

fn program(kind: Kind, cairn: &Path, floor: &Path) -> PathBuf {
    match kind {
        Kind::Cairn => cairn.to_owned(),
        Kind::Floor => floor.to_owned(),
        other => other.name().into(),
    }
}

/// An example of the store, built for release.
fn example(name: &str) -> Result<PathBuf> {
    workspace::run_visibly(&mut workspace::cargo(&["build", "--release", "-p", "cairn-store", "--example", name])?)?;
    Ok(workspace::target()?.join("release/examples").join(name))
}

/// A full disk in the middle would be told by the tool that met it, and look like its fault.
fn check_room(dir: &Path, bytes: u64) -> Result<()> {
    let limit = std::time::Duration::from_secs(60);
    let text = cairn_lab::process::run_ok(Command::new("stat").args(["-f", "-c", "%a %S"]).arg(dir), limit)?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let free: u64 = numbers.iter().product();
    // The images are there already.
    let need = bytes * (ROOM_DISKS - 3) / 2;
    if numbers.len() == 2 && free < need {
        return Err(Error::failed(format!("{} has {} MiB free, the run needs {}; see --size and --dir", dir.display(), free >> 20, need >> 20)));
    }
    Ok(())
}
