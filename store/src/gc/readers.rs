//! A store on NFS in which this host may read and not write, wholly or in one folder: what only reads goes on, what decides refuses.

use crate::{
    DiskJob, FileTarget, GcOptions, InitOptions, OpenOptions, Plan, Profile, Progress, Store, StoreError, init,
    platform::LocalPlatform,
    restore::OnDamage,
    testing::{Disk, info},
    verify::Verifier,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Nobody, where the suite runs as root, who may write everywhere.
const OTHER_USER: u32 = 65_534;

/// A store with a point, in folders of the user that [`as_its_user`] works as.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path().join("store");
    init(&root, InitOptions { profile: Profile::Default, zstd_level: 1, encrypted: false, key_file: None, passphrase: None }).expect("init");
    save(&open(dir.path())).expect("backs up");
    if nix::unistd::Uid::effective().is_root() {
        each(dir.path(), &mut |path| chown(path, Some(OTHER_USER), None).expect("changes the owner"));
    }
    (dir, root)
}

fn each(path: &Path, work: &mut dyn FnMut(&Path)) {
    if fs::symlink_metadata(path).expect("is there").is_dir() {
        fs::read_dir(path).expect("lists").for_each(|e| each(&e.expect("an entry").path(), work));
    }
    work(path);
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("changes the mode");
}

/// A thread of its own, so that no other test is another user.
fn as_its_user(work: impl FnOnce() + Send) {
    std::thread::scope(|s| {
        s.spawn(|| {
            if nix::unistd::Uid::effective().is_root() {
                // SAFETY: it changes by whose rights this thread uses files, and touches no memory.
                unsafe { libc::setfsuid(OTHER_USER) };
            }
            work();
        });
    });
}

fn open(dir: &Path) -> Store {
    let platform = LocalPlatform::open_as_nfs(&dir.join("store")).expect("opens");
    Store::open_on(Arc::new(platform), OpenOptions { credential: None, state_dir: dir.join("state"), host: "host".into() }).expect("opens")
}

fn save(store: &Store) -> crate::Result<()> {
    let content: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let job = DiskJob { target: "vda".into(), source: Arc::new(Disk(content)), plan: Plan::Full { reason: "first".into() } };
    store.begin()?.backup(&[job], || info("a", 1), &Progress::default(), || Ok(())).map(drop)
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    each(root, &mut |path| out.extend((!path.is_dir()).then(|| path.to_owned())));
    out.sort();
    out
}

fn reads(dir: &Path) {
    let store = &open(dir);
    let point = store.points().expect("lists").remove(0);
    let report = store.verify_point(&point, true, &Verifier::new(store).expect("reads"), &Progress::default()).expect("verifies");
    assert_eq!((report.damage_count, store.forgotten_points().expect("lists").len()), (0, 0));
    let disk = store.disks(&point).expect("reads").remove(0);
    let target = FileTarget::create_new(&dir.join("restored"), disk.size_bytes).expect("made");
    store.restore_disk(&disk, &target, OnDamage::Stop, &Progress::default()).expect("restores");
}

fn options(dry_run: bool) -> GcOptions {
    GcOptions { dry_run, wait_ms_max: 1000, poll_ms: 10, resume_grace_ms: 0, trash_keep_ms: 0, ..GcOptions::default() }
}

#[test]
fn one_folder_that_takes_no_files_ends_what_decides_and_nothing_else() {
    let (dir, root) = place();
    let month = root.join("c/2020-01");
    fs::create_dir(&month).expect("made");
    mode(&month, 0o555);
    as_its_user(|| {
        // Each by a store of its own: another command.
        reads(dir.path());
        open(dir.path()).collect(&options(true), &Progress::default()).expect("a dry run reads");
        let before = files(&root);
        let store = open(dir.path());
        let point = store.points().expect("lists").remove(0);
        let refused = |e: Option<StoreError>, what: &str| {
            let Some(StoreError::Refused(why)) = e else { panic!("{what}: {e:?}") };
            assert!(why.contains(&month.display().to_string()) && why.contains("owner and mode") && why.contains("'restore'"), "{what}: {why}");
        };
        refused(store.forget(&point, 0, true).err(), "forget");
        refused(open(dir.path()).collect(&options(false), &Progress::default()).err(), "gc");
        assert_eq!(files(&root), before, "nothing was written or deleted");
        refused(save(&open(dir.path())).err(), "backup");
        assert!(files(&root.join("c")).len() <= 2 && open(dir.path()).points().expect("lists").len() == 1, "no more than the session's own end");
        assert!(files(&root.join("d")) == before.iter().filter(|f| f.starts_with(root.join("d"))).cloned().collect::<Vec<_>>(), "before anything was stored");
    });
    mode(&month, 0o777);
    as_its_user(|| save(&open(dir.path())).expect("backs up"));
}

#[test]
fn a_store_that_may_only_be_read_is_read() {
    let (dir, root) = place();
    each(&root, &mut |path| mode(path, if path.is_dir() { 0o555 } else { 0o444 }));
    as_its_user(|| {
        reads(dir.path());
        assert!(save(&open(dir.path())).is_err() && open(dir.path()).collect(&options(false), &Progress::default()).is_err());
    });
    each(&root, &mut |path| mode(path, 0o755));
}

#[test]
fn folders_that_nobody_writes_to_may_be_closed() {
    let (dir, root) = place();
    ["config", "keys"].iter().for_each(|lasting| mode(&root.join(lasting), 0o555));
    as_its_user(|| {
        save(&open(dir.path())).expect("backs up");
        open(dir.path()).collect(&options(false), &Progress::default()).expect("collects");
    });
}
