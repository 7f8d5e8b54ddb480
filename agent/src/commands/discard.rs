//! `cairn discard`

use super::Done;
use crate::{
    cli::{self, Common},
    context,
    failure::{FAILED, Failure, Outcome},
    output,
    run::{
        self,
        folder::RunFolder,
        layers,
        record::{Record, State, Wish},
        saved, teardown,
    },
};
use cairn_hypervisor::{host::HostError, run::GuestState};
use std::path::PathBuf;

/// Removes runs.
pub fn run(common: &Common, o: &cli::Discard) -> Outcome<Done> {
    let state_dir = context::state_dir(common)?;
    run::folder::sweep(&state_dir);
    let (mut chosen, mut empty) = (Vec::new(), Vec::new());
    let names = o.names.iter().enumerate().filter(|(at, name)| !o.names[..*at].contains(name));
    for (_, name) in names {
        let folder = RunFolder::of(&state_dir, name)?;
        let record = match folder.record() {
            Ok(record) => record,
            // Made, and nothing in it yet: whoever made it is gone.
            Err(f) if f.code == crate::failure::NOT_FOUND && folder.exists() => {
                empty.push(folder);
                continue;
            }
            Err(f) => return Err(f),
        };
        if !o.force && record.state == State::Ready && matches!(folder.wish(), Ok(Some(Wish::Keep { .. }))) {
            return Err(Failure::refused(format!(
                "run '{0}' is being kept; nothing was removed ('cairn keep {0} --cancel' ends that, --force removes it with all that it wrote)",
                output::shown(name)
            )));
        }
        if !o.force && record.state == State::Ready && runs(&record)? {
            return Err(Failure::refused(format!(
                "the domain of run '{}' is running, or its memory is saved; what it wrote would be lost (shut it down first, 'virsh managedsave-remove' drops a saved memory, or --force); nothing was \
                 removed",
                output::shown(name)
            )));
        }
        chosen.push((folder, record));
    }
    let (mut gone, mut left, mut replaced, mut failed) = (Vec::new(), Vec::new(), Vec::new(), None);
    for folder in &empty {
        folder.remove("empty")?;
        gone.push(folder.name().to_owned());
    }
    for (folder, record) in &chosen {
        let made = files_of(record);
        match snapshots_elsewhere(record).and_then(|elsewhere| run::discard(folder, record).map(|()| elsewhere)) {
            Ok(elsewhere) => {
                if !common.quiet && !common.json {
                    out!("run {} is gone", output::shown(&record.name));
                }
                gone.push(record.name.clone());
                left.extend(elsewhere);
                replaced.extend(made);
            }
            // One that stays keeps no other from going; the last failure is the command's.
            Err(f) => {
                if let Some(earlier) = failed.replace(f) {
                    earlier.print(common.json);
                }
            }
        }
    }
    left.retain(|path| path.exists());
    for path in &left {
        let path = output::shown(&path.display().to_string());
        say!("cairn: warning: {path} stays: a snapshot of the run that lies elsewhere. It is worth nothing without the run; remove it");
    }
    replaced.retain(|path: &PathBuf| path.exists());
    for path in &replaced {
        let path = output::shown(&path.display().to_string());
        say!("cairn: warning: {path} stays: it is not the file that the run made, but another that was put in its place");
    }
    left.append(&mut replaced);
    if common.json {
        let left: Vec<_> = left.iter().map(|path| path.display().to_string()).collect();
        output::print_json(&serde_json::json!({"discarded": gone, "left": left}));
    }
    match failed {
        Some(f) => Err(f),
        None if left.is_empty() => Ok(Done::Clean),
        None => Ok(Done::WithWarnings),
    }
}

/// What a run makes; what is there after it is gone is somebody else's.
fn files_of(record: &Record) -> Vec<PathBuf> {
    let images = record.disks.iter().flat_map(|d| [Some(&d.overlay), d.copy.as_ref().map(|c| &c.path)]).flatten();
    images.chain(&record.nvram).cloned().collect()
}

/// Files of snapshots that do not lie where the run's images do; only its domain knows them.
fn snapshots_elsewhere(record: &Record) -> Outcome<Vec<PathBuf>> {
    let domain = match run::connect(record.connect.as_deref()) {
        // Nothing is wished for yet: a run must not end by itself long after its command failed.
        Err(e @ HostError::Silent { .. }) => {
            return Err(Failure::new(FAILED, format!("run '{}': {e}; nothing of it was removed", output::shown(&record.name))));
        }
        opened => opened.and_then(|host| host.domain(&record.uuid)),
    };
    let found = domain.ok().and_then(|domain| layers::of(&domain, record).ok()).unwrap_or_default();
    Ok(found.into_iter().filter(|layer| !layers::goes(record, layer)).map(|layer| layer.path).collect())
}

fn runs(record: &Record) -> Outcome<bool> {
    match run::connect(record.connect.as_deref())?.domain(&record.uuid) {
        Err(HostError::NoDomain { .. }) => Ok(false),
        Err(e) => Err(e.into()),
        // The machine itself, brought back otherwise: it stays whatever becomes of the run.
        Ok(domain) if teardown::owned(&domain, record)?.is_none() => Ok(false),
        // Its memory is what it wrote, too.
        Ok(domain) if saved::refuse_memory(&domain, record).is_err() => Ok(true),
        Ok(domain) => Ok(domain.guest_state().map_err(|e| run::keep::libvirt(&e))? != GuestState::Off),
    }
}
