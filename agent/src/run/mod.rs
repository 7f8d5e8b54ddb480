//! Runs: domains that live straight from a restore point, until they are kept or thrown away (docs/run.md).
//!
//! - [`record`], [`folder`]: what a run is, on disk; it outlives every process and the host's restart
//! - [`make`], [`teardown`]: making one and taking it away, both to be called again after a crash; [`layers`]: what snapshots laid over it
//! - [`server`], [`daemon`]: the processes between store and QEMU; [`processes`] finds them; [`hot`]: what a boot reads first
//! - [`supervisor`]: keeps those alive; [`pulse`]: sees one that hangs
//! - [`guest`]: sees to the domain; [`stopped`], [`obstacle`]: lets it go on after a failed read or write, and says why it cannot
//! - [`keep`], [`copy`], [`offline`]: make it an ordinary one, if there is [`room`] for that; [`backing`]: undoes the half of that which a crash left;
//!   [`again`]: defines a domain that was undefined; [`attempts`]: how often; [`detached`]: disks that were taken out of the domain
//!
//! Invariants
//! - Who holds the lock of a run's folder is its supervisor, or will be: there is one at most, and it alone changes the record of a finished run.
//! - The command line only writes a wish and watches: its death changes nothing.
//! - Nothing of a run is removed before its domain is gone, or no longer needs it.
//!
//! What it must not do: decide about points; touch what a run did not make.

pub mod again;
pub mod attempts;
pub mod backing;
pub mod copy;
pub mod daemon;
pub mod detached;
pub mod finish;
pub mod folder;
pub mod guest;
pub mod hot;
pub mod keep;
pub mod launch;
pub mod layers;
pub mod log;
pub mod make;
pub mod obstacle;
pub mod offline;
pub mod processes;
pub mod pulse;
pub mod record;
pub mod room;
pub mod saved;
pub mod server;
pub mod status;
pub mod stopped;
pub mod supervisor;
pub mod teardown;

use crate::failure::{FAILED, Failure, NOT_FOUND, Outcome};
use cairn_hypervisor::{Host, events, host::HostError};
use folder::RunFolder;
use record::{Record, Wish};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// For libvirt's daemon to let a command in; one that is stopped never does.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);

/// A connection for a command on runs, which must not hang with libvirt's daemon.
pub fn connect(uri: Option<&str>) -> Result<Host, HostError> {
    events::open_within(uri, CONNECT_LIMIT)
}

/// The run whose domain has this UUID.
pub fn of_domain(state_dir: &Path, uuid: &str) -> Option<(RunFolder, Record)> {
    // One that ends at this moment is none; where none can be listed, none was made.
    let folders = RunFolder::all(state_dir).unwrap_or_default().into_iter();
    folders.filter_map(|folder| folder.record().ok().map(|record| (folder, record))).find(|(_, record)| record.uuid.eq_ignore_ascii_case(uuid))
}

/// Whether a keep is at work on a run, or about to be; one that was given up is not.
pub fn is_being_kept(folder: &RunFolder, record: &Record) -> bool {
    let Ok(Some(Wish::Keep { asked_unix_ms, .. })) = folder.wish() else { return false };
    let told = status::Status::read(&folder::RunSockets::of(&record.id)).and_then(|status| status.keep);
    !told.is_some_and(|keep| keep.asked_unix_ms == asked_unix_ms && keep.gave_up)
}

/// How long a supervisor may take to end its run: the domain's end, the end of processes that may hang in their store.
const DISCARD_LIMIT: Duration = Duration::from_secs(90);

/// Removes a run with all that is its own, by its supervisor if one lives.
pub fn discard(folder: &RunFolder, record: &Record) -> Outcome<()> {
    if let Err(f) = folder.set_wish(&Wish::Discard) {
        if folder.exists() {
            return Err(f);
        }
        // Its supervisor had an earlier wish of the same, and was faster.
        wait_end(record);
        return Ok(());
    }
    let until = Instant::now() + DISCARD_LIMIT;
    loop {
        let gone = |result: Outcome<()>| match result {
            Err(f) if f.code == NOT_FOUND => {
                wait_end(record);
                Ok(())
            }
            other => other,
        };
        match folder.try_lock() {
            // Nobody supervises: it is ours to do, under the lock.
            Ok(Some(_lock)) => return gone(folder.record().and_then(|record| teardown::all(folder, &record))),
            Ok(None) if Instant::now() > until => {
                let why = status::Status::read(&folder::RunSockets::of(&record.id)).and_then(|s| s.trouble()).unwrap_or_else(|| "no reason known".into());
                return Err(Failure::new(FAILED, format!("run '{}' is not removed after {} s: {why}", record.name, DISCARD_LIMIT.as_secs())));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(f) => return gone(Err(f)),
        }
    }
}

/// How long the supervisor of a run that is gone may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A run is gone with its folder; its supervisor ends a moment later.
pub fn wait_end(record: &Record) {
    let until = Instant::now() + END_LIMIT;
    while Instant::now() < until && !processes::find(&record.id, record.owner).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
}
