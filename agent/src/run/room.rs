//! Whether what a keep will write fits where it goes, before it is begun.
//!
//! QEMU tells which parts of a disk are data and at what depth, by `qemu-img map`: what lies below the overlay is what a keep in place writes, all of it
//! what a keep elsewhere does.
//!
//! Invariants
//! - What cannot be found out in [`MAP_LIMIT`] refuses nothing: a disk that becomes full ends the keep by itself, and says so.
//!
//! What it must not do: promise. The guest writes on, and so do others.

use super::{
    folder::RunSockets,
    obstacle,
    record::{Destination, Phase, Record, RunDisk},
    status::Status,
};
use crate::{
    failure::{Failure, Outcome},
    output::{bytes, shown},
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// For the maps of all disks.
const MAP_LIMIT: Duration = Duration::from_secs(30);
/// A line of a map is short.
const LINE_BYTES_MAX: usize = 4096;

/// Bytes of an image that are data.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Data {
    /// In the image itself.
    own_bytes: u64,
    /// In what lies below it.
    below_bytes: u64,
}

/// Refuses a keep that will not fit. `to` is empty for one in place.
pub fn refuse(record: &Record, to: &[Destination]) -> Outcome<()> {
    // One that is not served cannot be read just now.
    if !Status::read(&RunSockets::of(&record.id)).is_some_and(|s| s.served) {
        return Ok(());
    }
    let until = Instant::now() + MAP_LIMIT;
    let mut needs = Vec::new();
    for disk in record.disks.iter().filter(|d| !d.filled && d.phase != Phase::Pivoted) {
        let image = to.iter().find(|copy| copy.target == disk.target).map_or(&disk.overlay, |copy| &copy.path);
        let Some(data) = map(&disk.overlay, until) else { return Ok(()) };
        needs.extend(image.parent().map(|folder| (folder.to_path_buf(), needed(disk, image, data))));
    }
    refuse_folders(&needs, &|folder| obstacle::room_bytes(folder))
}

/// What is still to be written to a disk's image.
fn needed(disk: &RunDisk, image: &Path, data: Data) -> u64 {
    if image == disk.overlay {
        return data.below_bytes;
    }
    // A copy that was begun has some of it.
    let has = std::fs::metadata(image).map_or(0, |m| m.blocks() * 512);
    (data.own_bytes + data.below_bytes).saturating_sub(has)
}

/// Folders of one file system share its room.
fn refuse_folders(needs: &[(PathBuf, u64)], room: &dyn Fn(&Path) -> Option<u64>) -> Outcome<()> {
    let mut of: BTreeMap<u64, (&Path, u64)> = BTreeMap::new();
    for (folder, bytes) in needs {
        let device = std::fs::metadata(folder).map_or(0, |m| m.dev());
        of.entry(device).or_insert((folder, 0)).1 += bytes;
    }
    for (folder, needed) in of.values() {
        let Some(free) = room(folder).filter(|free| free < needed) else { continue };
        return Err(Failure::refused(format!(
            "no space on {}: {} are free, and the keep needs about {}; nothing was done (make room, or give another place with --to)",
            shown(&folder.display().to_string()),
            bytes(free),
            bytes(*needed)
        )));
    }
    Ok(())
}

/// Asks QEMU; `None` where it does not say, or not in time.
fn map(overlay: &Path, until: Instant) -> Option<Data> {
    let mut command = Command::new("qemu-img");
    command.args(["map", "-U", "--output=json", "-f", "qcow2"]).arg(overlay);
    let mut child = command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    let (tell, wait) = mpsc::channel();
    std::thread::spawn(move || {
        // Whoever has given up wants nothing.
        let _ = tell.send(sum(BufReader::new(stdout)));
    });
    let data = wait.recv_timeout(until.saturating_duration_since(Instant::now())).ok().flatten();
    if data.is_none() {
        // One that ended already is as good.
        let _ = child.kill();
    }
    child.wait().is_ok_and(|status| status.success()).then_some(data).flatten()
}

/// One object a line: `{ "start": 0, "length": 65536, "depth": 1, "zero": false, "data": true, ...},`
fn sum(mut lines: impl BufRead) -> Option<Data> {
    let (mut data, mut line) = (Data::default(), String::new());
    loop {
        line.clear();
        if std::io::Read::take(&mut lines, LINE_BYTES_MAX as u64).read_line(&mut line).ok()? == 0 {
            return Some(data);
        }
        let text = line.trim().trim_start_matches('[').trim_end_matches([',', ']']);
        if text.is_empty() {
            continue;
        }
        let part: serde_json::Value = serde_json::from_str(text).ok()?;
        if part["data"] == true && part["zero"] == false {
            let length = part["length"].as_u64()?;
            *(if part["depth"].as_u64()? == 0 { &mut data.own_bytes } else { &mut data.below_bytes }) += length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_counted_by_depth() {
        let map = "[{ \"start\": 0, \"length\": 65536, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true, \"offset\": 327680},\n\
            { \"start\": 65536, \"length\": 1000000, \"depth\": 1, \"present\": true, \"zero\": true, \"data\": false},\n\
            { \"start\": 1065536, \"length\": 4096, \"depth\": 1, \"present\": true, \"zero\": false, \"data\": true, \"offset\": 0}]\n";
        assert_eq!(sum(map.as_bytes()), Some(Data { own_bytes: 65536, below_bytes: 4096 }));
        assert_eq!(sum(&b"qemu-img: cannot"[..]), None);
    }

    #[test]
    fn folders_of_one_file_system_share_its_room() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(&a).and_then(|()| std::fs::create_dir_all(&b)).expect("folders");
        let needs = [(a.clone(), 600), (b, 600)];
        let f = refuse_folders(&needs, &|_| Some(1199)).expect_err("too little");
        assert_eq!(f.code, crate::failure::REFUSED);
        assert!(f.message.contains("no space on") && f.message.contains(&a.display().to_string()), "{}", f.message);
        refuse_folders(&needs, &|_| Some(1200)).expect("fits");
        refuse_folders(&needs, &|_| None).expect("nobody knows");
    }
}
