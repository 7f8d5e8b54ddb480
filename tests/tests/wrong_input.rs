//! Wrong input: the right exit code, a message that names the thing, nothing lost, the guest untouched.

use cairn_lab::process::run_ok;
use cairn_lab::suite::{Suite, assert_refused};
use cairn_lab::{Options, cairn, lab_test};
use std::fs;
use std::process::Command;
use std::time::Duration;

const TOOL_LIMIT: Duration = Duration::from_secs(60);

lab_test!(what_is_not_there_is_named, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let run = |args: &[&str]| suite.cairn.run(args).expect("it ends");
    assert_refused(&run(&["backup", "no-such-domain"]), cairn::NOT_FOUND, "no-such-domain");
    let nowhere = suite.cairn.with_store(suite.path("no-such-store"));
    assert_refused(&nowhere.run(&["backup", "lab1"]).expect("it ends"), cairn::NO_STORE, "no-such-store");
    assert_refused(&nowhere.run(&["list"]).expect("it ends"), cairn::NO_STORE, "no-such-store");
    assert_refused(&run(&["backup-image", "/no/such/image", "--name", "x"]), cairn::NOT_FOUND, "/no/such/image");
    assert!(suite.points().is_empty(), "nothing of all this made a point");

    let point = suite.quiet_backup("only");
    assert_refused(&run(&["show", "lab1@00000000"]), cairn::NOT_FOUND, "00000000");
    let target = format!("vdz={}", suite.path("x.raw").display());
    assert_refused(&run(&["restore", &point.id, "--disk", &target]), cairn::NOT_FOUND, "vdz");
    assert!(!suite.path("x.raw").exists(), "nothing half-made is left");
    assert_refused(&run(&["backup", "lab1", "--disk", "vdz"]), cairn::NOT_FOUND, "vdz");
    suite.assert_left_alone(Duration::from_secs(5));
    suite.assert_restores(&point);
});

lab_test!(wrong_usage_is_two, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite { domain: lab.domain(), cairn: cairn_lab::Cairn::new(&lab, "store").expect("program"), lab: lab.clone() };
    for args in [&["backup"][..], &["frobnicate"], &["backup", "lab1", "--quiesce", "perhaps"], &["restore"], &["init"]] {
        let output = suite.cairn.run(args).expect("it ends");
        assert_eq!(output.code(), cairn::USAGE, "{args:?}: {}", output.err_text());
        assert!(!output.err_text().is_empty());
    }
});

lab_test!(errors_are_json_where_json_is_asked_for, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let output = suite.cairn.run(&["backup", "no-such-domain", "--json"]).expect("it ends");
    assert_eq!(output.code(), cairn::NOT_FOUND);
    let text = output.err_text();
    let last = text.lines().last().unwrap_or_default();
    let object: serde_json::Value = serde_json::from_str(last).or_else(|_| serde_json::from_str(&text)).expect("an object on stderr");
    assert!(object.is_object() && text.contains("no-such-domain"), "{text}");
    assert_eq!(suite.cairn.json(&["list"]).expect("list"), serde_json::json!([]));
    let output = suite.cairn.run(&["frobnicate", "--json"]).expect("it ends");
    assert_eq!(output.code(), cairn::USAGE);
    let object: serde_json::Value = serde_json::from_str(&output.err_text()).expect("one object");
    assert_eq!(object["error"]["kind"], "usage", "{object}");
});

lab_test!(one_missing_domain_keeps_no_other_from_being_saved, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    for names in [["no-such-domain", "lab1"], ["lab1", "no-such-domain"]] {
        let before = suite.points().len();
        let output = suite.cairn.run(&["backup", names[0], names[1]]).expect("it ends");
        assert_refused(&output, cairn::NOT_FOUND, "no-such-domain");
        assert_eq!(suite.points().len(), before + 1, "lab1 was saved");
    }
    let output = suite.cairn.run(&["backup", "no-such-domain", "lab1", "--json"]).expect("it ends");
    assert_refused(&output, cairn::NOT_FOUND, "no-such-domain");
    let made: serde_json::Value = serde_json::from_str(&output.text()).expect("one array");
    assert_eq!(made.as_array().expect("an array").len(), 1, "{made}");
    assert_eq!(made[0]["name"], "lab1");
    suite.assert_left_alone(Duration::from_secs(5));
});

lab_test!(a_wrong_key_opens_nothing, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let point = suite.quiet_backup("only");
    let other = cairn_lab::Cairn::new(&lab, "other").expect("program");
    other.init().expect("another store");
    let wrong = suite.cairn.with_key(other.key());
    let target = format!("vda={}", suite.path("x.raw").display());
    for args in [&["list"][..], &["backup", "lab1"], &["restore", &point.id, "--disk", &target], &["verify", "--all", "--data"]] {
        let output = wrong.run(args).expect("it ends");
        assert_eq!(output.code(), cairn::WRONG_KEY, "{args:?}: {}", output.err_text());
    }
    assert!(!suite.path("x.raw").exists());
    fs::write(suite.path("garbage.key"), "this is no key").expect("written");
    let output = suite.cairn.with_key(suite.path("garbage.key")).run(&["list"]).expect("it ends");
    assert_ne!(output.code(), cairn::DONE);
    assert_eq!(suite.points(), std::slice::from_ref(&point.id), "the right key still opens it");
    suite.assert_left_alone(Duration::from_secs(5));
    suite.assert_restores(&point);
});

lab_test!(nothing_existing_is_overwritten_without_force, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let point = suite.quiet_backup("only");
    let path = suite.path("precious.raw");
    fs::write(&path, "precious").expect("written");
    let target = format!("vda={}", path.display());
    let restore = |more: &[&str]| suite.cairn.run(&[&["restore", &point.id, "--disk", &target, "--format", "raw"][..], more].concat()).expect("it ends");
    assert_refused(&restore(&[]), cairn::REFUSED, "precious.raw");
    assert_eq!(fs::read(&path).expect("there"), b"precious");
    let forced = restore(&["--force"]);
    assert_eq!(forced.code(), cairn::DONE, "{}", forced.err_text());
    assert_eq!(cairn_lab::reference::difference(&path, &point.reference.vda).expect("readable"), None);
    // The images of a running domain, even with --force.
    let used = format!("vda={}", cairn_lab::lab::disks()[0].path.display());
    for more in [&[][..], &["--force"]] {
        let output = suite.cairn.run(&[&["restore", &point.id, "--disk", &used][..], more].concat()).expect("it ends");
        assert_refused(&output, cairn::REFUSED, "in use by");
    }
    // With no libvirt to ask, QEMU's own image lock is enough: raw (vdb) takes it as well as qcow2.
    for (target, disk) in ["vda", "vdb"].into_iter().zip(cairn_lab::lab::disks()) {
        let used = format!("{target}={}", disk.path.display());
        let nowhere = ["-c", "qemu+unix:///system?socket=/no/such/socket", "restore", &point.id, "--disk", &used, "--force"];
        assert_refused(&suite.cairn.run(&nowhere).expect("it ends"), cairn::REFUSED, "in use by a running QEMU");
    }
    // Where one disk cannot be restored, none is.
    let (first, second) = (suite.path("first.raw"), suite.path("second.raw"));
    // It has another name as well, so it is not certainly what a killed restore left.
    fs::write(suite.path("somebodys"), "of another restore").expect("written");
    fs::hard_link(suite.path("somebodys"), suite.path("second.raw.cairn-partial")).expect("linked");
    let (a, b) = (format!("vda={}", first.display()), format!("vdb={}", second.display()));
    let output = suite.cairn.run(&["restore", &point.id, "--disk", &a, "--disk", &b, "--format", "raw"]).expect("it ends");
    assert_refused(&output, cairn::REFUSED, "second.raw.cairn-partial");
    assert!(!first.exists() && !second.exists() && !suite.path("first.raw.cairn-partial").exists());
    assert_eq!(fs::read(suite.path("second.raw.cairn-partial")).expect("there"), b"of another restore");
    // Names that cannot be defined are known before anything is written.
    let output = suite.cairn.run(&["restore", &point.id, "--as", "a/b", "--disk", &a]).expect("it ends");
    assert_refused(&output, cairn::USAGE, "a/b");
    let output = suite.cairn.run(&["restore", &point.id, "--as", "lab1"]).expect("it ends");
    assert_eq!(output.code(), cairn::REFUSED, "{}", output.err_text());
    let (store, key) = (suite.cairn.store().to_string_lossy(), suite.path("second.key").to_string_lossy().into_owned());
    let output = suite.cairn.run(&["init", &store, "--key-file", &key]).expect("it ends");
    assert_eq!(output.code(), cairn::REFUSED, "a store is not made over a store: {}", output.err_text());
    suite.assert_left_alone(Duration::from_secs(5));
    suite.assert_restores(&point);
});

lab_test!(a_full_store_loses_nothing, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let image = suite.path("small.ext4");
    let mounted = suite.path("small");
    fs::create_dir(&mounted).expect("made");
    // Room for a first point, with kernel and initrd twice, and for less than a pack more.
    run_ok(Command::new("truncate").args(["-s", "72M"]).arg(&image), TOOL_LIMIT).expect("truncate");
    run_ok(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&image).env("PATH", cairn_lab::init::PATH), TOOL_LIMIT).expect("mke2fs");
    run_ok(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted), TOOL_LIMIT).expect("mount");
    let small =
        Suite { cairn: suite.cairn.with_store(mounted.join("store")).with_key(suite.path("small.key")), domain: suite.domain.clone(), lab: lab.clone() };
    small.cairn.init().expect("init");
    let first = small.quiet_backup("first");
    suite.domain.sh("/bin/lab-guest __lab-guest noise /mnt/a/large 0 50331648 9").expect("more than fits");
    let output = small.cairn.run(&["backup", "lab1"]).expect("it ends");
    let said = assert_refused(&output, cairn::FAILED, "space");
    assert!(said.contains("small"), "the message names the store: {said}");
    small.assert_left_alone(Duration::from_secs(10));
    assert_eq!(small.points(), std::slice::from_ref(&first.id), "the first point is there, and no other");
    small.assert_restores(&first);
    suite.domain.sh("rm /mnt/a/large && sync && sleep 1 && sync").expect("removed");
    let second = small.quiet_backup("second");
    small.assert_restores(&second);
    run_ok(Command::new("umount").arg(&mounted), TOOL_LIMIT).expect("umount");
});
