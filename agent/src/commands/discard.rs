//! `cairn discard`

use super::Done;
use crate::{
    cli::{self, Common},
    context,
    failure::{Failure, Outcome},
    output,
    run::{
        self,
        folder::RunFolder,
        record::{Record, State, Wish},
        saved,
    },
};
use cairn_hypervisor::{Host, host::HostError, run::GuestState};

/// Removes runs.
pub fn run(common: &Common, o: &cli::Discard) -> Outcome<Done> {
    let state_dir = context::state_dir(common)?;
    run::folder::sweep(&state_dir);
    let mut chosen = Vec::new();
    for name in &o.names {
        let folder = RunFolder::of(&state_dir, name)?;
        let record = match folder.record() {
            Ok(record) => record,
            // Made, and nothing in it yet: whoever made it is gone.
            Err(f) if f.code == crate::failure::NOT_FOUND && folder.exists() => {
                folder.remove("empty")?;
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
                "the domain of run '{}' is running; what it wrote would be lost (shut it down first, or --force); nothing was removed",
                output::shown(name)
            )));
        }
        chosen.push((folder, record));
    }
    for (folder, record) in &chosen {
        run::discard(folder, record)?;
        if !common.quiet && !common.json {
            out!("run {} is gone", output::shown(&record.name));
        }
    }
    if common.json {
        output::print_json(&serde_json::json!({"discarded": o.names}));
    }
    Ok(Done::Clean)
}

fn runs(record: &Record) -> Outcome<bool> {
    match Host::open(record.connect.as_deref())?.domain(&record.uuid) {
        Err(HostError::NoDomain { .. }) => Ok(false),
        Err(e) => Err(e.into()),
        // Its memory is what it wrote, too.
        Ok(domain) if saved::refuse_memory(&domain, record).is_err() => Ok(true),
        Ok(domain) => Ok(domain.guest_state().map_err(|e| run::keep::libvirt(&e))? != GuestState::Off),
    }
}
