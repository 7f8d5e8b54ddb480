//! What opens a store: what was given by hand before what the environment says, and files of secrets that are their reader's alone.

use crate::place::{Ended, Place, ended};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

const PASSPHRASE: &str = "correct horse battery staple";

fn passphrase_file(place: &Place, mode: u32) -> PathBuf {
    let path = place.path("passphrase");
    fs::write(&path, format!("{PASSPHRASE}\n")).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    path
}

/// The program with these arguments, on a store with a key file and a passphrase; the environment names `key`.
fn with_key(place: &Place, key: &Path, args: &[&str]) -> Ended {
    let mut command = place.command(args);
    ended(command.env("CAIRN_STORE", place.path("both")).env("CAIRN_KEY_FILE", key).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

#[test]
fn what_was_given_by_hand_wins_over_the_environment() {
    let place = Place::new();
    let passphrase = passphrase_file(&place, 0o600).display().to_string();
    let both = place.path("both").display().to_string();
    // Both count for a new store: the environment says where its key file shall be.
    with_key(&place, &place.path("both.key"), &["init", &both, "--passphrase-file", &passphrase]).expect(0);
    assert!(place.path("both.key").is_file());
    let foreign = place.path("key");
    with_key(&place, &foreign, &["list"]).expect(12);
    with_key(&place, &foreign, &["list", "--passphrase-file", &passphrase]).expect(0);
    with_key(&place, &foreign, &["--passphrase-file", &passphrase, "list"]).expect(0);
    with_key(&place, &place.path("nothing"), &["list", "--passphrase-file", &passphrase]).expect(0);
    let own = place.path("both.key").display().to_string();
    let mut command = place.command(&["list", "--key-file", &own]);
    let out = command.env("CAIRN_STORE", &both).env_remove("CAIRN_KEY_FILE").env("CAIRN_PASSPHRASE_FILE", "/nothing").output().expect("runs");
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_passphrase_that_others_may_read_is_refused_as_a_key_file_is() {
    let place = Place::new();
    let both = place.path("both").display().to_string();
    let open = passphrase_file(&place, 0o644).display().to_string();
    let made = with_key(&place, &place.path("both.key"), &["init", &both, "--passphrase-file", &open]).expect(12);
    assert!(made.err.contains("chmod 600") && !place.path("both").exists(), "{}", made.err);
    passphrase_file(&place, 0o600);
    with_key(&place, &place.path("both.key"), &["init", &both, "--passphrase-file", &open]).expect(0);
    with_key(&place, &place.path("nothing"), &["list", "--passphrase-file", &open]).expect(0);
    for mode in [0o644, 0o640, 0o604] {
        passphrase_file(&place, mode);
        let refused = with_key(&place, &place.path("nothing"), &["list", "--passphrase-file", &open]).expect(12);
        assert!(refused.err.contains("chmod 600"), "{}", refused.err);
    }
    fs::set_permissions(place.path("both.key"), fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(with_key(&place, &place.path("both.key"), &["list"]).expect(12).err.contains("chmod 600"), "the same rule");
}
