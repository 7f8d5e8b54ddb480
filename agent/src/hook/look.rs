//! All that is to be said of the installed hook: `cairn hook status` and `cairn doctor`.

use super::{
    Found, Place, Source,
    daemons::{self, Calls, Daemon},
    problems,
};
use crate::{failure::Outcome, output};
use cairn_hook::place::{DIR_DEFAULT, last_called};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// All that is to be said of the hook.
pub struct Look {
    /// Of which version it is; none where it is not installed.
    pub version: Option<String>,
    /// Whether it is the build that `install` would put there; none where there is no program to compare with.
    current: Option<bool>,
    /// What is in its place, where it is not ours.
    pub foreign: Option<String>,
    /// What may keep it from being run.
    pub problems: Vec<String>,
    /// libvirt's daemons.
    pub daemons: Vec<Daemon>,
    /// When it was called last.
    pub called: Option<SystemTime>,
}

impl Look {
    /// Looks; `source` is what `install` would put there.
    pub fn at(place: &Place, source: Option<&Source>) -> Outcome<Self> {
        let base = Path::new(DIR_DEFAULT);
        let called = last_called(base);
        let mut look = Self { version: None, current: None, foreign: None, problems: Vec::new(), daemons: Vec::new(), called };
        match super::look(place)? {
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

    /// In words.
    pub fn state(&self, place: &Place) -> String {
        match (&self.version, &self.foreign) {
            (Some(version), _) => format!("installed, version {version}"),
            (None, Some(what)) => format!("{what}; the hook is not installed"),
            (None, None) => format!("not installed; 'cairn hook install' puts it into {}", place.folder.display()),
        }
    }

    /// What to do about daemons that looked too early.
    pub fn advice(&self) -> Vec<String> {
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

    /// Tells the problems.
    pub fn warn(&self) {
        self.problems.iter().for_each(|p| say!("cairn: warning: {}", output::shown(p)));
    }

    /// As scripts have it.
    pub fn json(&self, place: &Place) -> Value {
        let daemons: Vec<Value> = self.daemons.iter().map(|d| json!({"pid": d.pid, "name": d.name, "calls": d.calls.word()})).collect();
        json!({
            "path": place.path.display().to_string(), "installed": self.version.is_some(), "version": self.version, "current": self.current,
            "foreign": self.foreign, "last_called": self.called.map(|c| output::rfc3339(unix_ms(c))), "daemons": daemons,
            "reload_needed": self.daemons.iter().any(|d| d.calls == Calls::AfterReload), "problems": self.problems,
        })
    }
}

/// For people and scripts.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
