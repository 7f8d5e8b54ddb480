//! `cargo xtask bench recovery`: what a recovery waits for. Reads of a disk that is served from a store beside servers of a plain file, a whole restore
//! beside restic, `qemu-img convert` and `cp`, and what the lab measures: boots, restores in place, a disk of 1 TiB.
//!
//! Invariants: every reader reads the same places in the same order; what was restored is compared; each figure begins with a cold page cache.

mod lab;
mod reads;
mod restores;

use super::images::{Image, Images};
use super::measure::load;
use super::options::Options;
use super::tools::{Kind, Tool};
use super::{machine, measure};
use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace;
use cairn_lab::process::run_ok;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const PACKAGES: [&str; 4] = ["restic", "nbdkit", "libnbd-bin", "fio"];
const PAGE: &str = "docs/recovery-figures.md";
const SAVE_LIMIT: Duration = Duration::from_secs(1800);
const HEAD: &str = "\
# Figures of recoveries

Written by `cargo xtask bench recovery --write`; do not edit. Other machines give other seconds: compare what stands side by side.
";

/// Runs all parts in a folder of its own.
pub fn bench(options: &Options, images: &Images, dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    let cairn = workspace::cairn(true)?.ok_or_else(|| Error::failed("cargo built no target/release/cairn"))?;
    let mut text = format!("{HEAD}\n- load of the last minute at the start: {}\n", load());
    for (what, value) in machine::facts(&options.dir) {
        let _ = writeln!(text, "- {what}: {value}");
    }
    if !measure::cold_cache() {
        text.push_str("- page cache: NOT emptied before each figure (needs root)\n");
    }
    let source = images.path(Image::Day3);
    let (ours, restic) = (Tool::new(Kind::Cairn, &cairn, dir)?, Tool::new(Kind::Restic, Path::new("restic"), dir)?);
    for tool in [&ours, &restic] {
        run_ok(&mut tool.save(Image::Day3, &source), SAVE_LIMIT)?;
    }
    text.push_str(&told(&restores::table(&[&ours, &restic], &source, dir, options.repeat)?));
    text.push_str(&told(&reads::table(&ours, &source, dir)?));
    text.push_str(&told(&lab::lines(&cairn)?));
    if options.write {
        let path = workspace::root().join(PAGE);
        fs::write(&path, text).map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
        say!("bench: wrote {PAGE}");
    }
    Ok(())
}

fn told(part: &str) -> String {
    say!("{}", part.trim());
    format!("\n{part}")
}
