//! The playground of `vagrant/`: its file is valid for Vagrant and its libvirt provider, its scripts for shellcheck. Machines would need KVM and the internet.

use cairn_lab::process::run_ok;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn playground() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vagrant")
}

#[test]
fn the_vagrantfile_is_valid() {
    let home = tempfile::tempdir().expect("a home for Vagrant");
    let mut command = Command::new("vagrant");
    command.arg("validate").current_dir(playground()).env("VAGRANT_HOME", home.path()).env("VAGRANT_DOTFILE_PATH", home.path().join("state"));
    command.env("VAGRANT_CHECKPOINT_DISABLE", "1").env("VAGRANT_DEFAULT_PROVIDER", "libvirt");
    let said = run_ok(&mut command, LIMIT).expect("vagrant validate (`cargo xtask setup` installs it)");
    assert!(said.contains("validated successfully"), "{said}");
}

#[test]
fn a_wrong_vagrantfile_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(playground().join("Vagrantfile")).expect("the Vagrantfile");
    std::fs::write(folder.path().join("Vagrantfile"), text.replace("v.nested", "v.nestled")).expect("written");
    let mut command = Command::new("vagrant");
    command.arg("validate").current_dir(folder.path()).env("VAGRANT_HOME", folder.path().join("home")).env("VAGRANT_DEFAULT_PROVIDER", "libvirt");
    assert!(run_ok(&mut command, LIMIT).is_err(), "a setting that the provider does not know");
}

/// Cairn comes by the role that hosts in earnest get, with variables that it has: `cargo xtask ansible-try` plays it.
#[test]
fn its_hosts_get_the_role() {
    let text = std::fs::read_to_string(playground().join("Vagrantfile")).expect("the Vagrantfile");
    let known = std::fs::read_to_string(playground().join("../ansible/roles/cairn/meta/argument_specs.yml")).expect("the role's variables");
    let variables: Vec<&str> =
        text.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name).filter(|name| name.starts_with("cairn_")).collect();
    assert!(text.contains("../ansible/site.yml") && variables.contains(&"cairn_stores"), "{variables:?}");
    for name in variables {
        assert!(known.contains(&format!("\n      {name}:\n")), "the role has no variable {name}");
    }
}

/// A plugin's `parallel: true` would start both hosts before there is a store. What Vagrant itself reads is asked for, since no machine can be started here.
#[test]
fn its_machines_come_up_in_their_order() {
    let text = std::fs::read_to_string(playground().join("Vagrantfile")).expect("the Vagrantfile");
    let (before, machines) = text.split_once("Vagrant.configure").expect("a configuration");
    assert!(before.contains("\nENV[\"VAGRANT_NO_PARALLEL\"] = \"yes\"\n"), "{before}");
    let at = |word: &str| machines.find(word).unwrap_or_else(|| panic!("{word} is there"));
    assert!(at("define \"store\"") < at("HOSTS.each"), "the store is the first");
}

#[test]
fn its_scripts_are_clean() {
    let mut command = Command::new("shellcheck");
    command.arg(playground().join("prepare"));
    for script in ["store.sh", "kvm-host.sh", "guests.sh"] {
        command.arg(playground().join("provision").join(script));
    }
    run_ok(&mut command, LIMIT).expect("shellcheck (`cargo xtask setup` installs it)");
}
