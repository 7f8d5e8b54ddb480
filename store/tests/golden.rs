//! Golden stores: a small store of each format that was ever released, committed as files. What is in them can be restored for ever.
//!
//! Rules: a golden store is never remade or changed; a new format gets a folder of its own. Their keys are public test data.
//! They were made by [`make_golden_stores`], which refuses where one is:
//! `CAIRN_GOLDEN_DIR=store/tests/golden cargo test -p cairn-store --test golden -- --ignored make_golden_stores`

mod common;
mod zoo;

use cairn_store::{
    Credential, OpenOptions, Point, Progress, Result, SecretKey, Store,
    scrub::{ScrubOptions, scrub_without_keys},
    verify::Verifier,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};
use zoo::{Death, Zoo, at_once};

const ALL: ScrubOptions = ScrubOptions { percent: 100, rate_bytes_max: None };
/// Every golden store there is, and SHA-256 over its files: one that was changed is none any more.
const STORES: [(&str, &str); 2] = [
    ("format-1-encrypted", "b63c10531fd9742d665bc00f3fdca9765eaf116e7a3a71cede21b9152d8b75e5"),
    ("format-1-plain", "1f54582c9369e166da03d675b3aaa4ae90f652b3c61653ae93beea8016b6535c"),
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// What a store shows of a point: everything but its times.
fn describe(store: &Store, p: &Point) -> Value {
    let manifest = store.manifest(p).expect("its manifest");
    let part = |name: &String| json!({ "name": name, "sha256": sha256(&store.part(&manifest, name).expect("reads").expect("is named")) });
    let disks = zoo::restore_all(store, p).expect("restores");
    let disk = |(target, content): &zoo::Disk| json!({ "target": target, "bytes": content.len(), "sha256": sha256(content) });
    json!({
        "name": p.summary.name, "id": p.id.to_string(), "time_unix_ms": p.summary.time_unix_ms, "quiesce": p.summary.quiesce, "host": p.summary.host,
        "tags": p.tags(), "protected": p.is_protected(), "note": p.note(), "state": format!("{:?}", p.state()),
        "parents": p.body.parents.iter().map(|p| p.session.to_string()).collect::<Vec<_>>(), "warnings": manifest.warnings,
        "parts": manifest.parts.keys().map(part).collect::<Vec<_>>(),
        "disks": disks.iter().map(disk).collect::<Vec<_>>(),
    })
}

/// What a whole store shows.
fn describe_all(store: &Store) -> Value {
    let (points, damaged) = store.points_and_damage().expect("lists");
    assert!(damaged.is_empty(), "{damaged:?}");
    let forgotten = store.forgotten_points().expect("lists");
    json!({
        "store": store.id().to_string(), "encrypted": store.config().encrypted, "profile": store.config().profile,
        "points": points.iter().map(|p| describe(store, p)).collect::<Vec<_>>(),
        "forgotten": forgotten.iter().map(|p| json!({ "name": p.summary.name, "id": p.id.to_string() })).collect::<Vec<_>>(),
    })
}

/// A copy to work on: checkouts do not keep a key file's mode, and a golden store is never written to.
struct Copy {
    dir: tempfile::TempDir,
    expected: Value,
    encrypted: bool,
}

impl Copy {
    fn of(name: &str) -> Self {
        let (from, dir) = (golden(name), tempfile::tempdir().expect("temp dir"));
        for file in zoo::files(&from) {
            let to = dir.path().join(file.strip_prefix(&from).expect("below it"));
            fs::create_dir_all(to.parent().expect("a folder")).expect("makes folders");
            fs::copy(&file, to).expect("copies");
        }
        let expected: Value = serde_json::from_slice(&fs::read(from.join("expected.json")).expect("it says what is in it")).expect("JSON");
        let encrypted = expected["encrypted"] == true;
        if encrypted {
            fs::set_permissions(dir.path().join("key"), fs::Permissions::from_mode(0o600)).expect("chmod");
        }
        Self { dir, expected, encrypted }
    }

    fn credentials(&self) -> Vec<Option<Credential>> {
        let text = |name: &str| fs::read_to_string(self.dir.path().join(name)).expect("reads").trim().to_owned();
        if !self.encrypted {
            return vec![None];
        }
        vec![
            Some(Credential::read_key_file(&self.dir.path().join("key")).expect("its key file")),
            Some(Credential::Passphrase(text("passphrase").into())),
            Some(Credential::Recovery(SecretKey::from_recovery_text(&text("recovery-key")).expect("its recovery key"))),
        ]
    }

    fn open(&self, credential: Option<Credential>, state: &str) -> Result<Store> {
        Store::open(&self.dir.path().join("store"), OpenOptions { credential, state_dir: self.dir.path().join(state), host: "golden".into() })
    }
}

#[test]
fn golden_stores_are_what_they_were() {
    for (name, digest) in STORES {
        let root = golden(name);
        let mut paths: Vec<String> = zoo::files(&root).iter().map(|f| f.strip_prefix(&root).expect("below it").to_str().expect("ascii").to_owned()).collect();
        paths.sort();
        let mut hash = Sha256::new();
        for path in paths {
            let bytes = fs::read(root.join(&path)).expect("reads");
            hash.update(path.as_bytes());
            hash.update([0]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        let now: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(now, digest, "{name} was changed; golden stores never are (see the head of this file)");
    }
}

#[test]
fn every_golden_store_opens_restores_and_verifies() {
    for (name, _) in STORES {
        let copy = Copy::of(name);
        for (i, credential) in copy.credentials().into_iter().enumerate() {
            let store = copy.open(credential, &format!("state-{i}")).expect("opens");
            assert_eq!(describe_all(&store), copy.expected, "{name}");
        }
        let store = copy.open(copy.credentials().remove(0), "state").expect("opens");
        let verifier = Verifier::new(&store).expect("reads reports");
        for p in store.points().expect("lists") {
            let report = store.verify_point(&p, true, &verifier, &Progress::default()).expect("verifies");
            assert_eq!(report.damage_count, 0, "{name}: {}: {:?}", p.summary.name, report.damage);
        }
        let keyed = store.scrub(&ALL, &Progress::default()).expect("scrubs");
        let keyless = scrub_without_keys(&copy.dir.path().join("store"), &copy.dir.path().join("keyless"), &ALL, &Progress::default()).expect("scrubs");
        assert!(keyed.findings.is_empty() && keyless.findings.is_empty(), "{name}: {keyed:?} {keyless:?}");
    }
}

#[test]
fn every_golden_store_takes_backups_and_collections() {
    for (name, _) in STORES {
        let copy = Copy::of(name);
        let store = copy.open(copy.credentials().remove(0), "state").expect("opens");
        let points = store.points().expect("lists");
        let alpha = points.iter().find(|p| p.summary.name == "alpha-2").expect("one of them");
        let disks = zoo::restore_all(&store, alpha).expect("restores");
        let plans = [
            zoo::full(),
            cairn_store::Plan::Compare { reason: "a test".into(), base: (alpha.id, 0) },
            cairn_store::Plan::Incremental { base: (alpha.id, 0), dirty: vec![] },
        ];
        for plan in plans {
            let out = zoo::back_up(&store, "new", &disks, &plan).expect("backs up");
            assert!(out.stored_bytes < 4000, "{name}: {plan:?}: {} bytes stored again", out.stored_bytes);
            let new = store.points().expect("lists").into_iter().find(|p| p.id == out.id).expect("is listed");
            assert_eq!(zoo::restore_all(&store, &new).expect("restores"), disks, "{name}");
            store.forget(&new, 0, true).expect("forgets");
        }
        let report = store.collect(&at_once(), &Progress::default()).expect("collects");
        assert!(report.deleted_packs > 0, "{name}: {report:?}");
        let fresh = copy.open(copy.credentials().remove(0), "fresh").expect("opens");
        assert_eq!(describe_all(&fresh)["points"], copy.expected["points"], "{name}");
    }
}

/// See the file's head.
#[test]
#[ignore = "golden stores are never remade"]
fn make_golden_stores() {
    let to = PathBuf::from(std::env::var_os("CAIRN_GOLDEN_DIR").expect("CAIRN_GOLDEN_DIR says where to"));
    for (name, encrypted, last) in [(STORES[0].0, true, Death::BeforeDiscard), (STORES[1].0, false, Death::BeforePardon)] {
        let target = to.join(name);
        assert!(!target.exists(), "{} exists; a golden store is never remade", target.display());
        let dir = tempfile::tempdir().expect("temp dir");
        let zoo = Zoo::make(dir.path(), encrypted, true, last);
        let state_dir = dir.path().join("reader");
        let store = Store::open(&zoo.root(), OpenOptions { credential: zoo::credential(dir.path()), state_dir, host: "golden".into() }).expect("opens");
        let write = |path: &Path, bytes: &[u8]| {
            fs::create_dir_all(path.parent().expect("a folder")).expect("makes folders");
            fs::write(path, bytes).expect("writes");
        };
        let pretty = serde_json::to_string_pretty(&describe_all(&store)).expect("JSON");
        write(&target.join("expected.json"), format!("{pretty}\n").as_bytes());
        for file in zoo::files(&zoo.root()) {
            write(&target.join(file.strip_prefix(dir.path()).expect("below it")), &fs::read(&file).expect("reads"));
        }
        if encrypted {
            write(&target.join("key"), &fs::read(dir.path().join("key")).expect("reads"));
            write(&target.join("passphrase"), format!("{}\n", zoo::PASSPHRASE).as_bytes());
            write(&target.join("recovery-key"), format!("{}\n", zoo.recovery).as_bytes());
        }
    }
}
