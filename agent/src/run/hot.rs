//! What a guest reads first: a run of a point that has none yet, or an old one, writes the list; later runs of points of that name load it ahead of the guest.
//!
//! A cache of this host, `<state folder>/hot/<name>-<target>.json`: may be missing, stale or wrong, and only costs time then. What is loaded by it is
//! proven like everything else.

use super::{folder::read_json, log};
use cairn_store::PointSource;
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

/// When the list is written, after the start of the server: a boot is over by then, and a longer one has got most of it.
const SAVED_AFTER: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(150)];
/// Places in a list. The source loads as many as half of its cache holds: 32 MiB, at 64 KiB a chunk 512 of them.
const PLACES_MAX: usize = 4096;
/// What a guest reads first changes with its system: an older list is written anew.
const AGE_MAX: Duration = Duration::from_secs(14 * 24 * 3600);

/// Where the list of a disk is.
pub fn path(state_dir: &Path, point_name: &str, target: &str) -> PathBuf {
    let safe: String = format!("{point_name}-{target}").chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    state_dir.join("hot").join(format!("{safe}.json"))
}

/// The list, if there is one that is not old.
pub fn read(path: &Path) -> Option<Vec<Range<u64>>> {
    let is_old = fs::metadata(path).and_then(|m| m.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > AGE_MAX));
    let list: Vec<(u64, u64)> = read_json(path).ok().flatten().filter(|_| !is_old)?;
    Some(list.into_iter().filter(|(start, end)| start < end).take(PLACES_MAX).map(|(start, end)| start..end).collect())
}

/// Writes lists while their disks are served.
pub fn write_later(disks: Vec<(PathBuf, Weak<PointSource>)>) {
    std::thread::spawn(move || {
        let mut waited = Duration::ZERO;
        for after in SAVED_AFTER {
            std::thread::sleep(after - waited);
            waited = after;
            for (path, source) in &disks {
                if let Some(source) = Weak::upgrade(source) {
                    write(path, &source);
                }
            }
        }
    });
}

fn write(path: &Path, source: &Arc<PointSource>) {
    let list: Vec<(u64, u64)> = source.touched().into_iter().take(PLACES_MAX).map(|range| (range.start, range.end)).collect();
    if list.is_empty() {
        return;
    }
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        fs::write(&temporary, serde_json::to_vec(&list).map_err(std::io::Error::other)?)?;
        fs::rename(&temporary, path)
    };
    if let Err(e) = write() {
        log::say(format!("the list of what is read first is not kept: {}: {e}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_far_as_they_make_sense() {
        let dir = tempfile::tempdir().expect("temp dir");
        let file = path(dir.path(), "web 1/x", "vda");
        assert_eq!(file, dir.path().join("hot/web_1_x-vda.json"));
        assert_eq!(read(&file), None);
        fs::create_dir_all(dir.path().join("hot")).expect("folder");
        fs::write(&file, "[[0,4096],[9,3],[65536,131072]]").expect("writes");
        assert_eq!(read(&file), Some(vec![0..4096, 65536..131_072]));
        let aged = fs::File::options().write(true).open(&file).expect("opens");
        aged.set_modified(std::time::SystemTime::now() - AGE_MAX - Duration::from_secs(60)).expect("set");
        assert_eq!(read(&file), None, "an old one is written anew");
        fs::write(&file, "nonsense").expect("writes");
        assert_eq!(read(&file), None);
    }
}
