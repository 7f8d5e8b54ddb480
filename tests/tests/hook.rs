//! libvirt's hook with a real libvirt: what is told of a domain's life, that nothing of it keeps a domain from living, and `cairn hook`.
//!
//! A second hook, a script that only writes down its calls, is the oracle: ours must tell the same, in the same order.

use cairn_hook::channel::Inbox;
use cairn_hook::place::{DIR_DEFAULT, SPOOL};
use cairn_hook::spool::Spool;
use cairn_hook::{Event, clock};
use cairn_lab::hooks::{self, Call};
use cairn_lab::process::{Output, run, run_ok, wait_for};
use cairn_lab::second::Second;
use cairn_lab::suite::assert_refused;
use cairn_lab::{Domain, Lab, Options, cairn, lab_test, libvirt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const UUID: &str = "0d5a1f00-0000-4000-8000-000000000001";
const FALSE: &str = "ffffffff-ffff-4fff-8fff-ffffffffffff";

fn no_guest() -> Options {
    Options { guest: false, ..Options::small() }
}

/// `cairn hook ...` with the program under test.
fn hook(lab: &Lab, args: &[&str]) -> Output {
    run(Command::new(lab.cairn().expect("cairn")).arg("hook").args(args), LIMIT).expect("it ends")
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.text()).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Installs it; libvirtd looks for hooks again, as `systemctl reload` has it do.
fn install(lab: &Lab) {
    let program = lab.hook().expect("the hook").to_string_lossy().into_owned();
    let output = hook(lab, &["install", "--binary", &program]);
    assert_eq!(output.code(), cairn::DONE, "{output:?}");
    reload();
}

fn reload() {
    libvirt::reload().expect("libvirtd is there");
}

fn restart(lab: &Lab, signal: Signal) {
    libvirt::restart(&lab.folder().join("log/libvirtd.log"), signal).expect("libvirtd");
}

/// A domain of firmware alone, whose texts all look like the beginning of something else.
fn define(name: &str) -> Domain {
    let false_uuid = format!("&lt;/title&gt;&lt;uuid&gt;{FALSE}&lt;/uuid&gt;");
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{UUID}</uuid><title>{false_uuid}</title><description>{false_uuid}</description>\
         <metadata><x:y xmlns:x='urn:example:x'><uuid>{FALSE}</uuid></x:y></metadata><memory unit='MiB'>32</memory>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><memballoon model='none'/></devices></domain>"
    );
    let path = "/run/define.xml";
    fs::write(path, xml).expect("written");
    let domain = Domain::new(name);
    domain.virsh_ok(&["define", path]).expect("defined");
    domain
}

/// What the spool below `root` holds; it is empty afterwards.
fn spooled(root: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let base = root.join(DIR_DEFAULT.trim_start_matches('/'));
    let drained = Spool::at(&base).drain(|event| {
        events.push(event);
        Ok(())
    });
    let drained = drained.expect("drained");
    assert!(!drained.is_incomplete(), "{drained:?}");
    events
}

fn call(event: &Event) -> Call {
    let words = [event.domain.as_str(), event.operation.word(), &event.sub_operation, &event.extra];
    Call { arguments: words.map(str::to_owned).to_vec(), uuid: event.uuid.map(|u| u.to_string()).unwrap_or_default() }
}

/// The words of all records since the last time, which must be what the other hook was called with.
fn told(root: &Path, from: impl Fn(&Path) -> Vec<Event>) -> Vec<String> {
    let other = hooks::take(root).expect("the other hook's log");
    let mut events = from(root);
    // On a busy machine one may come later than libvirt has gone on.
    for _ in 0..50 {
        if events.len() < other.len() {
            std::thread::sleep(Duration::from_millis(50));
            events.extend(from(root));
        }
    }
    events.sort_by_key(|e| e.stamp_ns);
    assert_eq!(events.iter().map(call).collect::<Vec<_>>(), other, "both hooks were called alike");
    for event in &events {
        assert_eq!((event.boot, event.cut), (clock::boot_id(), false));
        assert!(event.uuid.is_some() && event.extra == "-", "{event:?}");
    }
    events.iter().map(|e| format!("{} {}", e.operation.word(), e.sub_operation)).collect()
}

const START: [&str; 3] = ["prepare begin", "start begin", "started begin"];
const STOP: [&str; 2] = ["stopped end", "release end"];

lab_test!(a_domains_whole_life_is_told, Options::small(), |lab| {
    let root = Path::new("/");
    install(&lab);
    hooks::make("50-other").expect("another hook");
    let domain = lab.domain();
    let uuid = domain.virsh_ok(&["domuuid", "lab1"]).expect("uuid").trim().to_owned();
    let off = || wait_for("end of lab1", LIMIT, Duration::from_millis(100), || Ok((domain.state()? == "shut off").then_some(()))).expect("it ends");
    let settle = || std::thread::sleep(Duration::from_millis(500));

    // Nothing is told of what is no change of state, and nothing while a domain runs.
    domain.virsh_ok(&["suspend", "lab1"]).expect("suspend");
    domain.virsh_ok(&["resume", "lab1"]).expect("resume");
    assert!(told(root, spooled).is_empty());

    // The guest ends by itself, and is started.
    domain.powers_off();
    off();
    settle();
    assert_eq!(told(root, spooled), STOP);
    domain.start(BOOT_LIMIT).expect("start");
    let events = spooled(root);
    assert!(events.iter().all(|e| e.uuid.map(|u| u.to_string()).as_ref() == Some(&uuid)), "{events:?}");
    assert_eq!(events.len(), 3);
    hooks::take(root).expect("log");

    // QEMU dies.
    let qemu = fs::read_to_string("/run/libvirt/qemu/lab1.pid").expect("QEMU's pid file");
    kill(Pid::from_raw(qemu.trim().parse().expect("a pid")), Signal::SIGKILL).expect("QEMU is there");
    off();
    settle();
    assert_eq!(told(root, spooled), STOP);

    // Saved by libvirt and started from that; then saved to a file and restored from it.
    domain.start(BOOT_LIMIT).expect("start");
    assert_eq!(told(root, spooled), START);
    domain.virsh_ok(&["managedsave", "lab1"]).expect("managedsave");
    settle();
    assert_eq!(told(root, spooled), STOP);
    domain.start(BOOT_LIMIT).expect("start");
    assert_eq!(told(root, spooled), ["restore begin", "prepare begin", "start begin", "started begin"]);
    let file = lab.dir().join("saved").to_string_lossy().into_owned();
    domain.virsh_ok(&["save", "lab1", &file]).expect("save");
    domain.virsh_ok(&["restore", &file]).expect("restore");
    settle();
    assert_eq!(told(root, spooled), [&STOP[..], &["restore begin"], &START].concat());
    domain.wait_agent(BOOT_LIMIT).expect("what was restored is the guest: no hook changed its XML");

    // There is no way to have libvirt take over a QEMU that it did not start, so `attach` never comes.
    let attach = domain.virsh(&["qemu-attach", "1"]).expect("it ends");
    assert!(attach.code() != 0 && attach.err_text().contains("not supported"), "{attach:?}");

    // libvirtd is stopped, and then killed; each time it finds the domain again.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        restart(&lab, signal);
        assert_eq!(domain.state().expect("state"), "running", "a hook that fails in reconnect would have killed it");
        settle();
        assert_eq!(told(root, spooled), ["reconnect begin"], "{signal}");
    }

    // A listener gets it all by datagram instead.
    let inbox = Inbox::bind(Path::new(DIR_DEFAULT)).expect("bound");
    domain.virsh_ok(&["reset", "lab1"]).expect("reset");
    domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    domain.virsh_ok(&["start", "lab1"]).expect("start");
    settle();
    let received = |_: &Path| std::iter::from_fn(|| inbox.next().expect("the socket")).map(|e| e.expect("a record")).collect();
    assert_eq!(told(root, received), [&STOP[..], &START].concat(), "a reset is no change of state");
    assert!(spooled(root).is_empty());

    // One that hangs: its socket fills, the rest is spooled, and nobody waits.
    domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    while cairn_hook::channel::send(Path::new(DIR_DEFAULT), b"filler").is_ok() {}
    spooled(root);
    hooks::take(root).expect("log");
    domain.virsh_ok(&["start", "lab1"]).expect("start");
    assert_eq!(told(root, spooled), START);
});

lab_test!(nothing_of_ours_keeps_a_domain_from_living, no_guest(), |lab| {
    let root = Path::new("/");
    install(&lab);
    let domain = define("a name with  spaces, \"quotes\" and &amp;");
    let domain = Domain::new(domain.name().replace("&amp;", "&"));
    let cycle = || {
        domain.virsh_ok(&["start", domain.name()]).expect("start");
        assert_eq!(domain.state().expect("state"), "running");
        domain.virsh_ok(&["destroy", domain.name()]).expect("destroy");
    };
    cycle();
    let events = spooled(root);
    assert_eq!(events.len(), 5);
    for event in &events {
        assert_eq!(event.domain, domain.name());
        assert_eq!(event.uuid.map(|u| u.to_string()).as_deref(), Some(UUID), "not that of its title, its description or its metadata");
    }
    let base = Path::new(DIR_DEFAULT);
    // A read-only file system in the place of records.
    run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "tmpfs", DIR_DEFAULT]), LIMIT).expect("mounted");
    cycle();
    assert_eq!(fs::read_dir(base).expect("there").count(), 0);
    run_ok(Command::new("umount").arg(DIR_DEFAULT), LIMIT).expect("unmounted");
    // Somebody else's folder, a file, a link to nowhere.
    fs::set_permissions(base, fs::Permissions::from_mode(0o777)).expect("changed");
    cycle();
    assert_eq!(fs::read_dir(base.join(SPOOL)).expect("there").count(), 0, "nothing is left where others may write");
    let output = hook(&lab, &["status"]);
    assert_eq!(output.code(), cairn::WARNINGS);
    assert!(output.err_text().contains("chmod go-w"), "{output:?}");
    let aside = Path::new("/run/aside");
    fs::rename(base, aside).expect("moved");
    fs::write(base, b"").expect("written");
    cycle();
    fs::remove_file(base).expect("removed");
    std::os::unix::fs::symlink("/nowhere", base).expect("link");
    cycle();
    fs::remove_file(base).expect("removed");
    // Not there: made anew.
    cycle();
    assert_eq!(spooled(root).len(), 5);
});

lab_test!(a_migration_is_told_on_both_sides, no_guest(), |lab| {
    let root = Path::new("/");
    install(&lab);
    // Run after ours, so that it shows what ours leaves of the XML for others.
    hooks::make("zz-other").expect("another hook");
    let second = Second::start(&lab.dir().join("second"), Some(Path::new(hooks::DIR))).expect("a second libvirtd");
    let domain = define("m1");
    domain.virsh_ok(&["start", "m1"]).expect("start");
    assert_eq!(told(root, spooled), START);
    let away = ["migrate", "--live", "--persistent", "--undefinesource", "m1", &second.uri(), "--migrateuri", "tcp://127.0.0.1"];
    domain.virsh_ok(&away).expect("migrate");
    let state = run_ok(&mut second.virsh(&["domstate", "m1"]), LIMIT).expect("it is there");
    assert_eq!(state.trim(), "running");
    assert_eq!(told(root, spooled), STOP);
    assert_eq!(told(&second.root(), spooled), [&["migrate begin"][..], &START].concat());
    // What arrived is what went: no output of ours replaced the XML.
    let xml = run_ok(&mut second.virsh(&["dumpxml", "m1"]), LIMIT).expect("XML");
    assert!(xml.contains(UUID) && xml.contains(FALSE), "{xml}");
    run_ok(&mut second.virsh(&["destroy", "m1"]), LIMIT).expect("destroy");
    assert_eq!(told(&second.root(), spooled), STOP);
    assert!(told(root, spooled).is_empty());
});

lab_test!(install_status_and_remove, no_guest(), |lab| {
    let program = lab.hook().expect("the hook").to_string_lossy().into_owned();
    let path = Path::new(hooks::DIR).join("qemu.d/cairn");
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(path.parent().expect("folder")).expect("there").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let status = |code: i32| {
        let output = hook(&lab, &["status", "--json", "--binary", &program]);
        assert_eq!(output.code(), code, "{output:?}");
        json(&output)
    };
    let installed = |args: &[&str]| json(&hook(&lab, &[&["install", "--json", "--binary", &program], args].concat()));

    // Not there; removing it is no failure. Nor is anything made by looking.
    assert_eq!(status(cairn::NOT_FOUND)["installed"], false);
    assert_eq!(json(&hook(&lab, &["remove", "--json"]))["removed"], false);
    assert!(!Path::new(hooks::DIR).exists());

    // Installed beside a daemon that had no hook: it must be reloaded, and is not running it until then.
    let domain = define("t1");
    let value = installed(&[]);
    assert_eq!((&value["changed"], &value["reload_needed"], &value["daemons"][0]["calls"]), (&true.into(), &true.into(), &"after-reload".into()), "{value}");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o755);
    domain.virsh_ok(&["start", "t1"]).expect("start");
    assert!(spooled(Path::new("/")).is_empty(), "libvirt found no hook when it started");
    assert_eq!(status(cairn::WARNINGS)["reload_needed"], true);
    reload();
    domain.virsh_ok(&["destroy", "t1"]).expect("destroy");
    assert_eq!(spooled(Path::new("/")).len(), 2);
    let value = status(cairn::DONE);
    assert_eq!((&value["reload_needed"], &value["current"], &value["daemons"][0]["calls"]), (&false.into(), &true.into(), &"yes".into()), "{value}");
    assert!(value["last_called"].is_string());

    // Again: nothing to do. After an upgrade: replaced, and still what the daemon calls.
    assert_eq!(installed(&[])["changed"], false);
    let mut older = fs::read(&path).expect("read");
    older.extend_from_slice(b"an older build");
    fs::write(&path, &older).expect("written");
    let output = hook(&lab, &["status", "--binary", &program]);
    assert_refused(&output, cairn::WARNINGS, "another build");
    assert_eq!(installed(&[])["changed"], true);
    assert_eq!(fs::read(&path).expect("read"), fs::read(&program).expect("read"));
    restart(&lab, Signal::SIGTERM);
    fs::remove_file(Path::new(DIR_DEFAULT).join("hook-called")).expect("called before");
    assert_eq!(status(cairn::DONE)["daemons"][0]["calls"], "yes", "it was there when the daemon started");

    // What is wrong with it is told.
    for (mode, word) in [(0o644, "not executable"), (0o777, "written to by others")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
        assert_refused(&hook(&lab, &["status", "--binary", &program]), cairn::WARNINGS, word);
        assert_eq!(installed(&[])["changed"], true, "{word}");
        status(cairn::DONE);
    }

    // Others' hooks stay, whatever is done with ours.
    hooks::make("50-other").expect("another hook");
    assert_eq!(json(&hook(&lab, &["remove", "--json"]))["removed"], true);
    assert_eq!(names(), ["50-other"]);
    let value = installed(&[]);
    assert_eq!(value["reload_needed"], true, "the other one came after the daemon, too: {value}");
    assert_eq!(names(), ["50-other", "cairn"]);
    hook(&lab, &["remove"]);

    // A file of our name that is not ours, or no file, is left alone.
    fs::write(&path, "#!/bin/sh\n").expect("written");
    for args in [&["install", "--binary", &program][..], &["remove"]] {
        assert_refused(&hook(&lab, args), cairn::REFUSED, "somebody else's");
    }
    assert_eq!(status(cairn::NOT_FOUND)["foreign"], "a file of somebody else's");
    assert_eq!(fs::read(&path).expect("read"), b"#!/bin/sh\n");
    assert_eq!(installed(&["--force"])["changed"], true);
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    assert_refused(&hook(&lab, &["install", "--force", "--binary", &program]), cairn::REFUSED, "a folder");
    fs::remove_dir(&path).expect("removed");
    std::os::unix::fs::symlink(&program, &path).expect("link");
    assert_refused(&hook(&lab, &["remove"]), cairn::REFUSED, "a link");

    // Only a program that is one, and runs here, is installed.
    assert_refused(&hook(&lab, &["install", "--force", "--binary", "/bin/true"]), cairn::REFUSED, "no cairn-hook");
    assert_refused(&hook(&lab, &["install", "--force", "--binary", "/nowhere"]), cairn::NOT_FOUND, "/nowhere");
    let broken = lab.dir().join("broken");
    let mut bytes = fs::read(&program).expect("read");
    bytes[18..20].copy_from_slice(&[0xf7, 0]);
    fs::write(&broken, bytes).expect("written");
    assert_refused(&hook(&lab, &["install", "--force", "--binary", &broken.to_string_lossy()]), cairn::FAILED, "does not run here");
    assert_eq!(names(), ["50-other", "cairn"]);
    assert!(fs::symlink_metadata(&path).expect("there").is_symlink(), "as it was");
    assert_eq!(fs::read_dir(hooks::DIR).expect("there").count(), 1, "nothing unfinished is left");
    assert_refused(&hook(&lab, &["install", "--dir", "/nowhere/hooks", "--binary", &program]), cairn::NOT_FOUND, "is libvirt installed");
});

// What docs/hooks.md says of libvirt and `cairn hook` relies on; another libvirt may do otherwise.
lab_test!(when_libvirt_looks_for_hooks_and_which_it_runs, no_guest(), |lab| {
    let root = Path::new("/");
    let folder = Path::new(hooks::DIR).join("qemu.d");
    let domain = define("t1");
    let start_and_destroy = || {
        domain.virsh_ok(&["start", "t1"]).expect("start");
        domain.virsh_ok(&["destroy", "t1"]).expect("destroy");
    };
    hooks::make("50-other").expect("another hook");
    start_and_destroy();
    assert_eq!(hooks::take(root).expect("log"), [], "there was no hook when libvirtd started");
    reload();
    start_and_destroy();
    assert_eq!(hooks::take(root).expect("log").len(), 5, "a reload is enough");
    // From here on each operation reads the folder anew.
    fs::rename(folder.join("50-other"), folder.join(".other~")).expect("renamed");
    let program = lab.hook().expect("the hook").to_string_lossy().into_owned();
    assert_eq!(hook(&lab, &["install", "--binary", &program]).code(), cairn::DONE);
    start_and_destroy();
    assert_eq!(told(root, spooled), [&START[..], &STOP].concat(), "ours is new, and the other one has a name that hides it");
    // One that refuses the start: all are called all the same, and told of an end of what never began.
    let refusing = folder.join("00-refusing");
    fs::write(&refusing, "#!/bin/sh\n[ \"$2\" != prepare ]\n").expect("written");
    fs::set_permissions(&refusing, fs::Permissions::from_mode(0o755)).expect("changed");
    let refused = domain.virsh(&["start", "t1"]).expect("it ends");
    assert!(refused.code() != 0 && refused.err_text().contains("Hook script"), "{refused:?}");
    assert_eq!(told(root, spooled), ["prepare begin", "stopped end", "release end"]);
});
