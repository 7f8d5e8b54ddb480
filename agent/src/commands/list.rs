//! `cairn list` and `cairn show`

use super::Done;
use crate::{
    cli::{self, Common},
    context::open_store,
    failure::{Failure, Outcome},
    output, points,
};
use cairn_store::{Point, PointSizes, Store};

/// Points, oldest first.
pub fn list(common: &Common, o: &cli::List) -> Outcome<Done> {
    let store = open_store(common)?;
    let (all, damaged) = if o.forgotten { (store.forgotten_points()?, Vec::new()) } else { store.points_and_damage()? };
    let chosen: Vec<&Point> = match &o.name {
        None => all.iter().collect(),
        Some(name) => points::of_name(&all, name),
    };
    if let (Some(name), true) = (&o.name, chosen.is_empty()) {
        return Err(Failure::not_found(format!("no restore point of '{name}' in {}", store.location())));
    }
    let sizes = if o.sizes { Some(super::store_info::sizes(&store, &chosen)?) } else { None };
    if common.json {
        let values: Vec<_> = chosen.iter().map(|p| sized_json(&store, p, sizes.as_ref())).collect::<Outcome<_>>()?;
        output::print_json(&values.into());
    } else if chosen.is_empty() {
        out!("no {}restore points in {}", if o.forgotten { "forgotten " } else { "" }, store.location());
    } else {
        out!("{}", output::point_table(&chosen, sizes.as_ref()));
    }
    damaged.iter().for_each(|d| say!("cairn: warning: {d}; a point may be missing above, see 'cairn verify --all'"));
    if let Some(s) = sizes.filter(|s| !s.damage.is_empty()) {
        return Ok(super::store_info::damage(&s.damage));
    }
    Ok(if damaged.is_empty() { Done::Clean } else { Done::WithWarnings })
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
    let all = store.points()?;
    let p = points::select(&all, &o.point)?;
    let manifest = store.manifest(p)?;
    let sizes = if o.sizes { Some(super::store_info::sizes(&store, &[p])?) } else { None };
    let done = sizes.as_ref().map_or(Done::Clean, |s| super::store_info::damage(&s.damage));
    if !common.json {
        out!("{}", output::show(p, &store.disks(p)?, &manifest, sizes.as_ref()));
        return Ok(done);
    }
    let mut value = sized_json(&store, p, sizes.as_ref())?;
    if let Some(map) = value.as_object_mut() {
        map.insert("host".into(), manifest.host.into());
        map.insert("cairn_version".into(), manifest.cairn_version.into());
        map.insert("warnings".into(), manifest.warnings.into());
        map.insert("source".into(), manifest.source);
        map.insert("parts".into(), manifest.parts.into_keys().collect::<Vec<_>>().into());
    }
    output::print_json(&value);
    Ok(done)
}
