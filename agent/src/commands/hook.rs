//! `cairn hook install`, `remove`, `status`

use super::Done;
use crate::{
    cli::{Common, HookCommand, HookInstall, HookPlace, HookStatus},
    failure::{NOT_FOUND, Outcome},
    hook::{
        self, Place, Source,
        daemons::Calls,
        look::{Look, unix_ms},
    },
    output,
};
use serde_json::json;

/// Runs one of them.
pub fn run(common: &Common, command: &HookCommand) -> Outcome<Done> {
    match command {
        HookCommand::Install(o) => install(common, o),
        HookCommand::Remove(o) => remove(common, o),
        HookCommand::Status(o) => status(common, o),
    }
}

fn install(common: &Common, o: &HookInstall) -> Outcome<Done> {
    let (place, source) = (Place::of(&o.place.dir), Source::find(o.binary.as_deref())?);
    let changed = hook::install(&place, &source, o.force)?;
    let look = Look::at(&place, Some(&source))?;
    if common.json {
        let mut value = look.json(&place);
        value["changed"] = changed.into();
        output::print_json(&value);
    } else if !common.quiet {
        let did = if changed { "installed" } else { "is up to date" };
        out!("{} {did}, version {}", place.path.display(), source.mark.version);
        look.advice().iter().for_each(|line| out!("{line}"));
    }
    look.warn();
    Ok(if look.problems.is_empty() { Done::Clean } else { Done::WithWarnings })
}

fn remove(common: &Common, o: &HookPlace) -> Outcome<Done> {
    let place = Place::of(&o.dir);
    let removed = hook::remove(&place)?;
    if common.json {
        output::print_json(&json!({"path": place.path.display().to_string(), "removed": removed}));
    } else if !common.quiet {
        out!("{} {}", place.path.display(), if removed { "removed" } else { "was not there" });
    }
    Ok(Done::Clean)
}

fn status(common: &Common, o: &HookStatus) -> Outcome<Done> {
    let place = Place::of(&o.place.dir);
    let source = match (&o.binary, Source::find(o.binary.as_deref())) {
        (Some(_), Err(e)) => return Err(e),
        // What is installed works without its original.
        (_, source) => source.ok(),
    };
    let look = Look::at(&place, source.as_ref())?;
    if common.json {
        output::print_json(&look.json(&place));
    } else if !common.quiet {
        out!("{}: {}", place.path.display(), look.state(&place));
        if let Some(called) = look.called {
            out!("last called {}", output::time(unix_ms(called)));
        }
        look.advice().iter().for_each(|line| out!("{line}"));
    }
    look.warn();
    let good = look.problems.is_empty() && look.daemons.iter().all(|d| d.calls == Calls::Yes);
    Ok(match (&look.version, good) {
        (None, _) => Done::Code(NOT_FOUND),
        (Some(_), true) => Done::Clean,
        (Some(_), false) => Done::WithWarnings,
    })
}
