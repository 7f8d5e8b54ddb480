//! What an admin does to a domain's disks between two points, and what the next point reads of them: the second table of docs/modes.md.
//!
//! A domain without a system for each act, with a qcow2 and a raw disk. Every point restores to what the images have, and the point after it is
//! incremental again.

use cairn_lab::cairn::{DONE, NO_STORE, WARNINGS};
use cairn_lab::hollow::{Hollow, Kind};
use cairn_lab::modes::{assert_documented, cell, saved};
use cairn_lab::process::{run, run_ok};
use cairn_lab::suite::Suite;
use cairn_lab::{Cairn, Options, lab_test, libvirt};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const TOOL_LIMIT: Duration = Duration::from_secs(60);
const DISKS: [&str; 2] = ["sda", "sdb"];

/// What is done to a domain whose last point is this one.
type Act = fn(&Suite, &mut Hollow, &str);

const ACTS: [(&str, Act); 17] = [
    ("nothing", |_, _, _| {}),
    ("external snapshot", |_, machine, _| snapshot(machine)),
    ("external snapshot, written to, `blockcommit --active --pivot`", |_, machine, _| commit(machine, |_| {})),
    ("the same with a point of its own before `blockcommit`", |suite, machine, _| {
        commit(machine, |machine| drop(saved(suite, machine)));
    }),
    ("external snapshot, written to, `blockpull`", |_, machine, _| {
        snapshot(machine);
        machine.write_all(40);
        DISKS.into_iter().for_each(|disk| machine.virsh("blockpull", &[disk, "--wait"]));
    }),
    ("external snapshot, stopped, `qemu-img rebase` to no backing image, started", |_, machine, _| {
        snapshot(machine);
        machine.write_all(40);
        machine.stop();
        machine.images().iter().for_each(|(_, path, _)| tool("qemu-img", &["rebase", "-f", "qcow2", "-b", "", &path.to_string_lossy()]));
        machine.define_and_start();
    }),
    ("`blockcopy --pivot` to another image", |_, machine, _| DISKS.into_iter().for_each(|disk| machine.block_copy(disk, &format!("{disk}.copied")))),
    ("detached and attached again", |_, machine, _| {
        for (disk, format) in DISKS.into_iter().zip(["qcow2", "raw"]) {
            let image = machine.detach(disk);
            machine.attach_image(disk, &image, format);
        }
    }),
    ("grown", |_, machine, _| resize(machine, "16M")),
    ("cut short", |_, machine, _| resize(machine, "9M")),
    ("cut short, and grown again", |_, machine, _| {
        resize(machine, "9M");
        resize(machine, "12M");
    }),
    ("`managedsave`, and started", |_, machine, _| {
        machine.virsh("managedsave", &[]);
        machine.start();
    }),
    ("defined anew while it runs", |_, machine, _| machine.define(48)),
    ("made transient while it runs (`undefine`)", |_, machine, _| machine.virsh("undefine", &[])),
    ("set back to an internal snapshot, which wants `cairn untrack` first", |suite, machine, _| set_back(suite, machine)),
    ("its newest point forgotten, the one before it is left", |suite, _, id| drop(suite.cairn.ok(&["forget", id, "--force"]).expect("forgotten"))),
    ("its store away, and saved to another one meanwhile", |suite, machine, _| store_away(suite, machine)),
];

fn tool(program: &str, args: &[&str]) {
    run_ok(Command::new(program).args(args), TOOL_LIMIT).unwrap_or_else(|e| panic!("{}", e.report()));
}

fn snapshot(machine: &mut Hollow) {
    let overlays = DISKS.map(|disk| machine.path(&format!("{disk}.overlay")));
    let specs = DISKS.map(|disk| format!("{disk},file={}", machine.path(&format!("{disk}.overlay")).display()));
    machine.virsh("snapshot-create-as", &["s", "--disk-only", "--atomic", "--no-metadata", "--diskspec", &specs[0], "--diskspec", &specs[1]]);
    for (disk, overlay) in DISKS.into_iter().zip(overlays) {
        machine.follow(disk, overlay, "qcow2");
    }
}

/// Over an overlay and back; `between`: once the overlay was written to.
fn commit(machine: &mut Hollow, between: impl Fn(&Hollow)) {
    let images: Vec<(String, PathBuf, String)> = machine.images();
    snapshot(machine);
    machine.write_all(40);
    between(machine);
    for (disk, path, format) in images {
        machine.virsh("blockcommit", &[&disk, "--active", "--pivot", "--wait"]);
        machine.follow(&disk, path, &format);
    }
}

fn resize(machine: &Hollow, size: &str) {
    DISKS.into_iter().for_each(|disk| machine.virsh("blockresize", &[disk, size]));
}

/// QEMU sets no image back that has a bitmap in it.
fn set_back(suite: &Suite, machine: &Hollow) {
    let image = machine.images()[0].1.display().to_string();
    machine.stop();
    tool("qemu-img", &["snapshot", "-c", "s", &image]);
    machine.start();
    machine.write_all(40);
    let _ = saved(suite, machine);
    machine.stop();
    let refused = run(Command::new("qemu-img").args(["snapshot", "-a", "s", &image]), TOOL_LIMIT).expect("it ends");
    assert!(!refused.status.success() && refused.err_text().contains("dirty bitmaps"), "{}", refused.err_text());
    suite.cairn.ok(&["untrack", machine.name()]).expect("untrack");
    tool("qemu-img", &["snapshot", "-a", "s", &image]);
    machine.start();
}

/// Only bitmaps of a store that answers are swept.
fn store_away(suite: &Suite, machine: &Hollow) {
    let (store, aside) = (suite.cairn.store(), suite.path("aside"));
    let other = Cairn::new(&suite.lab, &format!("other-{}", machine.name())).expect("a program under test");
    other.init().expect("cairn init");
    std::fs::rename(store, &aside).expect("away");
    let backup = ["backup", machine.name(), "--quiesce", "never"];
    assert_eq!(suite.cairn.run(&backup).expect("it ends").code(), NO_STORE);
    let output = other.run(&backup).expect("it ends");
    assert!([DONE, WARNINGS].contains(&output.code()), "{}", output.err_text());
    std::fs::rename(&aside, store).expect("back");
}

/// The cells of one act: what both disks got.
fn cells(suite: &Suite, number: usize, act: Act) -> [String; 2] {
    let mut machine = Hollow::new(&format!("act-{number}"));
    machine.add("sda", Kind::Qcow2, "sda.img");
    machine.add("sdb", Kind::Raw, "sdb.img");
    machine.define_and_start();
    resize(&machine, "12M");
    // Behind what the others write.
    DISKS.into_iter().for_each(|disk| machine.order_to(disk, "write -P 9 10M 256k"));
    machine.write_all(1);
    let _ = saved(suite, &machine);
    machine.write_all(2);
    let (id, _) = saved(suite, &machine);
    machine.write_all(3);
    act(suite, &mut machine, &id);
    machine.write_all(4);
    let (_, line) = saved(suite, &machine);
    machine.write_all(5);
    let (_, after) = saved(suite, &machine);
    for disk in DISKS {
        assert_eq!(cell(&after, disk), "incremental", "whatever a disk got, the next point goes on from it");
    }
    machine.stop();
    DISKS.map(|disk| cell(&line, disk))
}

lab_test!(what_an_admin_does_is_as_docs_modes_says, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let mut table = "| between two points | qcow2 | raw |\n|---|---|---|\n".to_owned();
    for (number, (what, act)) in ACTS.into_iter().enumerate() {
        println!("{what}:");
        table += &format!("| {what} | {} |\n", cells(&suite, number, act).join(" | "));
    }
    println!("{table}");
    suite.cairn.ok(&["verify", "--all", "--data"]).expect("verify");
    assert_documented(&format!("In between: {}", libvirt::version().expect("a version")), &table);
});
