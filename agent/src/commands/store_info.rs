//! `cairn store info`, and the sizes that `list` and `show` add with `--sizes`.

use super::Done;
use crate::{
    cli::{Common, StoreCommand},
    context::open_store,
    failure::{DAMAGED, Outcome},
    interrupt, output,
};
use cairn_store::{Point, PointSizes, Progress, Store};
use std::sync::Arc;

/// Commands about the store as a whole.
pub fn run(common: &Common, o: &StoreCommand) -> Outcome<Done> {
    match o {
        StoreCommand::Info => info(common),
    }
}

fn info(common: &Common) -> Outcome<Done> {
    let store = open_store(common)?;
    let statistics = interruptible(|progress| Ok(store.statistics(progress)?))?;
    if common.json {
        output::print_json(&output::store_json(&store, &statistics));
    } else {
        out!("{}", output::store_text(&store, &statistics));
    }
    Ok(damage(&statistics.damage))
}

/// What each of these points, and each of their names, would free.
pub fn sizes(store: &Store, points: &[&Point]) -> Outcome<PointSizes> {
    let ids: Vec<_> = points.iter().map(|p| p.id).collect();
    interruptible(|progress| Ok(store.point_sizes(&ids, progress)?))
}

/// Names what could not be read.
pub fn damage(damage: &[String]) -> Done {
    damage.iter().for_each(|d| say!("cairn: warning: {}; the figures lack what it holds, see 'cairn verify --all'", output::shown(d)));
    if damage.is_empty() { Done::Clean } else { Done::Code(DAMAGED) }
}

fn interruptible<T>(work: impl FnOnce(&Progress) -> Outcome<T>) -> Outcome<T> {
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a part of the count, which the next one goes on with")?;
    work(&progress)
}
