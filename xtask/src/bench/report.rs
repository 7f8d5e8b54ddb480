//! Figures as tables, ratios and budgets: the same text on the terminal and in the page.

use super::lone::OneChange;
use super::runner::{Record, Records, Step};
use super::tools::Kind;
use std::fmt::Write as _;

/// Processor time over the floor's.
const CPU_OVER_FLOOR_MAX: f64 = 1.25;
/// Wall time over the best peer's.
const FIRST_MAX: f64 = 0.6;
const SCAN_MAX: f64 = 0.5;
const RESTORE_MAX: f64 = 1.0;
const VERIFY_MAX: f64 = 0.7;
const RESTORE_RSS_MIB_MAX: f64 = 256.0;
const CHANGE_KIB_MAX: f64 = 64.0;
const CHANGE_S_MAX: f64 = 2.0;

/// What is asked of the figures, and what they are.
#[derive(Debug, PartialEq)]
pub struct Budget {
    /// In words.
    pub what: String,
    /// At most this.
    pub limit: f64,
    /// Measured.
    pub value: f64,
}

impl Budget {
    /// Within it.
    pub fn holds(&self) -> bool {
        self.value <= self.limit
    }
}

/// Medians of a run.
pub struct Report<'a>(pub &'a Records);

impl Report<'_> {
    fn kinds(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|k| self.0.all.iter().any(|r| r.kind == *k)).collect()
    }

    /// The median over the repeats.
    fn value(&self, kind: Kind, step: Step, of: impl Fn(&Record) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.0.all.iter().filter(|r| r.kind == kind && r.step == step).map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    fn wall(&self, kind: Kind, step: Step) -> Option<f64> {
        self.value(kind, step, |r| r.usage.wall_s)
    }

    fn cpu(&self, kind: Kind, step: Step) -> Option<f64> {
        self.value(kind, step, |r| r.usage.cpu_s)
    }

    fn least_of_peers(&self, of: impl Fn(Kind) -> Option<f64>) -> Option<f64> {
        self.kinds().into_iter().filter(|k| k.is_peer()).filter_map(of).min_by(f64::total_cmp)
    }

    /// Wall time over the best peer's.
    fn over_peers(&self, kind: Kind, step: Step) -> Option<f64> {
        Some(self.wall(kind, step)? / self.least_of_peers(|k| self.wall(k, step))?)
    }

    /// Processor time over the floor's.
    fn over_floor(&self, kind: Kind, step: Step) -> Option<f64> {
        Some(self.cpu(kind, step)? / self.cpu(Kind::Floor, step)?)
    }

    /// All tables, Markdown.
    pub fn tables(&self) -> String {
        let mut out = String::new();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.table(&mut out, "Wall seconds", 1, |k, s| self.wall(k, s));
        self.table(&mut out, "CPU seconds (user and system, all threads)", 1, |k, s| self.cpu(k, s));
        self.table(&mut out, "Peak memory, MiB", 0, |k, s| self.value(k, s, |r| mib(r.usage.rss_bytes)));
        self.table(&mut out, "Store after the step, MiB", 0, |k, s| self.value(k, s, |r| mib(r.store_bytes)));
        self.table(&mut out, "Wall time over the best peer's", 2, |k, s| self.over_peers(k, s));
        self.table(&mut out, "CPU time over the floor's", 2, |k, s| self.over_floor(k, s));
        out
    }

    fn table(&self, out: &mut String, title: &str, digits: usize, cell: impl Fn(Kind, Step) -> Option<f64>) {
        let row = |k: &Kind| Step::ALL.map(|s| cell(*k, s));
        let rows: Vec<(Kind, [Option<f64>; 8])> = self.kinds().iter().map(|k| (*k, row(k))).filter(|r| r.1.iter().any(Option::is_some)).collect();
        if rows.is_empty() {
            return;
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let heads: Vec<String> = std::iter::once(format!("{:8}", "tool")).chain(Step::ALL.iter().map(|s| format!("{:>8}", s.title()))).collect();
        let _ = write!(out, "### {title}\n\n{}|---|{}\n", line(&heads), "---:|".repeat(Step::ALL.len()));
        for (kind, cells) in rows {
            let cells = cells.map(|c| c.map_or_else(|| format!("{:>8}", "-"), |v| format!("{v:8.digits$}")));
            let all: Vec<String> = std::iter::once(format!("{:8}", kind.name())).chain(cells).collect();
            out.push_str(&line(&all));
        }
        out.push('\n');
    }

    /// What was asked for, as far as this run can tell.
    pub fn budgets(&self, change: Option<&OneChange>) -> Vec<Budget> {
        use super::images::Image;
        let mut out = Vec::new();
        let mut add = |what: &str, limit: f64, value: Option<f64>| out.extend(value.map(|value| Budget { what: what.to_owned(), limit, value }));
        let (first, scan) = (Step::Save(Image::Day1), Step::Save(Image::Day2));
        for (what, step) in [("first backup", first), ("day 2", scan), ("restore", Step::Restore), ("verify", Step::Verify)] {
            add(&format!("CPU of {what} over the floor's"), CPU_OVER_FLOOR_MAX, self.over_floor(Kind::Cairn, step));
        }
        for (what, limit, step) in
            [("first backup", FIRST_MAX, first), ("day 2", SCAN_MAX, scan), ("restore", RESTORE_MAX, Step::Restore), ("verify", VERIFY_MAX, Step::Verify)]
        {
            add(&format!("wall time of {what} over the best peer's"), limit, self.over_peers(Kind::Cairn, step));
        }
        let rss = self.value(Kind::Cairn, Step::Restore, |r| r.usage.rss_bytes as f64 / f64::from(1 << 20));
        add("peak memory of restore, MiB", RESTORE_RSS_MIB_MAX, rss);
        let stored = |k: Kind| self.value(k, Step::Save(Image::Separate), |r| r.store_bytes as f64);
        let smaller = stored(Kind::Cairn).and_then(|own| Some(own / self.least_of_peers(stored)?));
        add("store after the fifth image, nothing forgotten yet, over the smallest peer's", 1.0, smaller);
        if let Some(change) = change {
            add("one changed chunk of 1 TiB: KiB written", CHANGE_KIB_MAX, Some(change.written_bytes as f64 / 1024.0));
            add("one changed chunk of 1 TiB: seconds", CHANGE_S_MAX, Some(change.wall_s));
        }
        out
    }
}

/// The budgets as a table.
pub fn budget_table(budgets: &[Budget]) -> String {
    let mut out = String::from("| budget | at most | measured | |\n|---|---:|---:|---|\n");
    for b in budgets {
        let _ = writeln!(out, "| {} | {} | {:.2} | {} |", b.what, b.limit, b.value, if b.holds() { "PASS" } else { "MISS" });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::images::Image;
    use super::super::measure::Usage;
    use super::*;

    fn record(kind: Kind, step: Step, wall_s: f64, store_bytes: u64) -> Record {
        Record { kind, step, usage: Usage { wall_s, cpu_s: wall_s * 2.0, rss_bytes: 100 << 20 }, store_bytes }
    }

    fn run() -> Records {
        let first = Step::Save(Image::Day1);
        let mut all: Vec<Record> = [3.0, 5.0, 4.0].iter().map(|w| record(Kind::Cairn, first, *w, 10)).collect();
        all.push(record(Kind::Floor, first, 2.0, 10));
        all.push(record(Kind::Restic, first, 10.0, 20));
        all.push(record(Kind::Borg, first, 8.0, 30));
        all.push(record(Kind::Cairn, Step::Save(Image::Separate), 1.0, 25 << 20));
        all.push(record(Kind::Restic, Step::Save(Image::Separate), 1.0, 20 << 20));
        Records { all, ..Records::default() }
    }

    #[test]
    fn medians_are_compared_with_the_floor_and_the_best_peer() {
        let records = run();
        let budgets = Report(&records).budgets(Some(&OneChange { written_bytes: 65_537, wall_s: 0.5, first_s: 1.0, chunk_bytes: 4096 }));
        let find = |what: &str| budgets.iter().find(|b| b.what.contains(what)).expect("is asked");
        assert_eq!((find("CPU of first").value, find("CPU of first").holds()), (2.0, false));
        assert_eq!((find("wall time of first").value, find("wall time of first").holds()), (0.5, true));
        assert!(!find("smallest").holds() && !find("KiB written").holds() && find("seconds").holds());
        assert!(!budgets.iter().any(|b| b.what.contains("verify")), "what was not run is not judged");
        assert_eq!(budget_table(&budgets).matches("MISS").count(), 3, "{}", budget_table(&budgets));
    }

    #[test]
    fn tables_have_a_row_for_each_tool() {
        let text = Report(&run()).tables();
        let wall = text.split("### ").nth(1).expect("a first table");
        assert!(wall.starts_with("Wall seconds") && wall.contains("| cairn    |      4.0 |"), "{wall}");
        assert_eq!(wall.lines().filter(|l| l.starts_with("| ")).count(), 5);
    }
}
