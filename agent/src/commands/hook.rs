//! `cairn hook install`, `remove`, `status`

use super::Done;
use crate::{
    cli::{Common, HookCommand, HookInstall, HookPlace, HookStatus},
    failure::{NOT_FOUND, Outcome},
    hook::{
        self, Found, Place, Source,
        daemons::{self, Calls, Daemon},
        problems,
    },
    output,
};
use cairn_hook::place::{DIR_DEFAULT, last_called};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

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

/// All that is to be said of the hook.
struct Look {
    version: Option<String>,
    /// Whether it is the build that `install` would put there; none where there is no program to compare with.
    current: Option<bool>,
    foreign: Option<String>,
    problems: Vec<String>,
    daemons: Vec<Daemon>,
    called: Option<SystemTime>,
}

impl Look {
    fn at(place: &Place, source: Option<&Source>) -> Outcome<Self> {
        let base = Path::new(DIR_DEFAULT);
        let called = last_called(base);
        let mut look = Self { version: None, current: None, foreign: None, problems: Vec::new(), daemons: Vec::new(), called };
        match hook::look(place)? {
            Found::Nothing => {}
            Found::Foreign(what) => look.foreign = Some(what),
            Found::Ours { mark, bytes, metadata } => {
                look.problems = problems::of(place, &mark, &bytes, &metadata, source, base);
                look.current = source.map(|s| s.bytes == bytes);
                look.version = Some(mark.version);
                look.daemons = daemons::all(place, called);
            }
        }
        let wrong = look.daemons.iter().filter_map(|d| match d.calls {
            Calls::NotSeen => Some(format!("{} (pid {}) runs with another view of the file system, and does not see the hook", d.name, d.pid)),
            Calls::Forbidden => Some(format!("the AppArmor profile of {} does not allow programs in {}", d.name, place.dir.display())),
            Calls::Yes | Calls::AfterReload => None,
        });
        look.problems.extend(wrong);
        Ok(look)
    }

    fn state(&self, place: &Place) -> String {
        match (&self.version, &self.foreign) {
            (Some(version), _) => format!("installed, version {version}"),
            (None, Some(what)) => format!("{what}; the hook is not installed"),
            (None, None) => format!("not installed; 'cairn hook install' puts it into {}", place.folder.display()),
        }
    }

    /// What to do about daemons that looked too early.
    fn advice(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for d in self.daemons.iter().filter(|d| d.calls == Calls::AfterReload) {
            let name = &d.name;
            lines.push(format!(
                "{name} (pid {}) had no hook when it started, and has not called this one yet: run 'systemctl reload {name}', unless you did",
                d.pid
            ));
        }
        if self.version.is_some() && self.daemons.is_empty() {
            lines.push("no daemon of libvirt's runs; it finds the hook when it starts".to_owned());
        }
        lines
    }

    fn warn(&self) {
        self.problems.iter().for_each(|p| say!("cairn: warning: {}", output::shown(p)));
    }

    fn json(&self, place: &Place) -> Value {
        let daemons: Vec<Value> = self.daemons.iter().map(|d| json!({"pid": d.pid, "name": d.name, "calls": d.calls.word()})).collect();
        json!({
            "path": place.path.display().to_string(), "installed": self.version.is_some(), "version": self.version, "current": self.current,
            "foreign": self.foreign, "last_called": self.called.map(|c| output::rfc3339(unix_ms(c))), "daemons": daemons,
            "reload_needed": self.daemons.iter().any(|d| d.calls == Calls::AfterReload), "problems": self.problems,
        })
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
