//! One finished image of the Debian guest for all labs of a machine.
//!
//! Layout of `BASE/cairn-debian-guest` (`BASE` as for labs: `/var/tmp`): `lock`; a folder for each recipe, named by it, whole as soon as it is
//! there; `building`, where one is made. An image is made once, by whoever holds the lock, and put in place by one rename; what a killed
//! builder left is removed by the next one. Images that nobody used for a month go when another is made.

use crate::debian::{build, recipe, sources};
use crate::error::{Error, Result};
use crate::options::Options;
use crate::process::wait_for;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Folder below the base.
pub const FOLDER: &str = "cairn-debian-guest";
/// Another lab builds the same image meanwhile: it has the limits of [`build`] itself.
const LOCK_LIMIT: Duration = Duration::from_secs(1000);
const POLL: Duration = Duration::from_millis(250);
const UNUSED_LIMIT: Duration = Duration::from_secs(30 * 86_400);

/// A finished image: its folder.
#[derive(Debug, Clone)]
pub struct Image {
    folder: PathBuf,
}

impl Image {
    /// One of its files, for instance [`build::ROOT`].
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The image for this host's release, made if it is not there yet.
///
/// # Errors
/// As [`build::build`], and that this is no Debian.
pub fn image() -> Result<Image> {
    let release = sources::release()?;
    let base = Options::default().base.join(FOLDER);
    image_in(&base, &recipe::name(&release), |folder| {
        let begin = Instant::now();
        eprintln!("lab: the Debian guest's image is not there yet; it is made in {}", base.display());
        build::build(folder, &release).map_err(|e| Error::answer("the Debian guest's image was not made", e.report()))?;
        eprintln!("lab: the Debian guest's image is made ({:.1} s)", begin.elapsed().as_secs_f64());
        Ok(())
    })
}

fn image_in(base: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
    fs::create_dir_all(base).map_err(Error::io("create", base))?;
    only_ours(base)?;
    let folder = base.join(name);
    let _lock = lock(base)?;
    if !folder.is_dir() {
        let building = base.join("building");
        if building.exists() {
            fs::remove_dir_all(&building).map_err(Error::io("remove", &building))?;
        }
        fs::create_dir(&building).map_err(Error::io("create", &building))?;
        make(&building)?;
        fs::rename(&building, &folder).map_err(Error::io("put in place", &folder))?;
        remove_unused(base, &folder);
    }
    // Its age is the time since it was last used. Best effort: it matters for nothing but its removal.
    let _ = File::open(&folder).and_then(|file| file.set_modified(SystemTime::now()));
    Ok(Image { folder })
}

/// The base is a folder in which everybody may make one of that name: what another put there is not booted.
fn only_ours(base: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(base).map_err(Error::io("look at", base))?;
    if meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(Error::answer(base.display().to_string(), "is not ours alone (owner, or writable for others); remove it"))
}

fn lock(base: &Path) -> Result<Flock<File>> {
    let path = base.join("lock");
    wait_for("end of another lab's work on the Debian guest's image", LOCK_LIMIT, POLL, || {
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(Error::io("lock", &path)(errno.into())),
        }
    })
}

/// Best effort: what cannot be removed now will be another time.
fn remove_unused(base: &Path, keep: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if path != keep && path.is_dir() && age.is_some_and(|age| age > UNUSED_LIMIT) {
            let _ = fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn an_image_is_made_once_and_only_if_it_was_made_whole() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let made = Cell::new(0);
        let make = |ok: bool| {
            image_in(base.path(), "one", |folder| {
                made.set(made.get() + 1);
                fs::write(folder.join(build::ROOT), b"half").expect("written");
                if ok { Ok(()) } else { Err(Error::answer("the mirror", "is away")) }
            })
        };
        assert!(make(false).expect_err("not made").to_string().contains("is away"));
        assert!(!base.path().join("one").exists(), "half an image is none");
        let image = make(true).expect("made");
        assert!(image.file(build::ROOT).is_file() && image.folder() == base.path().join("one"));
        make(true).expect("there");
        assert_eq!(made.get(), 2, "the third call finds it");
    }

    #[test]
    fn a_folder_of_others_is_refused() {
        let base = tempfile::tempdir().expect("a temporary folder");
        crate::folder::set_mode(base.path(), 0o777).expect("open to all");
        let error = image_in(base.path(), "one", |_| Ok(())).expect_err("anybody could have made it");
        assert!(error.to_string().contains("remove it"), "{error}");
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/var/tmp", &link).expect("a link");
        assert!(image_in(&link, "one", |_| Ok(())).is_err());
    }

    #[test]
    fn images_that_nobody_uses_go() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let (old, young) = (base.path().join("old"), base.path().join("young"));
        for folder in [&old, &young] {
            fs::create_dir(folder).expect("made");
        }
        let long_ago = SystemTime::now() - UNUSED_LIMIT - Duration::from_secs(60);
        File::open(&old).and_then(|file| file.set_modified(long_ago)).expect("old");
        image_in(base.path(), "new", |_| Ok(())).expect("made");
        assert!(!old.exists() && young.exists() && base.path().join("new").exists());
    }
}
