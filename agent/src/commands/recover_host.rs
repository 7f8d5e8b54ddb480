//! `cairn recover-host`

use super::Done;
use crate::{
    cli::{self, Common},
    context::{open_store, state_dir},
    failure::{Outcome, WARNINGS},
    interrupt, output,
    recover_host::{self, Recovering},
    restore,
};
use cairn_hypervisor::Host;
use cairn_store::Progress;
use std::sync::Arc;

/// Restores domains in order; the code is that of the worst.
pub fn run(common: &Common, o: &cli::RecoverHost) -> Outcome<Done> {
    restore::mapping(&o.elsewhere)?;
    let store = open_store(common)?;
    let (points, unreadable) = store.points_and_damage()?;
    let entries = recover_host::entries(&store, &points, o)?;
    let runtime = interrupt::runtime()?;
    let progress = Arc::new(Progress::default());
    interrupt::watch(&runtime, &progress, "a file that ends in .cairn-partial; run the same command again to go on")?;
    let all = Recovering {
        common,
        store: &store,
        points: &points,
        options: o,
        host: Host::open(common.connect.as_deref())?,
        journals: state_dir(common)?.join("recover"),
        runtime: &runtime,
        progress: &progress,
    };
    let lines = all.run(&entries);
    if common.json {
        output::print_json(&recover_host::json(&lines, o.dry_run));
    } else {
        out!("{}", recover_host::text(&lines));
        if o.dry_run {
            lines.iter().filter(|l| l.message.contains('\n')).for_each(|l| say!("cairn: {}: {}", output::shown(&l.name), l.message));
        }
    }
    unreadable.iter().for_each(|d| say!("cairn: warning: {d}; a newer point may be hidden by it"));
    let unused = recover_host::unused_maps(&lines);
    unused.iter().for_each(|map| say!("cairn: warning: {}", output::shown(&restore::unused_map(map, "these domains"))));
    let code = match recover_host::code(&lines) {
        0 if !unreadable.is_empty() || !unused.is_empty() => WARNINGS,
        code => code,
    };
    Ok(match code {
        0 => Done::Clean,
        WARNINGS => Done::WithWarnings,
        code => Done::Code(code),
    })
}
