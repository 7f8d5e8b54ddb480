//! What happens in the demo, in its order.

use super::proof::{equal, guest_is_untouched, newest_point, one_moment, with_reference};
use super::story::{Story, cairn, tell};
use crate::error::{Error, Result};
use cairn_lab::reference::{self, Pair};
use cairn_lab::{Cairn, Domain, Lab};
use std::time::Duration;

/// Name of the demo's store in the lab's folder.
pub const STORE: &str = "store";
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const COPY: &str = "lab2";
const RUN: &str = "lab3";
/// For a guest that boots beside another one on two slow cores.
const AGENT_S: &str = "120";
/// New data, changed data, data gone (the mounts discard), data overwritten with zeros; on both disks.
const DAY_TWO: &str = "
set -e
noise() { /bin/lab-guest __lab-guest noise \"$@\"; }
noise /mnt/a/report 0 12582912 1
noise /mnt/a/data/changed 0 65536 2
noise /mnt/b/report 0 4194304 3
echo 'Written on the second day.' > /mnt/a/second-day
echo 'Written on the second day.' > /mnt/b/second-day
find /mnt/a/data -type f -size +512k | head -n 20 | xargs rm -f
dd if=/dev/zero of=/mnt/b/zeros bs=64k count=32 conv=notrunc 2>/dev/null
sync; sleep 1; sync
";
const DAY_ONE: &str = "/bin/lab-guest __lab-guest noise /mnt/b/zeros 0 2097152 4 && sync";

/// A point and the reference it must equal.
struct Point {
    id: String,
    reference: Pair,
}

/// The whole story.
pub fn play() -> Result<()> {
    let lab = Lab::here()?;
    let program = Cairn::new(&lab, STORE)?;
    let domain = lab.domain();
    let mut story = Story::begin();
    story.step("A store: deduplicated, compressed, encrypted", || {
        let (store, key) = (program.store().to_string_lossy(), program.key().to_string_lossy());
        cairn(&program, &["init", &store, "--key-file", &key])?;
        tell("from here on CAIRN_STORE and CAIRN_KEY_FILE name the two");
        Ok(())
    })?;
    let first = story.step("First backup: everything is read once", || {
        domain.sh(DAY_ONE)?;
        backup(&lab, &program, &domain, 1, "full")
    })?;
    let second = story.step("The guest writes, deletes (TRIM) and zeroes; the second backup reads what changed", || {
        domain.sh(DAY_TWO)?;
        backup(&lab, &program, &domain, 2, "incremental")
    })?;
    let busy = story.step("A third backup while the guest writes to both disks without a pause", || busy_backup(&program, &domain))?;
    story.step("What there is", || cairn(&program, &["list"]).map(drop))?;
    story.step("Restore the first two points and compare every byte with references that qemu-img took", || {
        compare(&lab, &program, "first", &first)?;
        compare(&lab, &program, "second", &second)?;
        compare_qcow2(&lab, &program, &second)
    })?;
    story.step("Restore the point of the busy guest: both disks of one moment, file systems clean", || {
        let pair = restore(&lab, &program, "busy", &busy)?;
        one_moment(&lab, &pair)
    })?;
    story.step("Boot the restored domain under another name and read a file in it", || boot_copy(&lab, &program, &second.id))?;
    story.step("Run the point straight from the store: nothing is copied before the guest boots", || run_copy(&program, &second.id))?;
    story.step("Clean up: the copies go; the lab ends with its libvirt, guest and folder", || guest_is_untouched(&domain))?;
    story.end();
    Ok(())
}

fn backup(lab: &Lab, program: &Cairn, domain: &Domain, number: usize, mode: &str) -> Result<Point> {
    let folder = lab.dir().join(format!("reference-{number}"));
    let reference = with_reference(domain, &folder, || cairn(program, &["backup", domain.name()]).map(drop))?;
    tell("reference by qemu-img before and after the backup: equal");
    let id = newest_point(program, domain, number, mode)?;
    guest_is_untouched(domain)?;
    Ok(Point { id, reference })
}

fn busy_backup(program: &Cairn, domain: &Domain) -> Result<String> {
    domain.writer_start(0)?;
    std::thread::sleep(Duration::from_secs(1));
    cairn(program, &["backup", domain.name()])?;
    domain.writer_stop()?;
    newest_point(program, domain, 3, "incremental")
}

fn restore(lab: &Lab, program: &Cairn, name: &str, id: &str) -> Result<Pair> {
    let folder = lab.dir().join(format!("restored-{name}"));
    std::fs::create_dir_all(&folder).map_err(|e| Error::failed(format!("cannot create {}: {e}", folder.display())))?;
    let pair = Pair { vda: folder.join("vda.raw"), vdb: folder.join("vdb.raw") };
    let (vda, vdb) = (format!("vda={}", pair.vda.display()), format!("vdb={}", pair.vdb.display()));
    cairn(program, &["restore", id, "--disk", &vda, "--disk", &vdb, "--format", "raw"])?;
    Ok(pair)
}

fn compare(lab: &Lab, program: &Cairn, name: &str, point: &Point) -> Result<()> {
    let restored = restore(lab, program, name, &point.id)?;
    equal(&point.reference, &restored, &format!("the {name} point does not restore to what it was"))?;
    let bytes: u64 = [&restored.vda, &restored.vdb].iter().filter_map(|path| path.metadata().ok()).map(|meta| meta.len()).sum();
    tell(&format!("{name} point: {bytes} bytes restored, every one equal"));
    let _ = std::fs::remove_dir_all(lab.dir().join(format!("restored-{name}")));
    Ok(())
}

fn compare_qcow2(lab: &Lab, program: &Cairn, point: &Point) -> Result<()> {
    let path = lab.dir().join("restored.qcow2");
    cairn(program, &["restore", &point.id, "--disk", &format!("vda={}", path.display()), "--format", "qcow2"])?;
    if !reference::same_by_qemu_img(&path, "qcow2", &point.reference.vda)? {
        return Err(Error::failed(format!("qemu-img compare: {} differs from its reference", path.display())));
    }
    tell("the same as qcow2: qemu-img compare finds them identical");
    let _ = std::fs::remove_file(&path);
    Ok(())
}

fn boot_copy(lab: &Lab, program: &Cairn, id: &str) -> Result<()> {
    let (vda, vdb) = (lab.dir().join("lab2-a.qcow2"), lab.dir().join("lab2-b.raw"));
    let (vda, vdb) = (format!("vda={}", vda.display()), format!("vdb={}", vdb.display()));
    cairn(program, &["restore", id, "--as", COPY, "--disk", &vda, "--disk", &vdb])?;
    let copy = Domain::new(COPY);
    copy.start(BOOT_LIMIT)?;
    tell(&format!("{COPY} is up beside {}", lab.domain().name()));
    let text = copy.sh("cat /mnt/a/second-day && cmp /mnt/a/second-day /mnt/b/second-day && cat /mnt/a/greeting")?;
    if !text.starts_with("Written on the second day.") {
        return Err(Error::failed(format!("{COPY} has other files than it should: {text:?}")));
    }
    tell(&format!("{COPY}:/mnt/a/second-day says: {}", text.lines().next().unwrap_or_default()));
    for query in ["domuuid", "domiflist"] {
        let of = |name: &str| copy.virsh_ok(&[query, name]);
        if of(COPY)? == of(lab.domain().name())? {
            return Err(Error::failed(format!("`virsh {query}` gives the same for {COPY} and its origin")));
        }
    }
    copy.virsh_ok(&["destroy", COPY])?;
    copy.virsh_ok(&["undefine", COPY])?;
    Ok(())
}

/// From the store to an ordinary domain, while it runs and writes.
fn run_copy(program: &Cairn, id: &str) -> Result<()> {
    cairn(program, &["run", id, "--as", RUN, "--wait-agent", AGENT_S])?;
    let copy = Domain::new(RUN);
    let text = copy.sh("cat /mnt/a/second-day && echo 'Written while it ran from the backup.' > /mnt/a/while-it-ran && sync")?;
    if !text.starts_with("Written on the second day.") {
        return Err(Error::failed(format!("{RUN} has other files than it should: {text:?}")));
    }
    cairn(program, &["runs"])?;
    cairn(program, &["keep", RUN])?;
    for args in [&["dumpxml", RUN][..], &["dumpxml", "--inactive", RUN]] {
        if copy.virsh_ok(args)?.contains("nbd") {
            return Err(Error::failed(format!("{RUN} is kept, and still reads from the store")));
        }
    }
    let text = copy.sh("echo 3 > /proc/sys/vm/drop_caches; cat /mnt/a/second-day /mnt/a/while-it-ran")?;
    if text != "Written on the second day.\nWritten while it ran from the backup.\n" {
        return Err(Error::failed(format!("{RUN} has lost something by being kept: {text:?}")));
    }
    tell("kept while it ran: its disks are its own now, with what it wrote meanwhile");
    copy.virsh_ok(&["destroy", RUN])?;
    copy.virsh_ok(&["undefine", RUN])?;
    Ok(())
}
