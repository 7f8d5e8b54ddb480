//! Bringing a domain's files back: where they go, what stands in the way, and writing them.
//!
//! Invariants
//! - A file that is there with the same content is left alone, whoever made it. One with other content is replaced only with `--force`.
//! - Each file has its name only when it is whole and durable, with the owner and mode that it had. Owners are looked up by name: numbers differ
//!   from host to host.

use super::{
    super::saved::{PART_NVRAM, SavedDomain, SavedFile},
    bytes_max,
};
use crate::{
    failure::{DAMAGED, FAILED, Failure, Outcome},
    restore::Partial,
};
use cairn_hypervisor::{
    restore_map::{self, Mapping},
    state_files::{Role, state_files, tpm_place},
};
use cairn_store::{Store, format::manifest::Manifest};
use nix::unistd::{Gid, Group, Uid, User, chown};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Folders of a TPM's state are for its program alone.
const TPM_FOLDER_MODE: u32 = 0o700;
/// The folders around them, as libvirt makes them.
const OUTER_FOLDER_MODE: u32 = 0o711;
/// Folders of other files.
const FOLDER_MODE: u32 = 0o755;

/// What a restore needs to know about them.
pub struct Context<'a> {
    pub store: &'a Store,
    pub manifest: &'a Manifest,
    pub saved: &'a SavedDomain,
    /// As it is going to be defined.
    pub xml: &'a str,
    /// Where the firmware's variables belong, where the XML says so.
    pub nvram: Option<&'a str>,
    pub rename: Option<&'a str>,
    pub mapping: &'a Mapping,
    pub force: bool,
    /// Kinds of files that are wanted.
    pub roles: &'a [Role],
}

/// Files that are going to be written.
pub struct Files(Vec<Target>);

struct Target {
    role: Role,
    path: PathBuf,
    file: SavedFile,
    bytes: Vec<u8>,
}

impl Files {
    /// Fetches them and refuses what cannot be replaced; nothing is written yet.
    pub fn prepare(c: &Context<'_>) -> Outcome<Self> {
        let (mut out, mut in_the_way) = (Vec::new(), Vec::new());
        for file in saved_files(c) {
            let Some(role) = Role::of(&file.role) else {
                tracing::warn!("the point has a file of a kind that this version does not know ({}); it is left out", crate::output::shown(&file.role));
                continue;
            };
            let Some(path) = place(c, role, &file).filter(|_| c.roles.contains(&role)) else { continue };
            let bytes = fetch(c, &file)?;
            match is_there(&path, &bytes) {
                Ok(Some(true)) => continue,
                Ok(Some(false)) if !c.force => in_the_way.push(format!("{} {}", role.text(), path.display())),
                Ok(_) => {}
                Err(e) => return Err(Failure::new(FAILED, format!("{} {}: {e}", role.text(), path.display()))),
            }
            out.push(Target { role, path, file, bytes });
        }
        if in_the_way.is_empty() {
            return Ok(Self(out));
        }
        Err(Failure::refused(format!(
            "{} exist{} with other content than in the point; nothing was written (--force replaces it, --map-path OLD=NEW puts it elsewhere)",
            in_the_way.join(", "),
            if in_the_way.len() == 1 { "s" } else { "" }
        )))
    }

    /// Where the first file of a kind is going to be written.
    pub fn path(&self, role: Role) -> Option<&Path> {
        self.0.iter().find(|target| target.role == role).map(|target| target.path.as_path())
    }

    /// Writes those of these kinds; gives what is to be said.
    pub fn write(&self, roles: &[Role], force: bool) -> Outcome<Vec<String>> {
        let mut warnings = Vec::new();
        for target in self.0.iter().filter(|target| roles.contains(&target.role)) {
            write(target, force, &mut warnings)?;
        }
        Ok(warnings)
    }
}

/// What the point says it has; a point of the first version has the firmware's variables alone, and no more than their content.
fn saved_files(c: &Context<'_>) -> Vec<SavedFile> {
    let mut files = c.saved.files.clone();
    let has_nvram = files.iter().any(|f| f.role == Role::Nvram.name());
    if let (false, Some(part), Some(path)) = (has_nvram, c.manifest.parts.get(PART_NVRAM), c.nvram) {
        files.push(SavedFile {
            role: Role::Nvram.name().into(),
            path: path.into(),
            name: String::new(),
            size: part.len,
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            parts: vec![PART_NVRAM.into()],
        });
    }
    files
}

fn place(c: &Context<'_>, role: Role, file: &SavedFile) -> Option<PathBuf> {
    let mapped = PathBuf::from(c.mapping.path_or_same(&file.path));
    match role {
        // libvirt names the variables of firmware that it chose itself after the domain, and its definition does not always say where.
        Role::Nvram => Some(match (c.nvram, c.rename) {
            (Some(path), _) => path.into(),
            (None, Some(name)) => mapped.with_file_name(format!("{}_VARS.fd", name.replace('/', "_"))),
            (None, None) => mapped,
        }),
        Role::Tpm => {
            let tpm = state_files(c.xml).ok()?.tpm?;
            let place = tpm_place(&tpm, &restore_map::uuid(c.xml)?);
            // A name from a manifest must stay below the TPM's folder.
            let inside = Path::new(&file.name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            inside.then(|| if file.name.is_empty() { place.clone() } else { place.join(&file.name) })
        }
        Role::Kernel | Role::Initrd | Role::Dtb => Some(mapped),
    }
}

fn fetch(c: &Context<'_>, file: &SavedFile) -> Outcome<Vec<u8>> {
    let damaged = |why: &str| Failure::new(DAMAGED, format!("{} {}: {why}", file.role, file.path));
    let mut bytes = Vec::new();
    for name in &file.parts {
        let piece = c.store.part(c.manifest, name)?.ok_or_else(|| damaged("the point's manifest does not name all of its pieces"))?;
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() as u64 == file.size { Ok(bytes) } else { Err(damaged("its pieces are not as long as the file was")) }
}

/// Whether a file is there with this content; `None`: no file is there.
fn is_there(path: &Path, bytes: &[u8]) -> std::io::Result<Option<bool>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() != bytes.len() as u64 {
        return Ok(Some(false));
    }
    let mut have = Vec::new();
    Read::take(file, bytes.len() as u64 + 1).read_to_end(&mut have)?;
    Ok(Some(have == bytes))
}

fn write(target: &Target, force: bool, warnings: &mut Vec<String>) -> Outcome<()> {
    let fail = |e: std::io::Error| Failure::new(FAILED, format!("{} {}: {e}", target.role.text(), target.path.display()));
    let (uid, gid) = owner(&target.file);
    if let Some(dir) = target.path.parent() {
        folders(dir, target.role, uid, gid).map_err(fail)?;
    }
    debug_assert!(target.bytes.len() as u64 <= bytes_max(target.role));
    let partial = Partial::new(&target.path)?;
    File::options().write(true).open(partial.path()).and_then(|mut file| file.write_all(&target.bytes)).map_err(fail)?;
    if let Err(e) = chown(partial.path(), Some(uid), Some(gid)) {
        let who = target.file.user.clone().unwrap_or_else(|| target.file.uid.to_string());
        warnings.push(format!("{} {} belonged to {who} and could not be given to it ({e})", target.role.text(), target.path.display()));
    }
    // After the owner, whose change clears bits of the mode.
    fs::set_permissions(partial.path(), Permissions::from_mode(target.file.mode)).map_err(fail)?;
    partial.sync()?;
    partial.finish(force)
}

fn owner(file: &SavedFile) -> (Uid, Gid) {
    let user = file.user.as_deref().and_then(|name| User::from_name(name).ok().flatten()).map(|user| user.uid);
    let group = file.group.as_deref().and_then(|name| Group::from_name(name).ok().flatten()).map(|group| group.gid);
    (user.unwrap_or(Uid::from_raw(file.uid)), group.unwrap_or(Gid::from_raw(file.gid)))
}

/// Makes the folders that are missing; the innermost of a TPM belongs to its program.
fn folders(dir: &Path, role: Role, uid: Uid, gid: Gid) -> std::io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let outer = if role == Role::Tpm { OUTER_FOLDER_MODE } else { FOLDER_MODE };
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(outer).create(parent)?;
    }
    DirBuilder::new().mode(if role == Role::Tpm { TPM_FOLDER_MODE } else { FOLDER_MODE }).create(dir)?;
    if role == Role::Tpm {
        // Who cannot give files away has been told so of the file already.
        let _ = chown(dir, Some(uid), Some(gid));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: PathBuf, bytes: &[u8]) -> Target {
        let root = nix::unistd::geteuid().as_raw();
        let file = SavedFile {
            role: "tpm".into(),
            path: String::new(),
            name: String::new(),
            size: bytes.len() as u64,
            mode: 0o640,
            uid: root,
            gid: nix::unistd::getegid().as_raw(),
            user: Some("no-such-user-here".into()),
            group: None,
            parts: vec![],
        };
        Target { role: Role::Tpm, path, file, bytes: bytes.to_vec() }
    }

    #[test]
    fn a_file_comes_back_with_its_mode_in_folders_of_its_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("uuid/tpm2/state");
        let mut warnings = Vec::new();
        write(&target(path.clone(), b"one"), false, &mut warnings).expect("written");
        let mode = |p: &Path| fs::metadata(p).expect("there").permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(path.parent().expect("a folder"))), (0o640, TPM_FOLDER_MODE));
        assert_eq!(warnings, Vec::<String>::new());
        assert!(is_there(&path, b"one").expect("readable").expect("there"));
        assert_eq!(is_there(&path, b"two").expect("readable"), Some(false));
        assert_eq!(is_there(&dir.path().join("x"), b"").expect("no error"), None);
        let refused = write(&target(path.clone(), b"two"), false, &mut warnings).expect_err("it exists");
        assert_eq!(refused.code, crate::failure::REFUSED);
        write(&target(path.clone(), b"two"), true, &mut warnings).expect("replaced");
        assert_eq!(fs::read(&path).expect("there"), b"two");
    }
}
