//! `cargo xtask bench recovery`: what a recovery waits for. Reads of a disk that is served from a store beside servers of a plain file, a whole restore
//! beside restic, `qemu-img convert` and `cp`, and what the lab measures: boots, restores in place, a disk of 1 TiB.
//!
//! Invariants: every reader reads the same places in the same order; what was restored is compared; each figure begins with a cold page cache.

mod reads;
mod restores;

use super::images::{Image, Images};
use super::measure::load;
use super::options::Options;
use super::tools::{Kind, Tool};
use super::{lab, machine, measure};
use crate::error::{Error, Result};
use crate::say::say;
use crate::{setup, workspace};
use cairn_lab::process::run_ok;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

pub const PACKAGES: [&str; 4] = ["restic", "nbdkit", "libnbd-bin", "fio"];
const PAGE: &str = "docs/recovery-figures.md";
const SAVE_LIMIT: Duration = Duration::from_secs(1800);
const PARTS: [lab::Part<'_>; 3] = [
    lab::Part { suite: "run_boot", test: "a_run_boots_as_fast_as_a_local_guest", told: &[], heads: &["first output"] },
    lab::Part { suite: "in_place", test: "one_percent_changed_is_little_to_write", told: &[("CAIRN_FIGURES_MIB", "8192,5120")], heads: &["full:"] },
    lab::Part { suite: "terabyte", test: "a_sparse_terabyte_takes_seconds", told: &[], heads: &["1 TiB"] },
];
const HEAD: &str = "\
# Figures of recoveries

Written by `cargo xtask bench recovery --write`; do not edit. Other machines give other seconds: compare what stands side by side.
";

/// Runs all parts in a folder of its own.
pub fn bench(options: &Options, images: &Images, dir: &Path) -> Result<()> {
    let failed = |e: std::io::Error| Error::failed(format!("{}: {e}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    let cairn = workspace::released()?;
    let mut text = format!("{HEAD}\n- load of the last minute at the start: {}\n", load());
    for (what, value) in machine::facts(&options.dir) {
        let _ = writeln!(text, "- {what}: {value}");
    }
    if !measure::cold_cache() {
        text.push_str("- page cache: NOT emptied before each figure (needs root)\n");
    }
    let source = images.path(Image::Day3);
    let mut tools = vec![Tool::new(Kind::Cairn, &cairn, dir)?, Tool::new(Kind::Restic, Path::new("restic"), dir)?];
    if setup::on_path("rustic") {
        tools.push(Tool::new(Kind::Rustic, Path::new("rustic"), dir)?);
    } else {
        text.push_str("- rustic: not on PATH, and Debian has no package of it; `cargo install rustic-rs --locked`\n");
    }
    for tool in &tools {
        run_ok(&mut tool.save(Image::Day3, &source), SAVE_LIMIT)?;
    }
    text.push_str(&told(&restores::table(&tools, &source, dir, options.repeat)?));
    text.push_str(&told(&reads::table(&tools[0], &source, dir)?));
    text.push_str(&told(&suites(&cairn)?));
    if options.write {
        let path = workspace::root().join(PAGE);
        fs::write(&path, text).map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
        say!("bench: wrote {PAGE}");
    }
    Ok(())
}

fn suites(cairn: &Path) -> Result<String> {
    let mut out = String::from("## In the lab\n\nA guest without hardware virtualization, release program. From the suites of the same names.\n\n");
    for part in &PARTS {
        for line in lab::lines(part, cairn)? {
            let _ = writeln!(out, "- {}: {line}", part.suite);
        }
    }
    Ok(out)
}

fn told(part: &str) -> String {
    say!("{}", part.trim());
    format!("\n{part}")
}
