//! `cairn diff`

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{Failure, Outcome, WARNINGS},
    output, points,
};
use cairn_store::{Store, format::register::DiskEntry};
use serde_json::{Value, json};
use std::ops::Range;

/// One disk in both points, or in one.
struct Compared {
    target: String,
    sizes: [Option<u64>; 2],
    bytes: u64,
    range_count: u64,
    /// Only where they were asked for.
    ranges: Vec<Range<u64>>,
}

impl Compared {
    fn is_equal(&self) -> bool {
        self.sizes[0] == self.sizes[1] && self.bytes == 0
    }

    fn found_in(&self) -> &'static str {
        match self.sizes {
            [Some(_), Some(_)] => "both",
            [Some(_), None] => "a",
            _ => "b",
        }
    }
}

/// Compares the disks of two points by their maps.
pub fn run(common: &Common, o: &cli::Diff) -> Outcome<Done> {
    let store = open_store(common)?;
    let all = store.points()?;
    let (a, b) = (points::select(&all, &o.a)?, points::select(&all, &o.b)?);
    let ids = if a.id == b.id { vec![a.id] } else { vec![a.id, b.id] };
    let _pin = store.pin(&ids)?;
    let (disks_a, disks_b) = (store.disks(a)?, store.disks(b)?);
    let mut targets: Vec<&str> = disks_a.iter().map(|d| d.target.as_str()).collect();
    targets.extend(disks_b.iter().map(|d| d.target.as_str()).filter(|t| !disks_a.iter().any(|d| d.target == *t)));
    if let Some(wrong) = o.disks.iter().find(|d| !targets.contains(&d.as_str())) {
        return Err(Failure::not_found(format!("neither point has a disk '{wrong}'; there are {}", targets.join(", "))));
    }
    targets.retain(|t| o.disks.is_empty() || o.disks.iter().any(|d| d == t));
    let disk = |list: &'_ [DiskEntry], t: &str| list.iter().find(|d| d.target == t).cloned();
    let mut compared = Vec::new();
    for t in targets {
        compared.push(compare(&store, t, disk(&disks_a, t), disk(&disks_b, t), o.ranges)?);
    }
    let equal = compared.iter().all(Compared::is_equal);
    if common.json {
        let disks: Vec<Value> = compared.iter().map(|c| disk_json(c, o.ranges)).collect();
        output::print_json(&json!({"a": a.id.to_string(), "b": b.id.to_string(), "equal": equal, "disks": disks}));
    } else if !common.quiet {
        print(&compared);
    }
    Ok(if equal { Done::Clean } else { Done::Code(WARNINGS) })
}

fn compare(store: &Store, target: &str, a: Option<DiskEntry>, b: Option<DiskEntry>, keep: bool) -> Outcome<Compared> {
    let sizes = [a.as_ref().map(|d| d.size_bytes), b.as_ref().map(|d| d.size_bytes)];
    let mut out = Compared { target: target.to_owned(), sizes, bytes: 0, range_count: 0, ranges: Vec::new() };
    let (Some(a), Some(b)) = (a, b) else { return Ok(out) };
    for range in store.diff(&a, &b)? {
        let range = range?;
        out.bytes += range.end - range.start;
        out.range_count += 1;
        if keep {
            out.ranges.push(range);
        }
    }
    Ok(out)
}

fn disk_json(c: &Compared, with_ranges: bool) -> Value {
    let mut value = json!({
        "target": c.target, "in": c.found_in(), "equal": c.is_equal(), "size_a": c.sizes[0], "size_b": c.sizes[1], "bytes": c.bytes, "range_count": c.range_count,
    });
    if with_ranges {
        value["ranges"] = c.ranges.iter().map(|r| json!({"offset": r.start, "length": r.end - r.start})).collect();
    }
    value
}

fn print(compared: &[Compared]) {
    let size = |s: Option<u64>| s.map_or_else(|| "-".to_owned(), output::bytes);
    let rows = compared.iter().map(|c| {
        let said = match (c.found_in(), c.is_equal(), c.bytes) {
            ("a", ..) => "only in the first point".to_owned(),
            ("b", ..) => "only in the second point".to_owned(),
            (_, true, _) => "equal".to_owned(),
            (_, _, 0) => "equal but for the size".to_owned(),
            _ => format!("{} in {} ranges", output::bytes(c.bytes), c.range_count),
        };
        [output::shown(&c.target), size(c.sizes[0]), size(c.sizes[1]), said]
    });
    out!("{}", output::simple_table(&["DISK", "SIZE A", "SIZE B", "DIFFERS"], &[1, 2], rows));
    for c in compared {
        c.ranges.iter().for_each(|r| out!("{} offset {} length {}", output::shown(&c.target), r.start, r.end - r.start));
    }
}
