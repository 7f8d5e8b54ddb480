//! The server of a run: opens the store, holds the point, serves its disks to QEMU (or to the storage daemon) until it is killed.
//!
//! Invariants
//! - It serves on, whatever happens to its supervisor: it waits for the lock that a living supervisor holds, and whoever gets that lock starts the
//!   next one and hands it over.
//! - Every chunk is proven before it is served; what is damaged is a failed read, which pauses the guest, never wrong bytes.

use super::{
    folder::{RunFolder, RunSockets},
    hot, launch, log,
    pulse::{self, Reads, Watched},
    record::{Key, Record},
};
use crate::{
    context,
    failure::{Failure, NOT_FOUND, Outcome},
    interrupt,
    point_export::PointExport,
};
use cairn_nbd::server::{Exports, Limits, Listener, Server, ServerError, UnixSocket};
use cairn_store::{Credential, OpenOptions, Pin, Point, PointSource, ReadOptions, Store};
use std::{path::Path, sync::Arc};

impl From<ServerError> for Failure {
    fn from(e: ServerError) -> Self {
        Self::new(crate::failure::FAILED, crate::domain::chain(&e))
    }
}

/// Opens the store of a run.
pub fn open_store(path: &Path, key: &Key, state_dir: &Path) -> Outcome<Store> {
    let credential = match key {
        Key::None => None,
        Key::File(path) => Some(Credential::read_key_file(path)?),
        Key::Passphrase(path) => Some(Credential::Passphrase(context::read_passphrase(path)?)),
    };
    Ok(Store::open(path, OpenOptions { credential, state_dir: state_dir.to_path_buf(), host: context::host_name() })?)
}

/// Serves until killed, or until the run is gone.
pub fn serve(folder: &RunFolder, record: &Record) -> Outcome<()> {
    let store = open_store(&record.store, &record.key, &record.state_dir)?;
    let (_pin, point) = hold(&store, record)?;
    let (mut exports, mut recording, reads) = (Exports::new(), Vec::new(), Arc::new(Reads::default()));
    for entry in store.disks(&point)?.iter().filter(|e| record.disks.iter().any(|d| d.target == e.target)) {
        let path = hot::path(&record.state_dir, &record.point_name, &entry.target);
        let list = hot::read(&path);
        let source = Arc::new(PointSource::with_options(&store, entry, ReadOptions { record_touches: list.is_none(), ..ReadOptions::default() })?);
        match list {
            Some(list) => source.prefetch(list),
            None => recording.push((path, Arc::downgrade(&source))),
        }
        let export = PointExport { source, description: String::new() };
        exports.add(entry.target.clone(), Arc::new(Watched { export, reads: Arc::clone(&reads) }))?;
    }
    hot::write_later(recording);
    let runtime = interrupt::runtime()?;
    let _server = {
        let _inside = runtime.enter();
        let allowed_uids = record.owner.map_or_else(|| vec![nix::unistd::geteuid().as_raw()], |o| vec![o.0]);
        let socket = UnixSocket { path: RunSockets::of(&record.id).server(), owner: record.owner, allowed_uids };
        Server::start(vec![Listener::unix(&socket)?], exports, Limits::default())?
    };
    pulse::tell(reads, &RunSockets::of(&record.id), &record.store);
    log::say(format!("serving {} of {} {}", record.disks.len(), record.point_name, record.point));
    stand_by(folder, record)
}

/// The point, held: forgotten since or not, as long as we held it before.
fn hold(store: &Store, record: &Record) -> Outcome<(Pin, Point)> {
    let of = |points: Vec<Point>| points.into_iter().find(|p| p.id.to_string() == record.point);
    if let Some(point) = of(store.points_and_damage()?.0) {
        match store.pin(&[point.id]) {
            Ok(pin) => return Ok((pin, point)),
            Err(cairn_store::StoreError::NotFound(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let gone = || Failure::new(NOT_FOUND, format!("point {} of '{}' is not in {} any more", record.point, record.point_name, store.location()));
    let point = of(store.forgotten_points()?).ok_or_else(gone)?;
    log::say(format!("point {} was forgotten; it is served on while its data is there", record.point));
    Ok((store.pin_held(&[point.id])?, point))
}

/// Waits for the end of the supervisor, again and again.
fn stand_by(folder: &RunFolder, record: &Record) -> Outcome<()> {
    loop {
        let lock = match folder.wait_lock() {
            Ok(lock) => lock,
            Err(f) if f.code == NOT_FOUND => return Ok(()),
            Err(f) => return Err(f),
        };
        log::say("the supervisor is gone; starting another one");
        match launch::supervisor(folder, record, lock) {
            Ok(Some(mut child)) => {
                // It has the lock, and is our child: whoever waits for both must wait for it first.
                let _ = child.wait();
            }
            Ok(None) => {}
            Err(f) => log::say(f.message),
        }
        // A supervisor that cannot live must not be started a thousand times a second.
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}
