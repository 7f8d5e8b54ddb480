//! Tables for people.

use super::shown;
use crate::{points::SHOWN_ID_DIGITS, retention::Simulated};
use cairn_store::{
    Damage, Point, PointSizes, PointState,
    format::{
        manifest::Manifest,
        register::{DiskEntry, DiskMode},
    },
};
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use jiff::{Timestamp, tz::TimeZone};

/// Boot proofs of a point that are shown; JSON has them all.
const PROOFS_SHOWN_MAX: usize = 3;

/// `1.5 GiB`
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1.2 s`, `3:05 min`, `1 h 30 min`, `1 d 4 h`
pub fn duration(ms: u64) -> String {
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let two = |whole: String, rest: u64, unit: &str| if rest == 0 { whole } else { format!("{whole} {rest} {unit}") };
    match ms {
        DAY.. => two(format!("{} d", ms / DAY), ms % DAY / HOUR, "h"),
        HOUR.. => two(format!("{} h", ms / HOUR), ms % HOUR / MINUTE, "min"),
        MINUTE.. => format!("{}:{:02} min", ms / MINUTE, ms / 1000 % 60),
        _ => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

/// In the host's time zone.
pub fn time(unix_ms: u64) -> String {
    let stamp = i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    stamp.map_or_else(|| "?".into(), |t| t.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A table without right-aligned columns.
pub fn plain_table(header: &[&str]) -> Table {
    table(header, &[])
}

pub(super) fn table(header: &[&str], right: &[usize]) -> Table {
    let mut t = Table::new();
    t.load_style(presets::NOTHING);
    t.set_content_arrangement(ContentArrangement::Disabled);
    t.set_header(header.to_vec());
    for i in right {
        if let Some(c) = t.column_mut(*i) {
            c.set_cell_alignment(CellAlignment::Right);
        }
    }
    t
}

fn state(p: &Point) -> String {
    let state = match p.state() {
        PointState::Good => "good",
        PointState::Damaged => "DAMAGED",
        PointState::Unverified => "-",
    };
    let boots = match p.boot_proofs().last().map(|b| b.verdict.passed) {
        Some(true) => ", boots",
        Some(false) => ", DOES NOT BOOT",
        None => "",
    };
    format!("{state}{boots}{}", if p.is_protected() { ", protected" } else { "" })
}

/// `cairn list`
pub fn point_table(points: &[&Point], sizes: Option<&PointSizes>) -> String {
    let mut t = table(&["NAME", "TIME", "ID", "SIZE", "CHANGED", "STORED", "TOOK", "QUIESCE", "STATE", "TAGS", "UNIQUE"], &[3, 4, 5, 6, 10]);
    for p in points {
        let s = &p.summary;
        t.add_row([
            shown(&s.name),
            time(s.time_unix_ms),
            p.id.to_string()[..SHOWN_ID_DIGITS].to_owned(),
            bytes(s.size_bytes),
            bytes(s.changed_bytes),
            bytes(s.stored_bytes),
            duration(s.duration_ms),
            s.quiesce.clone(),
            state(p),
            shown(&p.tags().join(",")),
            sizes.and_then(|s| s.points.get(&p.id)).map_or_else(|| "-".into(), |n| bytes(*n)),
        ]);
    }
    if sizes.is_none()
        && let Some(unique) = t.column_mut(10)
    {
        unique.set_constraint(ColumnConstraint::Hidden);
    }
    trimmed(&t)
}

/// `cairn show`
pub fn show(p: &Point, disks: &[DiskEntry], manifest: &Manifest, sizes: Option<&PointSizes>) -> String {
    let s = &p.summary;
    let mut out = format!("{}  {}\n", shown(&s.name), p.id);
    let mut line = |k: &str, v: String| out.push_str(&format!("  {k:<10}{v}\n"));
    line("time", time(s.time_unix_ms));
    line("took", duration(s.duration_ms));
    line("host", shown(&manifest.host));
    let frozen = manifest.source["quiesce"]["frozen_mounts"].as_array().filter(|mounts| !mounts.is_empty());
    let only = frozen.map(|mounts| mounts.iter().filter_map(|m| m.as_str()).map(shown).collect::<Vec<_>>().join(", "));
    line("quiesce", only.map_or_else(|| s.quiesce.clone(), |mounts| format!("{} (frozen: {mounts})", s.quiesce)));
    line("parent", p.body.parents.first().map_or_else(|| "none".into(), |x| x.session.to_string()));
    line("stored", bytes(s.stored_bytes));
    if let Some(sizes) = sizes {
        let freed = |n: Option<&u64>| n.map_or_else(|| "?".into(), |n| bytes(*n));
        line("unique", format!("{}, free if it is forgotten", freed(sizes.points.get(&p.id))));
        line("", format!("{}, free if all points of this name are", freed(sizes.names.get(&s.name))));
    }
    line("state", state(p));
    for proof in p.boot_proofs().iter().rev().take(PROOFS_SHOWN_MAX) {
        line("boot", super::boot_line(proof));
    }
    line("tags", shown(&p.tags().join(", ")));
    if !p.note().is_empty() {
        line("note", shown(p.note()));
    }
    for w in &manifest.warnings {
        line("warning", shown(w));
    }
    out.push('\n');
    let mut t = table(&["DISK", "SIZE", "READ", "CHANGED", "STORED", "MODE", "REASON"], &[1, 2, 3, 4]);
    for d in disks {
        let mode = match d.mode {
            DiskMode::Full => "full",
            DiskMode::Incremental => "incremental",
            DiskMode::Compare => "compare",
        };
        t.add_row([shown(&d.target), bytes(d.size_bytes), bytes(d.read_bytes), bytes(d.changed_bytes), bytes(d.stored_bytes), mode.into(), shown(&d.reason)]);
    }
    out + &trimmed(&t)
}

/// `cairn runs`
pub fn run_table(rows: &[[String; 6]]) -> String {
    let mut t = table(&["NAME", "POINT", "STATE", "WRITTEN", "KEEP", "AGE"], &[3, 4, 5]);
    for row in rows {
        t.add_row(row);
    }
    trimmed(&t)
}

/// A damaged range of a disk.
pub fn damage_line(d: &Damage) -> String {
    format!("{} bytes {}..{}: {}", shown(&d.target), d.offset, d.offset + d.len, shown(&d.why))
}

/// `cairn prune`: point, what becomes of it, why.
pub fn prune_table(rows: &[(&Point, &str, &Vec<String>)]) -> String {
    let mut t = table(&["NAME", "HOST", "TIME", "ID", "ACTION", "REASONS"], &[]);
    for (p, action, why) in rows {
        let s = &p.summary;
        let id = p.id.to_string()[..SHOWN_ID_DIGITS].to_owned();
        t.add_row([shown(&s.name), shown(&s.host), time(s.time_unix_ms), id, (*action).to_owned(), shown(&why.join(", "))]);
    }
    trimmed(&t)
}

/// `cairn prune --simulate`: every thirtieth step and the last.
pub fn simulation_table(steps: &[Simulated]) -> String {
    let mut t = table(&["AFTER", "KEPT", "OLDEST"], &[1]);
    let last = steps.len().saturating_sub(1);
    for (_, s) in steps.iter().enumerate().filter(|(i, _)| (i + 1).is_multiple_of(30) || *i == last) {
        t.add_row([time(s.time_unix_ms), s.kept.to_string(), s.times_unix_ms.first().map_or_else(String::new, |ms| time(*ms))]);
    }
    trimmed(&t)
}

/// A table of plain cells.
pub fn simple_table<const N: usize>(header: &[&str; N], right: &[usize], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut t = table(header, right);
    rows.into_iter().for_each(|r| {
        t.add_row(r);
    });
    trimmed(&t)
}

/// No blanks at line ends.
pub(super) fn trimmed(t: &Table) -> String {
    t.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!((bytes(1023), bytes(1536), bytes(8 << 30)), ("1023 B".into(), "1.5 KiB".into(), "8.0 GiB".into()));
        assert_eq!((duration(1234), duration(185_000), duration(3_599_999)), ("1.2 s".into(), "3:05 min".into(), "59:59 min".into()));
        assert_eq!((duration(3_600_000), duration(5_400_000), duration(86_399_999)), ("1 h".into(), "1 h 30 min".into(), "23 h 59 min".into()));
        assert_eq!((duration(86_400_000), duration(100_800_000), duration(400 * 86_400_000)), ("1 d".into(), "1 d 4 h".into(), "400 d".into()));
        assert_eq!(shown("a\u{1b}[31mb"), "a\\u{1b}[31mb");
    }
}
