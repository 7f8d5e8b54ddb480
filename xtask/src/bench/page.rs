//! docs/benchmarks.md: the figures with the conditions they were taken under.

use super::images::{Image, Images};
use super::lone::OneChange;
use super::machine;
use super::report::{Report, budget_table};
use super::runner::Records;
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask bench --write`; do not edit. Other machines give other seconds: compare the ratios, which come from one run.

- `floor` is the least work that this format can be had for: read, cut, hash, look up, compress, seal, write, sync, and the ways back, without
  packs, map, crash safety or checks of order. It is no backup program.
- Every tool reads the whole image each time: none is told which blocks changed. With a domain's dirty bitmap Cairn reads only those; the last
  two budgets are about that.
- `first`, `day2`, `day3`: one machine on three days. `clone`: another machine from the same template. `separate`: a machine with the same
  packages that was installed by itself, so that equal files lie elsewhere. `restore`: day 3, compared with the image byte by byte. `verify`: all
  that is in the store, read and proven. `forget`: day 1 forgotten and its space freed.
- The tools take turns: a step is done by all of them before the next one begins, and each step begins with another tool.
";
const TAIL: &str = "
## What Cairn does beyond the floor

By a `perf record`, once, of another day than the figures above, of a first backup and of `verify --packs` (1 GiB disk, samples of both programs side by side):

- first backup: 19 % more samples than the floor. More than half of that is the SHA-256 of every pack, which the index files hold; then copying
  frames into packs, fresh pages for them, and CRC-32C. Look-ups in SQLite and the map's nodes are below half a percent each.
- verify: a third more. Half of that was the SHA-256 of every pack again, the rest CRC-32C (twice a frame) and reading whole packs. Since that profile
  a scrub with keys does without that hash and the second CRC.
";

/// The page.
pub fn page(images: &Images, records: &Records, change: Option<&OneChange>, dir: &Path, repeat: usize) -> String {
    let report = Report(records);
    let mut out = format!("{HEAD}\n## Budgets\n\n{}\n", budget_table(&report.budgets(change)));
    if let Some(c) = change {
        let _ = writeln!(
            out,
            "One changed chunk: {:.1} KiB written, of which {} KiB are the chunk, in {:.2} s; the first backup of that disk (1 TiB, sparse, 4096 chunks) took {:.1} s.\n",
            c.written_bytes as f64 / 1024.0,
            c.chunk_bytes >> 10,
            c.wall_s,
            c.first_s
        );
    }
    let _ = write!(out, "## Figures\n\n{}{}## Conditions\n\n{}{TAIL}", report.tables(), stages(records), conditions(images, records, dir, repeat));
    out
}

/// Which stage of a backup waits for which.
fn stages(records: &Records) -> String {
    let mut out = String::from(
        "### Stages of a backup that waited for each other\n\nWorkers (read, cut, hash, look up, compress, seal; two on two cores, more where the source allows it) hand \
         regions to one consumer (map, packs), that hands packs to one writer. Workers that wait are too far ahead of the consumer; a consumer that waits has \
         nothing to do; the writer is waited for where storage is what limits. Milliseconds, workers all together.\n\n",
    );
    for (step, waits) in &records.stages {
        let _ = writeln!(out, "- {}: {waits}", step.title());
    }
    out.push('\n');
    out
}

fn conditions(images: &Images, records: &Records, dir: &Path, repeat: usize) -> String {
    let f = &images.facts;
    let mut out = String::new();
    let mut fact = |what: &str, value: String| {
        let _ = writeln!(out, "- {what}: {value}");
    };
    machine::facts(dir).into_iter().for_each(|(what, value)| fact(what, value));
    let cache = if records.cold { "emptied before each step" } else { "NOT emptied before each step (needs root)" };
    fact("page cache", cache.to_owned());
    fact("load of the last minute when each step began", format!("{}; the run's own part is about 2", records.loads.join(", ")));
    fact("repeats", format!("{repeat}{}", if repeat > 1 { "; medians are shown" } else { "" }));
    let days: Vec<String> = f["days"].as_array().into_iter().flatten().map(day).collect();
    fact(
        "images",
        format!(
            "disks of {} MiB, GPT, ext4; {} files of /usr ({} MiB), a database of {} MiB, media of {} MiB, a log",
            f["disk_mib"], f["tree_files"], f["tree_mib"], f["database_mib"], f["media_mib"]
        ),
    );
    fact("changes", days.join("; "));
    let allocated = Image::ALL.map(|i| format!("{} {}", i.name(), f["allocated_mib"][i.name()]));
    fact("MiB allocated", allocated.join(", "));
    for (kind, version) in &records.versions {
        fact(kind.name(), format!("{version}; {}", kind.settings()));
    }
    out
}

fn day(d: &serde_json::Value) -> String {
    format!(
        "day {}: {} database pages of 8 KiB, {} MiB of new files (with {} upgraded programs), {} MiB of journal",
        d["day"], d["pages"], d["new_mib"], d["upgraded_files"], d["journal_mib"]
    )
}
