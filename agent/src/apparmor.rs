//! AppArmor around libvirt's guests: whether it lets the QEMU of a run reach the sockets that its point is served on (docs/run.md, "AppArmor").
//!
//! libvirt's profile of a guest is made anew at each start, of what its XML names and of an abstraction; sockets of disks on the network are not
//! among what it names. So the rule is an admin's, in the file that the abstraction includes for that.
//!
//! What it must not do: change a profile.

use crate::{
    doctor::finding::Finding,
    failure::{FAILED, Failure},
};
use cairn_hypervisor::{Host, ffi::LibvirtError};
use std::{fs, path::Path};

/// libvirt's name of the security driver.
const MODEL: &str = "apparmor";
/// Where profiles are.
pub const PROFILES: &str = "/etc/apparmor.d";
/// The rule: what QEMU needs to connect.
const RULE: &str = "/{,var/}run/cairn/run/*/{,daemon/}nbd.sock rw,";
/// In every rule that can mean our sockets by name.
const NAMED: &str = "run/cairn/run/";
/// What every guest's profile includes.
const ABSTRACTION: &str = "abstractions/libvirt-qemu";
/// Where an abstraction of a later libvirt, with AppArmor 3, includes a folder.
const FOLDER: &str = "abstractions/libvirt-qemu.d";
/// Where the others include one file.
const LOCAL: &str = "local/abstractions/libvirt-qemu";
/// Profiles are longer than a rule and shorter than this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How `cairn doctor` puts it; nothing where AppArmor does not confine guests.
pub fn finding(models: &[String], profiles: &Path) -> Option<Finding> {
    const CHECK: &str = "apparmor";
    if !models.iter().any(|model| model == MODEL) {
        return None;
    }
    Some(match remedy(profiles) {
        None => Finding::ok(CHECK, "it confines libvirt's guests, and its rules name the sockets of runs"),
        Some(remedy) => {
            Finding::warning(CHECK, "it confines libvirt's guests, and no rule lets the QEMU of 'cairn run' and boot proofs read its point", remedy)
        }
    })
}

/// The domain of a run that does not start: where AppArmor may be why, QEMU's own words are no more than "Permission denied".
pub fn does_not_start(host: &Host, error: &LibvirtError) -> Failure {
    let models = host.security_models().unwrap_or_default();
    Failure::new(FAILED, format!("the domain does not start: {error}{}", hint(&models, Path::new(PROFILES))))
}

fn hint(models: &[String], profiles: &Path) -> String {
    let remedy = finding(models, profiles).and_then(|finding| finding.remedy);
    remedy.map_or_else(String::new, |remedy| format!("; AppArmor may be why, as no rule of its names the sockets of runs: {remedy}"))
}

/// What to do where no rule names our sockets.
fn remedy(profiles: &Path) -> Option<String> {
    let abstraction = text(&profiles.join(ABSTRACTION));
    let includes = |place| rules(&abstraction, true).any(|line| line.contains(place));
    let (has_file, has_folder) = (includes(LOCAL), includes(FOLDER));
    // What the abstraction does not include is in force nowhere.
    let mut places = vec![abstraction];
    places.extend(has_file.then(|| text(&profiles.join(LOCAL))));
    if has_folder {
        places.extend(fs::read_dir(profiles.join(FOLDER)).into_iter().flatten().flatten().map(|entry| text(&entry.path())));
    }
    if places.iter().any(|place| rules(place, false).any(|line| line.contains(NAMED) && !line.contains("deny "))) {
        return None;
    }
    let file = if has_folder { format!("{FOLDER}/cairn") } else { LOCAL.to_owned() };
    let file = profiles.join(file);
    let folder = file.parent().unwrap_or(profiles).display();
    Some(format!(
        "mkdir -p {folder} && echo '  {RULE}' >> {}; it holds for domains that start from then on, and nothing need be loaded (docs/run.md, \"AppArmor\")",
        file.display()
    ))
}

/// Lines that say something. `#include` does, too, for whoever looks for includes.
fn rules(text: &str, with_includes: bool) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(move |line| !line.starts_with('#') || with_includes && line.starts_with("#include"))
}

/// Of what cannot be read nothing is known.
fn text(path: &Path) -> String {
    let is_file = fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= FILE_BYTES_MAX);
    if is_file { fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Status;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, text).expect("written");
    }

    /// What the remedy says, done.
    fn obey(remedy: &str) {
        let command = remedy.split_once("; ").expect("a command first").0;
        assert!(std::process::Command::new("sh").args(["-ec", command]).status().expect("sh").success(), "{command}");
    }

    #[test]
    fn the_rule_is_asked_for_where_the_abstraction_looks_for_it() {
        let confined = ["apparmor".to_owned(), "dac".to_owned()];
        let in_folder = "abstractions/libvirt-qemu.d/cairn";
        for (include, place, other) in
            [("  #include <local/abstractions/libvirt-qemu>", LOCAL, in_folder), ("  include if exists <abstractions/libvirt-qemu.d>", in_folder, LOCAL)]
        {
            let dir = tempfile::tempdir().expect("temp dir");
            write(dir.path(), ABSTRACTION, &format!("  /dev/kvm rw,\n{include}\n"));
            write(dir.path(), place, "# /run/cairn/run/*/nbd.sock rw,\n  deny /run/cairn/run/** rw,\n");
            write(dir.path(), other, &format!("  {RULE}\n"));
            assert_eq!(finding(&["dac".to_owned()], dir.path()), None, "nothing confines its guests");
            assert_eq!(hint(&["dac".to_owned()], dir.path()), "");
            let found = finding(&confined, dir.path()).expect("AppArmor does");
            let remedy = found.remedy.expect("one");
            assert!(found.status == Status::Warning && remedy.contains(place) && remedy.contains(RULE), "{remedy}");
            assert!(hint(&confined, dir.path()).contains(&remedy), "whose domain does not start is told the same");
            obey(&remedy);
            assert_eq!(hint(&confined, dir.path()), "");
            assert!(text(&dir.path().join(place)).ends_with(&format!("  {RULE}\n")));
            assert_eq!(finding(&confined, dir.path()).map(|f| f.status), Some(Status::Ok));
        }
    }

    #[test]
    fn the_rule_that_is_shipped_is_the_one_that_is_asked_for() {
        let shipped = include_str!("../../packaging/apparmor/libvirt-qemu");
        assert_eq!(rules(shipped, true).filter(|line| !line.is_empty()).collect::<Vec<_>>(), [RULE]);
    }
}
