//! Reading a domain's files for a point.
//!
//! Kernel and initrd do not change while a domain runs. Variables and TPM state do, and nobody can stop them: they are read shortly before the point
//! and again right after it. Equal both times, they are those of the point; else the later reading is taken, once two in a row are equal, and the point
//! says so. Each single state of a TPM is whole, because swtpm replaces its file by a rename.
//!
//! What it must not do: fail a backup. A file that cannot be read is a warning.

use super::{super::saved::SavedFile, PIECE_BYTES, bytes_max, part_name};
use cairn_hypervisor::state_files::{Role, state_files, tpm_files, tpm_place};
use cairn_store::Part;
use nix::unistd::{Gid, Group, Uid, User};
use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

/// Readings of a file that changes all the time.
const READINGS_MAX: u32 = 5;
const READING_PAUSE_MS: u64 = 50;

/// A file as it was read.
struct Content {
    role: Role,
    path: PathBuf,
    /// Of a TPM: below its folder.
    name: String,
    meta: Metadata,
    bytes: Vec<u8>,
}

impl Content {
    fn read(role: Role, path: &Path, name: &str) -> Result<Self, String> {
        let fail = |e: io::Error| format!("{} {} is not in the point: it cannot be read ({e})", role.text(), path.display());
        let mut file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let max = bytes_max(role);
        if !meta.is_file() || meta.len() > max {
            let why = if meta.is_file() { format!("its {} bytes are more than the {max} that are saved", meta.len()) } else { "it is no file".into() };
            return Err(format!("{} {} is not in the point: {why}", role.text(), path.display()));
        }
        let mut bytes = Vec::new();
        // One byte more: a file that grows meanwhile is noticed by whoever reads it again.
        Read::take(&mut file, max + 1).read_to_end(&mut bytes).map_err(fail)?;
        Ok(Self { role, path: path.to_owned(), name: name.to_owned(), meta, bytes })
    }

    fn again(&self) -> Result<Self, String> {
        Self::read(self.role, &self.path, &self.name)
    }

    fn changes(&self) -> bool {
        matches!(self.role, Role::Nvram | Role::Tpm)
    }
}

/// All files of a domain that could be read, and what is to be said about the others.
#[derive(Default)]
pub struct Belongings {
    found: Vec<Content>,
    warnings: Vec<String>,
}

impl Belongings {
    /// Reads what the XML of a running instance names.
    pub fn read(xml_live: &str, uuid: &str) -> Self {
        let mut all = Self::default();
        let named = match state_files(xml_live) {
            Ok(named) => named,
            Err(e) => {
                all.warnings.push(format!("firmware variables, TPM state and boot files are not in the point: the domain's XML cannot be read ({e})"));
                return all;
            }
        };
        if let Some(path) = &named.nvram {
            all.add(Content::read(Role::Nvram, Path::new(path), ""));
        }
        for (role, path) in &named.boot {
            all.add(Content::read(*role, Path::new(path), ""));
        }
        if let Some(tpm) = &named.tpm {
            let place = tpm_place(tpm, uuid);
            match tpm_files(&place) {
                Ok(files) if files.is_empty() => all.warnings.push(format!("the TPM's state is not in the point: {} holds no file", place.display())),
                Ok(files) => files.iter().for_each(|name| all.add(Content::read(Role::Tpm, &place.join(name), &name.to_string_lossy()))),
                Err(e) => all.warnings.push(format!("the TPM's state {} is not in the point: {e}", place.display())),
            }
        }
        all
    }

    fn add(&mut self, read: Result<Content, String>) {
        match read {
            Ok(content) => self.found.push(content),
            Err(why) => self.warnings.push(why),
        }
    }

    /// To be called right after the point in time: reads again what may have changed.
    pub fn settle(&mut self) {
        for content in self.found.iter_mut().filter(|c| c.changes()) {
            if let Some(why) = settle(content) {
                self.warnings.push(why);
            }
        }
    }

    /// Parts for the manifest, their description, and warnings.
    pub fn into_parts(self) -> (Vec<Part>, Vec<SavedFile>, Vec<String>) {
        let (mut parts, mut files) = (Vec::new(), Vec::new());
        let mut counts = [0; Role::COUNT];
        for content in self.found {
            let count: &mut usize = &mut counts[content.role as usize];
            let number = *count;
            *count += 1;
            let (uid, gid) = (content.meta.uid(), content.meta.gid());
            let mut file = SavedFile {
                role: content.role.name().into(),
                path: content.path.display().to_string(),
                name: content.name,
                size: content.bytes.len() as u64,
                mode: content.meta.mode() & 0o7777,
                uid,
                gid,
                user: User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|u| u.name),
                group: Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|g| g.name),
                parts: Vec::new(),
            };
            let piece_bytes = if content.role == Role::Nvram { usize::MAX } else { PIECE_BYTES };
            let mut rest = content.bytes;
            loop {
                let behind = if rest.len() > piece_bytes { rest.split_off(piece_bytes) } else { Vec::new() };
                let name = part_name(content.role, number, file.parts.len());
                parts.push(Part { name: name.clone(), bytes: rest, secret: true });
                file.parts.push(name);
                if behind.is_empty() {
                    break;
                }
                rest = behind;
            }
            files.push(file);
        }
        (parts, files, self.warnings)
    }
}

/// Takes a later reading where it differs; says so.
fn settle(content: &mut Content) -> Option<String> {
    let what = format!("{} {}", content.role.text(), content.path.display());
    for reading in 0..READINGS_MAX {
        let next = match content.again() {
            Ok(next) => next,
            Err(e) => return Some(format!("{what} changed while the point was taken, and the state before it is in the point ({e})")),
        };
        if next.bytes == content.bytes {
            return (reading > 0).then(|| format!("{what} changed while the point was taken: the point has the state right after it"));
        }
        *content = next;
        sleep(Duration::from_millis(READING_PAUSE_MS));
    }
    Some(format!("{what} kept changing while the point was taken: what the point has of it may be of several moments"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(dir: &Path) -> String {
        let d = dir.display();
        format!(
            "<domain><os><nvram>{d}/vars</nvram><kernel>{d}/k</kernel><initrd>{d}/i</initrd></os><devices><tpm><backend type='emulator'>\
             <source type='dir' path='{d}/tpm'/></backend></tpm></devices></domain>"
        )
    }

    #[test]
    fn files_become_parts_of_bounded_size() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir_all(dir.path().join("tpm/tpm2")).expect("a folder");
        std::fs::write(dir.path().join("vars"), "v").expect("written");
        std::fs::write(dir.path().join("k"), "").expect("written");
        std::fs::write(dir.path().join("i"), vec![7; 2 * PIECE_BYTES + 3]).expect("written");
        std::fs::write(dir.path().join("tpm/tpm2/tpm2-00.permall"), "t").expect("written");
        let mut all = Belongings::read(&xml(dir.path()), "u");
        all.settle();
        let (parts, files, warnings) = all.into_parts();
        assert_eq!(warnings, Vec::<String>::new());
        let of = |role: &str| files.iter().find(|f| f.role == role).expect(role);
        assert_eq!(of("nvram").parts, ["nvram"]);
        assert_eq!(of("initrd").parts, ["initrd-0.0", "initrd-0.1", "initrd-0.2"]);
        assert_eq!((of("kernel").size, of("kernel").parts.len()), (0, 1), "an empty file is a file");
        assert_eq!(of("tpm").name, "tpm2/tpm2-00.permall");
        assert!(parts.iter().all(|p| p.secret && p.bytes.len() <= PIECE_BYTES));
        assert_eq!(parts.iter().filter(|p| p.name.starts_with("initrd")).map(|p| p.bytes.len()).sum::<usize>(), 2 * PIECE_BYTES + 3);
    }

    #[test]
    fn what_cannot_be_read_is_a_warning_that_names_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(dir.path().join("k")).expect("a folder where a kernel should be");
        std::fs::File::create(dir.path().join("i")).and_then(|f| f.set_len(super::super::BOOT_BYTES_MAX + 1)).expect("a large file");
        let (parts, files, warnings) = Belongings::read(&xml(dir.path()), "u").into_parts();
        assert!(parts.is_empty() && files.is_empty());
        for (warning, word) in warnings.iter().zip(["vars", "no file", "more than", "tpm"]) {
            assert!(warning.contains(word), "{warning}");
        }
        assert_eq!(warnings.len(), 4, "{warnings:?}");
    }

    #[test]
    fn a_change_around_the_point_is_said() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("vars"), "before").expect("written");
        let one = format!("<domain><os><nvram>{}/vars</nvram></os></domain>", dir.path().display());
        let mut all = Belongings::read(&one, "u");
        std::fs::write(dir.path().join("vars"), "after").expect("written");
        all.settle();
        let (parts, _, warnings) = all.into_parts();
        assert_eq!(parts[0].bytes, b"after");
        assert!(warnings[0].contains("right after"), "{warnings:?}");
    }
}
