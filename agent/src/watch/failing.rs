//! Looks that fail again and again: what is told of them. One that fails may meet a restart of libvirt; the third in a row means that nobody sees what
//! domains do. Pure.
//!
//! Invariant: bounded, whatever fails: texts are cut, and few domains are named.

use serde_json::Value;
use std::collections::BTreeMap;

/// So many in a row are told.
const IN_A_ROW: u32 = 3;
/// More domains than these are counted only.
const NAMED_MAX: usize = 3;
/// Longest text of one.
const WHY_CHARS_MAX: usize = 500;

/// What failed, and how often in a row.
#[derive(Debug, Clone, Default)]
pub struct Failing {
    looks: u32,
    /// Those at all domains alone: one at a single domain that succeeds says nothing of them.
    at_all: u32,
    why: String,
    /// By UUID: name, how often, why.
    domains: BTreeMap<String, (String, u32, String)>,
}

impl Failing {
    /// A look came to an end.
    pub fn looked(&mut self, result: &Result<Vec<Value>, String>, at_all: bool) {
        match result {
            Err(why) => {
                self.looks = self.looks.saturating_add(1);
                self.at_all = self.at_all.saturating_add(u32::from(at_all));
                self.why = cut(why);
            }
            Ok(reports) => {
                self.looks = 0;
                if at_all {
                    self.at_all = 0;
                }
                let text = |report: &Value, key: &str| report[key].as_str().unwrap_or_default().to_owned();
                for report in reports {
                    let uuid = text(report, "uuid");
                    if report["outcome"] == "failed" {
                        let entry = self.domains.entry(uuid).or_default();
                        *entry = (text(report, "name"), entry.1.saturating_add(1), cut(&text(report, "why")));
                    } else {
                        self.domains.remove(&uuid);
                    }
                }
                if at_all {
                    // One that is gone fails no more.
                    self.domains.retain(|uuid, _| reports.iter().any(|report| report["uuid"] == uuid.as_str()));
                }
            }
        }
    }

    /// How many looks in a row.
    pub fn in_a_row(&self) -> u32 {
        self.looks
    }

    /// For people, in words that can be shown.
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.looks >= IN_A_ROW {
            out.push(format!(
                "the last {} looks at domains failed: {}; what happens to domains is not seen until one succeeds, and 'cairn reconcile' does one now",
                self.looks,
                shown(&self.why)
            ));
        }
        if self.looks < IN_A_ROW && self.at_all >= IN_A_ROW {
            out.push(format!(
                "the last {} looks at all domains failed: {}; what no event tells of is not seen until one succeeds, and 'cairn reconcile' does one now",
                self.at_all,
                shown(&self.why)
            ));
        }
        let mut failed = self.domains.values().filter(|(_, n, _)| *n >= IN_A_ROW);
        out.extend(failed.by_ref().take(NAMED_MAX).map(|(name, n, why)| {
            let name = shown(name);
            format!("the last {n} looks at domain {name} failed: {}; 'cairn reconcile {name}' does one now", shown(why))
        }));
        let more = failed.count();
        if more > 0 {
            out.push(format!("looks at {more} more domains fail; 'cairn reconcile' shows all"));
        }
        out
    }
}

fn cut(text: &str) -> String {
    text.chars().take(WHY_CHARS_MAX).collect()
}

fn shown(text: &str) -> String {
    crate::output::shown(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_third_in_a_row_is_told_and_one_that_succeeds_ends_it() {
        let mut failing = Failing::default();
        for _ in 0..2 {
            failing.looked(&Err("gone\u{1b}[2J".into()), true);
        }
        assert!(failing.problems().is_empty());
        failing.looked(&Err(format!("gone\u{1b}[2J{}", "x".repeat(9000))), false);
        let told = failing.problems();
        assert!(told.len() == 1 && told[0].contains("last 3 looks") && told[0].contains("gone"), "{told:?}");
        assert!(!told[0].contains('\u{1b}') && told[0].len() < 1000, "{told:?}");
        failing.looked(&Ok(Vec::new()), false);
        assert!(failing.problems().is_empty());
    }

    #[test]
    fn looks_at_one_domain_do_not_hide_that_those_at_all_fail() {
        let mut failing = Failing::default();
        for _ in 0..3 {
            failing.looked(&Err("too slow".into()), true);
            failing.looked(&Ok(Vec::new()), false);
        }
        let told = failing.problems();
        assert!(told.len() == 1 && told[0].contains("last 3 looks at all domains failed: too slow"), "{told:?}");
        failing.looked(&Ok(Vec::new()), true);
        assert!(failing.problems().is_empty());
    }

    #[test]
    fn a_domain_that_cannot_be_looked_at_is_named_and_many_are_counted() {
        let mut failing = Failing::default();
        let report = |n: u32, outcome: &str| json!({"uuid": format!("u{n}"), "name": format!("web{n}"), "outcome": outcome, "why": "no QMP"});
        for _ in 0..3 {
            failing.looked(&Ok((0..5).map(|n| report(n, "failed")).collect()), true);
        }
        let told = failing.problems();
        assert!(told.len() == 4 && told[0].contains("domain web0 failed: no QMP") && told[3].contains("2 more domains"), "{told:?}");
        failing.looked(&Ok(vec![report(0, "looked"), report(1, "busy")]), false);
        assert_eq!(failing.problems().len(), 3);
        failing.looked(&Ok(vec![report(2, "failed")]), true);
        let told = failing.problems();
        assert!(told.len() == 1 && told[0].contains("last 4 looks at domain web2"), "the others are gone: {told:?}");
    }
}
