//! The units of systemd that come with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const UNITS: [&str; 2] = ["cairn.service", "cairn.socket"];

#[test]
fn units_are_such_as_systemd_takes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd");
    let dir = tempfile::tempdir().expect("dir");
    // Where the program is here; the units name where a package puts it.
    let program = env!("CARGO_BIN_EXE_cairn");
    for unit in UNITS {
        let text = fs::read_to_string(folder.join(unit)).expect("reads");
        fs::write(dir.path().join(unit), text.replace("/usr/bin/cairn", program)).expect("writes");
    }
    let verified = verify(&UNITS.map(|u| dir.path().join(u)));
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success(), "{said}");
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("cairn")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn a_unit_that_is_wrong_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let unit = dir.path().join("cairn.service");
    fs::write(&unit, "[Service]\nExecStart=/nowhere/cairn daemon\nProtectSistem=strict\n").expect("writes");
    let verified = verify(&[unit]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(said.contains("ProtectSistem") && !verified.status.success(), "{said}");
}

fn verify(units: &[PathBuf]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.arg("verify").arg("--man=no").args(units).output().expect("systemd-analyze is here (`cargo xtask setup` installs it)")
}
