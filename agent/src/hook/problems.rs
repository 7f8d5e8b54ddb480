//! What may keep the installed hook from being run, from being safe to run, or its records from reaching their place.

use super::{DIR_DEFAULT, Place, Source};
use cairn_hook::{event::FORMAT, mark::Mark, place};
use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::{AccessFlags, access},
};
use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Everything that is wrong with the hook that is there, in words.
pub fn of(place: &Place, mark: &Mark, bytes: &[u8], metadata: &Metadata, source: Option<&Source>, base: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let path = place.path.display();
    if metadata.uid() != 0 {
        found.push(format!("{path} belongs to user {}, and libvirt runs it as root: chown root {path}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        found.push(format!("{path} can be written to by others, and libvirt runs it as root: chmod go-w {path}"));
    }
    for folder in [&place.dir, &place.folder] {
        if fs::metadata(folder).is_ok_and(|m| m.uid() != 0 || m.mode() & 0o022 != 0) {
            found.push(format!("{} can be written to by others than root, and libvirt runs as root what lies there", folder.display()));
        }
    }
    if access(&place.path, AccessFlags::X_OK).is_err() {
        let noexec = statvfs(&place.path).is_ok_and(|s| s.flags().contains(FsFlags::ST_NOEXEC));
        let why = if noexec { "its file system is mounted noexec".to_owned() } else { format!("chmod 755 {path}") };
        found.push(format!("{path} is not executable: {why}"));
    }
    if mark.format > FORMAT {
        found.push(format!("it writes records of format {}, and this cairn reads {FORMAT}: upgrade cairn", mark.format));
    }
    match source {
        Some(source) if source.bytes != bytes => {
            found.push(format!(
                "it is another build (version {}) than {} (version {}): run 'cairn hook install'",
                mark.version,
                source.path.display(),
                source.mark.version
            ));
        }
        None if mark.version != cairn_hook::mark::VERSION => {
            found.push(format!("it is of version {}, and this is cairn {}: run 'cairn hook install'", mark.version, cairn_hook::mark::VERSION));
        }
        _ => {}
    }
    if place.dir != Path::new(DIR_DEFAULT) {
        found.push(format!("libvirt looks for hooks in {DIR_DEFAULT}, unless it was built for another folder than usual"));
    }
    for folder in [base.to_owned(), base.join(place::SPOOL)] {
        // What is not there yet is made by the hook.
        if fs::symlink_metadata(&folder).is_ok_and(|m| !m.is_dir() || m.uid() != 0 || m.mode() & 0o022 != 0) {
            found.push(format!("{} is no folder of root's alone, so the hook leaves no records there: chmod go-w, or move it away", folder.display()));
        }
    }
    found
}
