//! A whole restore of the image, beside the ways in which a file of that size is otherwise made.

use super::super::images::Image;
use super::super::measure::{Usage, cold_cache, first_difference, measured, peak_mib};
use super::super::tools::Tool;
use crate::error::{Error, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a restore may take.
const AIM_MIB: u64 = 256;

/// One way to have the image as a file.
struct Way<'a> {
    name: &'static str,
    tool: Option<&'a Tool>,
    program: &'static [&'static str],
}

/// Medians of `repeat` restores by each, in turns.
pub fn table(tools: &[Tool], source: &Path, dir: &Path, repeat: usize) -> Result<String> {
    let mut ways: Vec<Way<'_>> = tools.iter().map(|t| Way { name: t.kind.name(), tool: Some(t), program: &[] }).collect();
    ways.push(Way { name: "qemu-img convert", tool: None, program: &["qemu-img", "convert", "-f", "raw", "-O", "raw"] });
    ways.push(Way { name: "cp --sparse=always", tool: None, program: &["cp", "--sparse=always"] });
    let mut all: Vec<Vec<Usage>> = vec![Vec::new(); ways.len()];
    for round in 0..repeat {
        for n in 0..ways.len() {
            let n = (n + round) % ways.len();
            all[n].push(one(&ways[n], source, dir)?);
        }
    }
    let mut out = String::from(
        "## A whole image\n\nRestored to a new raw file, synced, compared byte by byte. `qemu-img` and `cp` copy the image itself, which is neither compressed, \
         encrypted nor verified.\n\n| | wall s | CPU s | peak memory, MiB | wall time over Cairn's |\n|---|---:|---:|---:|---:|\n",
    );
    let own = median(&all[0]).wall_s;
    for (way, usages) in ways.iter().zip(&all) {
        let u = median(usages);
        let _ = writeln!(out, "| {} | {:.1} | {:.1} | {} | {:.2} |", way.name, u.wall_s, u.cpu_s, peak_mib(u.rss_bytes), u.wall_s / own);
    }
    out.push_str(&aim(&all));
    Ok(out)
}

/// What is aimed at, and what came of it.
fn aim(all: &[Vec<Usage>]) -> String {
    let (own, fastest) = (median(&all[0]), all.iter().map(|u| median(u).wall_s).fold(f64::INFINITY, f64::min));
    let (times, mib) = (own.wall_s / fastest, peak_mib(own.rss_bytes));
    format!("\nThe aim is the time of the fastest of them in at most {AIM_MIB} MiB: Cairn took {times:.2} times as long, in {mib} MiB.\n")
}

fn median(usages: &[Usage]) -> Usage {
    let mut sorted = usages.to_vec();
    sorted.sort_by(|a, b| a.wall_s.total_cmp(&b.wall_s));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn one(way: &Way<'_>, source: &Path, dir: &Path) -> Result<Usage> {
    let (command, out) = match way.tool {
        Some(tool) => tool.restore(Image::Day3, source)?,
        None => {
            let out = dir.join("copied.raw");
            let mut command = Command::new(way.program[0]);
            command.args(&way.program[1..]).arg(source).arg(&out);
            (command, out)
        }
    };
    cold_cache();
    let usage = measured(&mut synced(&command, &out), &dir.join("restore.log"))?;
    if let Some(at) = first_difference(source, &out)? {
        return Err(Error::failed(format!("{}: what was restored differs from the image at byte {at}", way.name)));
    }
    match way.tool {
        Some(tool) => tool.remove_restored()?,
        None => fs::remove_file(&out).map_err(|e| Error::failed(format!("cannot remove {}: {e}", out.display())))?,
    }
    Ok(usage)
}

/// The command, and the file on the disk: not all sync by themselves, and a recovery that is only in memory is none.
fn synced(command: &Command, out: &PathBuf) -> Command {
    let mut all = Command::new("sh");
    all.args(["-c", "out=$1; shift; \"$@\" && sync \"$out\"", "sh"]).arg(out).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => all.env(key, value),
            None => all.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        all.current_dir(folder);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_one_counts() {
        let at = |wall_s: f64| Usage { wall_s, ..Usage::default() };
        assert_eq!(median(&[at(3.0), at(1.0), at(2.0)]).wall_s.to_bits(), 2.0_f64.to_bits());
    }

    #[test]
    fn a_failure_is_not_hidden_by_the_sync() {
        let out = std::env::temp_dir();
        let log = out.join(format!("cairn-bench-synced-{}", std::process::id()));
        assert!(measured(&mut synced(&Command::new("false"), &out), &log).is_err());
        assert!(measured(&mut synced(&Command::new("true"), &out), &log).is_ok());
        fs::remove_file(log).expect("removes");
    }
}
