//! `cairn tag`, `note`, `protect`, `unprotect`: entries in a point's log.

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::Outcome,
    output, points,
};
use cairn_store::{Store, format::SessionId, point::check_tag};

/// Adds and removes tags.
pub fn tag(common: &Common, o: &cli::Tag) -> Outcome<Done> {
    o.tags.iter().chain(&o.remove).try_for_each(|t| check_tag(t))?;
    let store = open_store(common)?;
    let all = store.points()?;
    let p = points::select(&all, &o.point)?;
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
    let p = points::select(&all, &o.point)?;
    store.note(p, &o.text)?;
    say(common, &store, p.id)
}

/// Protects or unprotects.
pub fn protect(common: &Common, o: &cli::OnePoint, protect: bool) -> Outcome<Done> {
    let store = open_store(common)?;
    let all = store.points()?;
    let p = points::select(&all, &o.point)?;
    store.protect(p, protect)?;
    say(common, &store, p.id)
}

fn say(common: &Common, store: &Store, id: SessionId) -> Outcome<Done> {
    let all = store.points()?;
    let Some(p) = all.iter().find(|p| p.id == id) else {
        return Err(crate::failure::Failure::not_found(format!("point {id} was forgotten meanwhile")));
    };
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
