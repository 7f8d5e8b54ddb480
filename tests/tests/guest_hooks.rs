//! The guest's freeze hooks without a guest: what `cairn-quiesce` writes down, its limits, and that all shell scripts are sound.

use cairn_lab::process::{Output, run, run_ok};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Configuration and state of one `cairn-quiesce`, in a folder of its own.
struct Guest {
    folder: tempfile::TempDir,
}

impl Guest {
    fn new(config: &str, hooks: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let hooks_d = folder.path().join("etc/hooks.d");
        fs::create_dir_all(&hooks_d).expect("made");
        fs::write(folder.path().join("etc/config"), config).expect("written");
        for (name, body) in hooks {
            let path = hooks_d.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn call(&self, argument: &str) -> Output {
        let mut command = Command::new("sh");
        command.arg(project().join("qga-quiesce/guest/cairn-quiesce")).arg(argument);
        command.env("CAIRN_QUIESCE_CONFIG", self.path("etc")).env("CAIRN_QUIESCE_RUN", self.path("run")).env("HERE", self.folder.path());
        run(&mut command, LIMIT).expect("it ends")
    }

    fn ok(&self, argument: &str) -> String {
        let output = self.call(argument);
        assert_eq!((output.code(), output.err_text().as_str()), (0, ""), "{argument}");
        output.text()
    }

    fn record(&self) -> String {
        fs::read_to_string(self.path("run/status")).expect("a record")
    }
}

#[test]
fn a_freeze_and_its_thaw_are_written_down() {
    let called = "echo \"${0##*/} $1\" >> \"$HERE/called\"";
    let nothing = format!("{called}; [ $1 = thaw ] || exit 77");
    let guest = Guest::new("", &[("10-a", called), ("20-b", &nothing), ("30-c", called), ("c~", "exit 1"), ("d.dpkg-old", "exit 1")]);
    // A thaw before any freeze is nothing to speak of.
    guest.ok("thaw");
    assert!(!guest.path("run/status").exists());
    guest.ok("freeze");
    let frozen = "cairn-quiesce 1\nfreeze 1\nhook 10-a ok\nhook 20-b skipped\nhook 30-c ok\n";
    assert_eq!(guest.record(), frozen);
    guest.ok("thaw");
    let thawed = format!("{frozen}after 10-a ok\nafter 30-c ok\nend 1\n");
    assert_eq!(guest.record(), thawed);
    guest.ok("thaw");
    assert_eq!((guest.record(), guest.ok("status")), (thawed.clone(), thawed.clone()), "a second thaw changes nothing");
    guest.ok("freeze");
    guest.ok("thaw");
    assert_eq!(guest.record(), thawed.replace("freeze 1", "freeze 2").replace("end 1", "end 2"));
    let calls = fs::read_to_string(guest.path("called")).expect("calls");
    let freezes: Vec<&str> = calls.lines().filter(|line| line.ends_with("freeze")).collect();
    assert_eq!(freezes, ["10-a freeze", "20-b freeze", "30-c freeze", "10-a freeze", "20-b freeze", "30-c freeze"]);
    assert_eq!(calls.lines().filter(|line| *line == "20-b thaw").count(), 4, "every hook sees every thaw");
}

#[test]
fn a_failed_hook_is_undone_at_once_and_does_not_stop_the_freeze() {
    let fails = "[ $1 = freeze ] && touch \"$HERE/held\" && exit 5; rm -f \"$HERE/held\"";
    let guest = Guest::new("", &[("10-a", fails), ("20-b", "exit 0"), ("30-c", "[ $1 = freeze ]")]);
    guest.ok("freeze");
    assert!(!guest.path("held").exists(), "what it held is let go before the freeze");
    guest.ok("thaw");
    assert_eq!(guest.record(), "cairn-quiesce 1\nfreeze 1\nhook 10-a failed\nhook 20-b ok\nhook 30-c ok\nafter 20-b ok\nafter 30-c failed\nend 1\n");
}

#[test]
fn a_guest_may_refuse_a_freeze_with_a_failed_hook() {
    let guest = Guest::new("ON_FAILURE=refuse", &[("10-a", "echo $1 >> \"$HERE/a\""), ("20-b", "[ $1 = thaw ]")]);
    assert_eq!(guest.call("freeze").code(), 1);
    // No thaw follows a refused freeze: it was done already.
    assert_eq!(fs::read_to_string(guest.path("a")).expect("calls"), "freeze\nthaw\n");
    assert!(guest.record().ends_with("hook 20-b failed\nafter 10-a ok\nend 1\n"), "{}", guest.record());
}

#[test]
fn hooks_that_hang_are_over_in_time() {
    let hangs = "trap '' TERM; sleep 50 & sleep 50";
    let guest = Guest::new("FREEZE_LIMIT_S=2 THAW_LIMIT_S=1", &[("10-a", hangs), ("20-b", "exit 0"), ("30-c", "[ $1 = freeze ] || sleep 50")]);
    let begin = Instant::now();
    guest.ok("freeze");
    // Two seconds, one more until it is killed, one for its thaw.
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
    assert_eq!(guest.record(), "cairn-quiesce 1\nfreeze 1\nhook 10-a failed\nhook 20-b failed\nhook 30-c failed\n", "no time was left for the others");
    let begin = Instant::now();
    guest.ok("thaw");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert!(guest.record().ends_with("end 1\n"));
}

// As they are shipped: the host gives a freeze up after seven seconds.
#[test]
fn hooks_that_hang_leave_time_for_the_freeze_with_the_limits_as_shipped() {
    let hangs = "trap '' TERM; sleep 50 & sleep 50";
    let guest = Guest::new("", &[("10-a", "[ $1 = thaw ] && sleep 50; exit 1"), ("20-b", "exit 0"), ("30-c", hangs), ("40-d", "exit 0")]);
    let begin = Instant::now();
    guest.ok("freeze");
    let took = begin.elapsed();
    println!("{took:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert_eq!(guest.record(), "cairn-quiesce 1\nfreeze 1\nhook 10-a failed\nhook 20-b ok\nhook 30-c failed\nhook 40-d failed\n");
    let begin = Instant::now();
    guest.ok("thaw");
    // The host waits eight seconds for the answer to a thaw.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    let refusing = Guest::new("ON_FAILURE=refuse", &[("10-a", hangs)]);
    let begin = Instant::now();
    assert_eq!(refusing.call("freeze").code(), 1);
    assert!(begin.elapsed() < Duration::from_secs(7), "{:?}", begin.elapsed());
}

#[test]
fn nonsense_in_the_record_does_not_stop_a_freeze() {
    let guest = Guest::new("", &[("10-a", "exit 0")]);
    fs::create_dir(guest.path("run")).expect("made");
    for nonsense in ["", "freeze 99999999999999999999\n", "freeze x\nfreeze -1\n", "\u{0}\u{1b}[31m"] {
        fs::write(guest.path("run/status"), nonsense).expect("written");
        guest.ok("freeze");
        guest.ok("thaw");
        assert_eq!(guest.record(), "cairn-quiesce 1\nfreeze 1\nhook 10-a ok\nafter 10-a ok\nend 1\n", "after {nonsense:?}");
    }
    assert_eq!(guest.call("").code(), 2);
    assert_eq!(guest.call("melt").code(), 2);
}

/// Every file that begins as a shell script, below folders that have any.
#[test]
fn shell_scripts_are_sound() {
    let mut scripts = Vec::new();
    for folder in ["qga-quiesce/guest", "qga-quiesce/guest/hooks.d", "tests/guest", "tests/guest/debian", ".ci"] {
        let entries = fs::read_dir(project().join(folder)).expect("a folder of the project").flatten();
        scripts.extend(entries.map(|entry| entry.path()).filter(|path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!"))));
    }
    scripts.sort();
    assert!(scripts.len() >= 9, "where are they? {scripts:?}");
    let mut command = Command::new("shellcheck");
    // The busybox scripts are POSIX shell, too.
    command.args(["--shell=sh", "--severity=warning"]).args(&scripts);
    let checked = run_ok(&mut command, LIMIT.saturating_mul(2));
    if let Err(error) = checked {
        let said = run(&mut command, LIMIT.saturating_mul(2)).map(|output| output.text()).unwrap_or_default();
        panic!("{} (`cargo xtask setup` installs shellcheck)\n{said}", error.report());
    }
}

/// In a mount namespace of its own, over this machine's folders: what it writes is gone with it.
fn installed(config: &str) -> Output {
    let over = tempfile::tempdir().expect("a temporary folder");
    let script = "set -e; mount --make-rprivate /; cd \"$1\"
        for d in etc usr; do mkdir $d $d.work; mount -t overlay -o lowerdir=/$d,upperdir=$1/$d,workdir=$1/$d.work overlay /$d; done
        mkdir -p /etc/qemu; rm -rf /etc/qemu/fsfreeze-hook*; printf '%s' \"$2\" > /etc/qemu/qemu-ga.conf
        sh \"$3\" >&2; cat /etc/qemu/qemu-ga.conf";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(over.path()).arg(config).arg(project().join("qga-quiesce/guest/install.sh"));
    run(&mut command, LIMIT).expect("it ends")
}

#[test]
fn an_agent_that_is_told_of_another_hook_is_no_success() {
    let fresh = installed("[general]\n");
    assert_eq!((fresh.code(), fresh.text().as_str()), (0, "[general]\nfsfreeze-hook = /etc/qemu/fsfreeze-hook\n"), "{}", fresh.err_text());
    let again = installed(&fresh.text());
    assert_eq!((again.code(), again.text()), (0, fresh.text()), "{}", again.err_text());
    let other = installed("[general]\nfsfreeze-hook = /opt/other\n");
    assert_eq!(other.code(), 1, "{}", other.err_text());
    assert!(
        ["/opt/other", "cairn-quiesce", "fsfreeze-hook = /etc/qemu/fsfreeze-hook"].iter().all(|word| other.err_text().contains(word)),
        "{}",
        other.err_text()
    );
}
