//! Checks for what was begun and not ended: disks that are half restored, runs that are half made or not served.

use super::{
    finding::{Finding, Status},
    limit::within,
};
use crate::{
    in_place,
    output::shown,
    run::{
        folder::{RunFolder, RunSockets},
        record::State,
        status::Status as RunStatus,
    },
};
use std::{path::Path, time::Duration};

const LIMIT: Duration = Duration::from_secs(15);

/// Looks at the state folder.
pub fn half_done(state_dir: &Path) -> Vec<Finding> {
    let dir = state_dir.to_owned();
    within(LIMIT, move || [restores(&dir), runs(&dir)].concat())
        .unwrap_or_else(|silent| vec![Finding::failed("state", format!("{}: {silent}", state_dir.display()), "see whether its disk is in order (dmesg)")])
}

fn restores(state_dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "restore";
    let half = in_place::warnings(state_dir, None);
    if half.is_empty() {
        return vec![Finding::ok(CHECK, "no disk is half restored")];
    }
    half.iter().map(|message| Finding::told(CHECK, Status::Failed, message, "restore it again; nothing of it is saved until then")).collect()
}

fn runs(state_dir: &Path) -> Vec<Finding> {
    const CHECK: &str = "run";
    let folders = match RunFolder::all(state_dir) {
        Ok(folders) => folders,
        Err(failure) => return vec![Finding::told(CHECK, Status::Warning, &failure.message, "see whether its disk is in order (dmesg)")],
    };
    let count = folders.len();
    let findings: Vec<Finding> = folders.iter().filter_map(run).collect();
    if !findings.is_empty() {
        return findings;
    }
    vec![Finding::ok(CHECK, if count == 0 { "no domain runs from a restore point".to_owned() } else { format!("{count} domains run from restore points") })]
}

/// What is wrong with a run. Who holds its lock makes, serves or removes it.
fn run(folder: &RunFolder) -> Option<Finding> {
    const CHECK: &str = "run";
    let name = shown(folder.name());
    let is_worked_on = || folder.is_locked();
    let finding = match folder.record() {
        // Ended meanwhile, or is being made.
        Err(_) if is_worked_on() || !folder.exists() => return None,
        Err(failure) => Finding::told(CHECK, Status::Warning, &failure.message, &format!("'cairn discard {name}' removes what is left of it")),
        Ok(record) if record.state == State::Making && !is_worked_on() => {
            Finding::warning(CHECK, "it was begun, and nobody goes on with it", format!("'cairn discard {name}' removes what is there of it"))
        }
        Ok(record) => {
            let status = RunStatus::read(&RunSockets::of(&record.id)).unwrap_or_default();
            match status.trouble() {
                Some(trouble) => Finding::warning(CHECK, shown(&trouble), format!("'cairn runs' and {} say more", folder.log().display())),
                None if record.state == State::Ready && !is_worked_on() => {
                    Finding::warning(CHECK, "nobody serves the point that it runs from; its guest waits", "'cairn runs' brings its server back")
                }
                None => return None,
            }
        }
    };
    Some(finding.of_domain(folder.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_done_is_told_with_its_remedy() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = dir.path();
        assert!(half_done(state).iter().all(|f| f.status == Status::Ok));
        let half = in_place::Record {
            key: "u".into(),
            name: "web1".into(),
            point: "0123456789abcdef".into(),
            point_name: "web1".into(),
            disks: vec!["vda".into()],
            daemon: None,
        };
        half.write(state).expect("writes");
        RunFolder::of(state, "begun").expect("a name").create().expect("made");
        let found = half_done(state);
        let of = |check: &str| found.iter().find(|f| f.check == check).expect("a finding");
        assert_eq!(of("restore").status, Status::Failed);
        assert!(of("restore").remedy.as_deref().is_some_and(|r| r.contains("--in-place")), "{found:?}");
        assert_eq!((of("run").status, of("run").domain.as_deref()), (Status::Warning, Some("begun")));
        assert!(of("run").remedy.as_deref().is_some_and(|r| r.contains("discard") || r.contains("cairn runs")), "{found:?}");
    }
}
