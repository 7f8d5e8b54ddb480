//! `cairn list` and `cairn show`

use super::Done;
use crate::{
    cli::{self, Common},
    context::{open_store, state_dir},
    failure::{Failure, Outcome},
    output, points,
    retention::times,
};
use cairn_store::{AllPoints, Point, PointSizes, Store, TakeBack};

/// Points, oldest first.
pub fn list(common: &Common, o: &cli::List) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, damaged) = if o.forgotten { can_be_taken_back(&store)? } else { store.points_and_damage()? };
    let chosen: Vec<&Point> = match &o.name {
        None => all.iter().collect(),
        Some(name) => points::of_name(&all, name),
    };
    if let (Some(name), true) = (&o.name, chosen.is_empty()) {
        let forgotten = if o.forgotten { "forgotten point that can be taken back" } else { "restore point" };
        return Err(Failure::not_found(format!("no {forgotten} of '{name}' in {}", store.location())));
    }
    let sizes = if o.sizes { Some(super::store_info::sizes(&store, &chosen)?) } else { None };
    if common.json {
        let values: Vec<_> = chosen.iter().map(|p| sized_json(&store, p, sizes.as_ref())).collect::<Outcome<_>>()?;
        output::print_json(&values.into());
    } else if chosen.is_empty() {
        out!("no {} in {}", if o.forgotten { "forgotten restore points that can be taken back" } else { "restore points" }, store.location());
    } else {
        out!("{}", output::point_table(&chosen, sizes.as_ref()));
    }
    warn_half_restored(common, o.name.as_deref());
    times::warn_ahead(&chosen, super::now_unix_ms());
    super::unreadable(&damaged);
    if let Some(s) = sizes.filter(|s| !s.damage.is_empty()) {
        return Ok(super::store_info::damage(&s.damage));
    }
    Ok(if damaged.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// Forgotten points whose data is all there, and that nobody has taken back yet; what of the others cannot be read.
fn can_be_taken_back(store: &Store) -> Outcome<(Vec<Point>, Vec<String>)> {
    let AllPoints { live, forgotten, damaged } = store.all_points()?;
    let mut take_back = TakeBack::new(store, &live)?;
    let mut out = Vec::new();
    for p in forgotten {
        if take_back.done_before(&p)?.is_none() && take_back.is_possible(&p)? {
            out.push(p);
        }
    }
    Ok((out, damaged))
}

/// Who lists the points of a domain that is half restored on this host is about to do something about it.
fn warn_half_restored(common: &Common, name: Option<&str>) {
    if let Ok(dir) = state_dir(common) {
        crate::in_place::warnings(&dir, name).iter().for_each(|w| say!("cairn: warning: {w}"));
    }
}

/// A point with what it would free, where that was asked for.
fn sized_json(store: &Store, p: &Point, sizes: Option<&PointSizes>) -> Outcome<serde_json::Value> {
    let mut value = output::point_json(store, p)?;
    if let (Some(sizes), Some(map)) = (sizes, value.as_object_mut()) {
        map.insert("unique".into(), sizes.points.get(&p.id).copied().into());
        map.insert("name_unique".into(), sizes.names.get(&p.summary.name).copied().into());
    }
    Ok(value)
}

/// One point with its disks, warnings and source.
pub fn show(common: &Common, o: &cli::Show) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, damaged) = store.points_and_damage()?;
    let hidden = super::unreadable(&damaged);
    let p = points::select(&all, &o.point)?;
    if o.screenshot.is_some() || o.console {
        return super::boot::show_evidence(&store, p, o).map(|()| hidden);
    }
    let manifest = store.manifest(p)?;
    let sizes = if o.sizes { Some(super::store_info::sizes(&store, &[p])?) } else { None };
    let done = match sizes.as_ref().map_or(Done::Clean, |s| super::store_info::damage(&s.damage)) {
        Done::Clean => hidden,
        done => done,
    };
    if !common.json {
        out!("{}", output::show(p, &store.disks(p)?, &manifest, sizes.as_ref()));
        return Ok(done);
    }
    let mut value = sized_json(&store, p, sizes.as_ref())?;
    if let Some(map) = value.as_object_mut() {
        map.insert("host".into(), manifest.host.into());
        map.insert("cairn_version".into(), manifest.cairn_version.into());
        map.insert("warnings".into(), manifest.warnings.into());
        map.insert("boot_proofs".into(), p.boot_proofs().iter().map(output::boot_proof_json).collect());
        map.insert("source".into(), manifest.source);
        map.insert("parts".into(), manifest.parts.into_keys().collect::<Vec<_>>().into());
    }
    output::print_json(&value);
    Ok(done)
}
