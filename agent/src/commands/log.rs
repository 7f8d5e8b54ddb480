//! `cairn tag`, `note`, `protect`, `unprotect`: entries in a point's log.

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{Failure, Outcome},
    output, points,
};
use cairn_store::{Point, Store, format::SessionId, point::check_tag};

/// Adds and removes tags.
pub fn tag(common: &Common, o: &cli::Tag) -> Outcome<Done> {
    o.tags.iter().chain(&o.remove).try_for_each(|t| check_tag(t))?;
    let store = open_store(common)?;
    let all = store.points()?;
    let p = &current(&store, points::select(&all, &o.point)?.id)?;
    for t in &o.tags {
        store.tag(p, t, true)?;
    }
    for t in &o.remove {
        store.tag(p, t, false)?;
    }
    say(common, &store, p.id)
}

/// Replaces the note.
pub fn note(common: &Common, o: &cli::Note) -> Outcome<Done> {
    let store = open_store(common)?;
    let all = store.points()?;
    let p = &current(&store, points::select(&all, &o.point)?.id)?;
    store.note(p, &o.text)?;
    say(common, &store, p.id)
}

/// Protects or unprotects.
pub fn protect(common: &Common, o: &cli::OnePoint, protect: bool) -> Outcome<Done> {
    let store = open_store(common)?;
    let all = store.points()?;
    let p = &current(&store, points::select(&all, &o.point)?.id)?;
    store.protect(p, protect)?;
    say(common, &store, p.id)
}

/// The point as it stands in the store, past this host's cache: its log may have grown, or be that of another copy of the store.
fn current(store: &Store, id: SessionId) -> Outcome<Point> {
    store.point_from_storage(&id)?.ok_or_else(|| Failure::not_found(format!("point {id} was forgotten meanwhile")))
}

fn say(common: &Common, store: &Store, id: SessionId) -> Outcome<Done> {
    let p = &current(store, id)?;
    if common.json {
        output::print_json(&output::point_json(store, p)?);
    } else if !common.quiet {
        let tags = p.tags();
        let tags = if tags.is_empty() { "no tags".into() } else { format!("tags {}", tags.join(", ")) };
        let note = if p.note().is_empty() { String::new() } else { format!(", note: {}", output::shown(p.note())) };
        out!("{} {}: {}, {}{note}", output::shown(&p.summary.name), p.id, output::shown(&tags), if p.is_protected() { "protected" } else { "not protected" });
    }
    Ok(Done::Clean)
}
