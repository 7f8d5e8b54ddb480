//! Which point of which domain: a name alone is its latest good point.

use super::list::{Entry, LineOptions};
use crate::{
    domain::SavedDomain,
    failure::{Failure, Outcome},
    points,
};
use cairn_store::{Point, PointState, Store};
use std::collections::BTreeSet;

/// A point and whether it was chosen as the latest good one of a name.
pub struct Choice {
    /// The point.
    pub point: Point,
    /// Any point of this name would have done.
    pub by_name: bool,
    /// What is to be said about the choice.
    pub notes: Vec<String>,
}

/// The point that an entry means. `host`: only points that this host took.
pub fn choose(store: &Store, all: &[Point], entry: &Entry, host: Option<&str>) -> Outcome<Choice> {
    let mine: Vec<&Point> = points::of_name(all, &entry.what).into_iter().filter(|p| host.is_none_or(|h| p.summary.host == h)).collect();
    if mine.is_empty() {
        let by = host.map_or_else(String::new, |h| format!(" that host {h} took"));
        let point = points::select(all, &entry.what).map_err(|f| Failure::new(f.code, format!("{}{by}", f.message)))?;
        if host.is_some_and(|h| point.summary.host != h) {
            return Err(Failure::not_found(format!("'{}' is of host {}, not one{by}", entry.what, point.summary.host)));
        }
        domain_of(store, point)?;
        return Ok(Choice { point: point.clone(), by_name: false, notes: Vec::new() });
    }
    let (mine, mut notes) = (points::believed(mine), Vec::new());
    for point in mine.iter().rev() {
        match (point.state(), domain_of(store, point)) {
            (PointState::Damaged, _) => notes.push(format!("point {} is damaged and passed over", point.id)),
            (_, Err(f)) => notes.push(format!("point {} is passed over: {}", point.id, f.message)),
            (_, Ok(_)) => return Ok(Choice { point: (*point).clone(), by_name: true, notes }),
        }
    }
    Err(Failure::not_found(format!("'{}' has no good point of a domain: {}", entry.what, notes.join("; "))))
}

/// A newer point of the same domain by another host than this point's: it moved there, and an older state beside it would be a second one with its addresses.
pub fn later_elsewhere<'a>(store: &Store, all: &'a [Point], point: &Point) -> Outcome<Option<&'a Point>> {
    let uuid = domain_of(store, point)?.uuid;
    let is_later = |p: &&Point| p.summary.host != point.summary.host && p.summary.time_unix_ms > point.summary.time_unix_ms;
    // One whose manifest cannot be read tells nothing about where the domain is.
    let is_same = |p: &&Point| domain_of(store, p).is_ok_and(|domain| domain.uuid == uuid);
    Ok(points::of_name(all, &point.summary.name).into_iter().filter(is_later).rev().find(is_same))
}

/// What the point says of its domain.
pub fn domain_of(store: &Store, point: &Point) -> Outcome<SavedDomain> {
    SavedDomain::of(&store.manifest(point)?).ok_or_else(|| Failure::usage(format!("'{}' is an image, not a domain; use 'cairn restore'", point.summary.name)))
}

/// All domains of a host, by name. Without a name of a host there must be only one.
pub fn all_of(store: &Store, all: &[Point], host: Option<&str>, defaults: &LineOptions) -> Outcome<Vec<Entry>> {
    let hosts: BTreeSet<&str> = all.iter().map(|p| p.summary.host.as_str()).collect();
    let list = || hosts.iter().map(|h| crate::output::shown(h)).collect::<Vec<_>>().join(", ");
    match host {
        None if hosts.len() > 1 => return Err(Failure::usage(format!("points of several hosts are in the store ({}); give --host", list()))),
        Some(h) if !hosts.contains(h) => return Err(Failure::not_found(format!("no point is of host '{h}'; there are {}", list()))),
        _ => {}
    }
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for p in all.iter().filter(|p| host.is_none_or(|h| p.summary.host == h)) {
        // One that cannot be read is a matter of its turn, where it is said.
        if !names.contains(p.summary.name.as_str()) && domain_of(store, p).map_or_else(|f| f.code != crate::failure::USAGE, |_| true) {
            names.insert(&p.summary.name);
        }
    }
    if names.is_empty() {
        return Err(Failure::not_found("there is no point of a domain; see 'cairn list'"));
    }
    Ok(names.into_iter().map(|name| Entry { what: name.to_owned(), options: defaults.clone() }).collect())
}
