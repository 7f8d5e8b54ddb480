//! Everything of a domain comes back: firmware variables, TPM state, boot files, and what is only told.

use cairn_lab::suite::{Suite, assert_refused};
use cairn_lab::{Domain, Options, cairn, lab_test};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const BOOT_LIMIT: Duration = Duration::from_secs(240);
const SWTPM: &str = "/var/lib/libvirt/swtpm";
const NVRAM: &str = "/var/lib/libvirt/qemu/nvram";
const LOADER: &str = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>";
const TPM: &str = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
const VARIABLES: &str = "/sys/firmware/efi/efivars";
const VENDOR: &str = "5ac1bb4e-0d5c-4cb5-9b0e-6d1b2d3a4c5f";
const MIB: u64 = 1 << 20;

/// Defines the lab's guest anew with firmware and a TPM of its own, and boots it.
fn with_firmware(suite: &Suite, name: &str) {
    let xml = suite.domain.virsh_ok(&["dumpxml", "--inactive", "lab1"]).expect("XML");
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let os = format!("{LOADER}<nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>{NVRAM}/{name}_VARS.fd</nvram><kernel>");
    let xml = xml.replacen("<kernel>", &os, 1).replacen("</devices>", &format!("{TPM}</devices>"), 1);
    define(suite, &xml);
    suite.domain.start(BOOT_LIMIT).expect("it boots by its firmware");
    suite.domain.sh("mount -t efivarfs efivarfs /sys/firmware/efi/efivars").expect("a guest with UEFI");
}

fn define(suite: &Suite, xml: &str) {
    let path = suite.path("define.xml");
    fs::write(&path, xml).expect("written");
    suite.domain.virsh_ok(&["define", &path.to_string_lossy()]).expect("define");
}

/// Attributes (non-volatile, for boot and runtime) and the value, in one write as the kernel wants it.
fn set_variable(domain: &Domain, name: &str, value: &str) {
    domain.sh(&format!("printf '\\007\\000\\000\\000{value}' > {VARIABLES}/{name}-{VENDOR} && sync")).expect("the variable is written");
}

/// All variables of the test, `NAME=VALUE`.
fn variables(domain: &Domain) -> String {
    let script = format!(
        "mountpoint -q {VARIABLES} || mount -t efivarfs e {VARIABLES}; cd {VARIABLES}; for v in *-{VENDOR}; do echo \"${{v%-{VENDOR}}}=$(tail -c +5 $v)\"; done"
    );
    domain.sh(&script).expect("variables").trim().to_owned()
}

/// One TPM 2.0 command (TCG "TPM 2.0 Part 3: Commands"), as bytes; gives the answer in hexadecimal digits.
fn tpm(domain: &Domain, command: &[u8]) -> String {
    let octal: String = command.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("exec 3<>/dev/tpm0; printf '{octal}' >&3; head -c 4096 <&3 | od -An -v -tx1 | tr -d ' \\n'");
    domain.sh(&script).expect("the TPM answers").trim().to_owned()
}

const NV_INDEX: [u8; 4] = [0x01, 0x80, 0x00, 0x01];
const OWNER: [u8; 4] = [0x40, 0, 0, 1];
/// A session by password, which is empty.
const EMPTY_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
const CODE_OK: &str = "00000000";

fn order(code: u32, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = u32::try_from(body.len() + 10).expect("small");
    [&[0x80, 0x02][..], &size.to_be_bytes(), &code.to_be_bytes(), &body].concat()
}

/// TPM2_NV_DefineSpace of eight bytes.
fn tpm_define(domain: &Domain) {
    // SHA-256; written and read by the owner, not locked out.
    let public = [&NV_INDEX[..], &[0, 0x0b], &[0x02, 0x02, 0, 0x02], &[0, 0], &[0, 8]].concat();
    let defined = tpm(domain, &order(0x12a, &[&OWNER, &EMPTY_PASSWORD, &[0, 0], &[0, 14], &public]));
    assert_eq!(&defined[12..20], CODE_OK, "{defined}");
}

/// TPM2_NV_Write of eight bytes.
fn tpm_write(domain: &Domain, value: [u8; 8]) {
    let written = tpm(domain, &order(0x137, &[&OWNER, &NV_INDEX, &EMPTY_PASSWORD, &[0, 8], &value, &[0, 0]]));
    assert_eq!(&written[12..20], CODE_OK, "{written}");
}

/// TPM2_NV_Read of eight bytes.
fn tpm_read(domain: &Domain) -> String {
    let read = tpm(domain, &order(0x14e, &[&OWNER, &NV_INDEX, &EMPTY_PASSWORD, &[0, 8], &[0, 0]]));
    assert_eq!(&read[12..20], CODE_OK, "{read}");
    // Header 10, length of parameters 4, length of the value 2.
    read[32..48].to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uuid(domain: &Domain) -> String {
    domain.virsh_ok(&["domuuid", domain.name()]).expect("uuid").trim().to_owned()
}

fn tpm_file(uuid: &str) -> PathBuf {
    Path::new(SWTPM).join(uuid).join("tpm2/tpm2-00.permall")
}

fn owner_and_mode(path: &Path) -> (u32, u32, u32) {
    let m = path.metadata().expect("there");
    (m.uid(), m.gid(), m.mode() & 0o7777)
}

/// The domain with all that libvirt keeps of it, and its disks.
fn lose(suite: &Suite) {
    suite.domain.virsh(&["destroy", "lab1"]).expect("virsh");
    suite.domain.virsh_ok(&["undefine", "lab1", "--nvram", "--snapshots-metadata"]).expect("undefine");
    for disk in cairn_lab::lab::disks() {
        fs::remove_file(disk.path).expect("removed");
    }
}

lab_test!(firmware_variables_and_tpm_come_back, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    with_firmware(&suite, "lab1");
    set_variable(&suite.domain, "Before", "kept");
    tpm_define(&suite.domain);
    tpm_write(&suite.domain, *b"cairn-02");
    let saved_uuid = uuid(&suite.domain);
    let owner = owner_and_mode(&tpm_file(&saved_uuid));
    let point = suite.quiet_backup("firmware");
    let files = suite.point(&point.id)["source"]["files"].clone();
    let roles: Vec<&str> = files.as_array().expect("files").iter().map(|f| f["role"].as_str().expect("role")).collect();
    assert_eq!(roles, ["nvram", "kernel", "initrd", "tpm"]);

    set_variable(&suite.domain, "Later", "gone");
    lose(&suite);
    assert!(!tpm_file(&saved_uuid).exists() && !Path::new(NVRAM).join("lab1_VARS.fd").exists(), "libvirt removes them with the definition");
    suite.cairn.ok(&["restore", &point.id]).expect("restore");
    assert_eq!(owner_and_mode(&tpm_file(&saved_uuid)), owner);
    suite.domain.start(BOOT_LIMIT).expect("it boots");
    assert_eq!(variables(&suite.domain), "Before=kept");
    assert_eq!(tpm_read(&suite.domain), hex(b"cairn-02"));

    // A copy beside it: variables and TPM of its own, with the same content.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let dir = suite.path("copy");
    fs::create_dir(&dir).expect("a folder");
    suite.cairn.ok(&["restore", &point.id, "--as", "lab2", "--dir", &dir.to_string_lossy()]).expect("restore");
    let copy = Domain::new("lab2");
    assert_ne!(uuid(&copy), saved_uuid);
    assert!(tpm_file(&saved_uuid).exists() && tpm_file(&uuid(&copy)).exists());
    copy.start(BOOT_LIMIT).expect("the copy boots");
    assert_eq!((variables(&copy).as_str(), tpm_read(&copy)), ("Before=kept", hex(b"cairn-02")));
    let live = copy.virsh_ok(&["dumpxml", "lab2"]).expect("XML");
    assert!(live.contains(&format!("{NVRAM}/lab2_VARS.fd")), "{live}");
    copy.virsh_ok(&["destroy", "lab2"]).expect("destroy");
    a_run_has_them_too(&suite, &point.id, &saved_uuid);
});

/// Kept, it has what its guest wrote meanwhile; thrown away, it takes them along; those of the original stay as they were.
fn a_run_has_them_too(suite: &Suite, point: &str, original: &str) {
    let originals = || (fs::read(tpm_file(original)).expect("there"), fs::read(Path::new(NVRAM).join("lab1_VARS.fd")).expect("there"));
    let (begin, before, run) = (Instant::now(), originals(), Domain::new("lab3"));
    suite.cairn.ok(&["run", point, "--as", "lab3", "--wait-agent", &BOOT_LIMIT.as_secs().to_string()]).expect("run");
    assert_eq!((variables(&run).as_str(), tpm_read(&run)), ("Before=kept", hex(b"cairn-02")));
    set_variable(&run, "InRun", "too");
    tpm_write(&run, *b"cairn-03");
    suite.cairn.ok(&["keep", "lab3"]).expect("keep");
    run.virsh_ok(&["destroy", "lab3"]).expect("destroy");
    run.start(BOOT_LIMIT).expect("an ordinary domain boots");
    assert_eq!((variables(&run).as_str(), tpm_read(&run)), ("Before=kept\nInRun=too", hex(b"cairn-03")));
    run.virsh_ok(&["destroy", "lab3"]).expect("destroy");

    suite.cairn.ok(&["run", point, "--as", "lab4", "--paused"]).expect("run");
    let files = [tpm_file(&uuid(&Domain::new("lab4"))), Path::new(NVRAM).join("lab4_VARS.fd")];
    assert!(files.iter().all(|file| file.exists()), "{files:?}");
    suite.cairn.ok(&["discard", "lab4", "--force"]).expect("discard");
    assert!(!files.iter().any(|file| file.exists()), "{files:?}");
    assert!(originals() == before, "the original's were written to");
    println!("a run that was kept and one that was thrown away: {:.1} s", begin.elapsed().as_secs_f64());
}

lab_test!(variables_of_firmware_that_libvirt_chose_come_back, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let image = Path::new("/var/lib/libvirt/images/efi.qcow2");
    cairn_lab::process::run_ok(std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(image).arg("16M"), BOOT_LIMIT).expect("image");
    define(
        &suite,
        &format!(
            "<domain type='qemu'><name>efi</name><memory unit='MiB'>128</memory><os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>\
             <features><acpi/></features><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk></devices></domain>",
            image.display()
        ),
    );
    let domain = Domain::new("efi");
    domain.virsh_ok(&["start", "efi"]).expect("start");
    let vars = Path::new(NVRAM).join("efi_VARS.fd");
    std::thread::sleep(Duration::from_secs(15));
    // Nothing runs, so nothing changes: what is in the point is what is in the file.
    domain.virsh_ok(&["suspend", "efi"]).expect("suspend");
    let content = fs::read(&vars).expect("variables");
    let inactive = domain.virsh_ok(&["dumpxml", "--inactive", "efi"]).expect("XML");
    assert!(!inactive.contains("<nvram"), "the definition does not say where they are: {inactive}");
    suite.cairn.ok(&["backup", "efi", "--quiesce", "never"]).expect("backup");
    domain.virsh_ok(&["destroy", "efi"]).expect("destroy");
    domain.virsh_ok(&["undefine", "efi", "--nvram"]).expect("undefine");
    fs::remove_file(image).expect("removed");
    assert!(!vars.exists());
    suite.cairn.ok(&["restore", "efi"]).expect("restore");
    assert!(fs::read(&vars).expect("they are back") == content, "other variables came back");
    suite.cairn.ok(&["restore", "efi", "--as", "efi2"]).expect("restore under another name");
    assert!(fs::read(Path::new(NVRAM).join("efi2_VARS.fd")).expect("of its own") == content);
    domain.virsh_ok(&["start", "efi"]).expect("libvirt takes the variables as they are");
    // A run has them as well, and they go with it.
    suite.cairn.ok(&["run", "efi", "--as", "efi3", "--paused"]).expect("run");
    let of_run = Path::new(NVRAM).join("efi3_VARS.fd");
    assert!(fs::read(&of_run).expect("of its own") == content);
    suite.cairn.ok(&["discard", "efi3", "--force"]).expect("discard");
    assert!(!of_run.exists(), "nothing is left of a run");
});

// The machine itself is run from its point, then restored to the very places of the run's images. The run's end takes nothing of it.
lab_test!(a_machine_that_was_brought_back_otherwise_is_not_its_runs, Options { guest: false, ..Options::small() }, |lab| {
    let suite = Suite::new(&lab);
    let images = Path::new("/var/lib/libvirt/images");
    let (first, vars) = (images.join("first.qcow2"), Path::new(NVRAM).join("efi_VARS.fd"));
    cairn_lab::process::run_ok(std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&first).arg("16M"), BOOT_LIMIT).expect("image");
    define(
        &suite,
        &format!(
            "<domain type='qemu'><name>efi</name><memory unit='MiB'>64</memory><os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>\
             <features><acpi/></features><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
             <target dev='vda' bus='virtio'/></disk></devices></domain>",
            first.display()
        ),
    );
    let domain = Domain::new("efi");
    let virsh = |args: &[&str]| domain.virsh_ok(args).unwrap_or_else(|e| panic!("{args:?}: {}", e.report()));
    virsh(&["autostart", "efi"]);
    virsh(&["start", "efi", "--paused"]);
    suite.cairn.ok(&["backup", "efi", "--quiesce", "never"]).expect("backup");
    let lose = || {
        virsh(&["destroy", "efi"]);
        virsh(&["undefine", "efi", "--nvram"]);
    };
    lose();
    let run = || suite.cairn.ok(&["run", "efi@latest", "--keep-identity", "--paused"]).expect("run");
    let starts_itself = || virsh(&["dominfo", "efi"]).lines().any(|line| line.starts_with("Autostart:") && line.ends_with("enable"));
    run();
    assert!(!starts_itself(), "its point is not served when the host starts");
    suite.cairn.ok(&["keep", "efi"]).expect("keep");
    assert!(starts_itself(), "as the machine did");
    lose();
    fs::remove_file(images.join("efi-vda.qcow2")).expect("the kept disk");

    run();
    virsh(&["destroy", "efi"]);
    suite.cairn.ok(&["restore", "efi@latest", "--dir", &images.to_string_lossy(), "--force"]).expect("restore");
    virsh(&["start", "efi", "--paused"]);
    let memory = images.join("efi.memory");
    virsh(&["snapshot-create-as", "efi", "s1", "--memspec", &format!("file={}", memory.display()), "--diskspec", "vda,snapshot=external"]);
    let output = suite.cairn.run(&["discard", "efi"]).expect("it ends");
    assert_eq!(output.code(), cairn::WARNINGS, "{}", output.err_text());
    let told = |path: &Path| output.err_text().contains(&path.display().to_string());
    assert!(told(&images.join("efi-vda.qcow2")) && told(&vars), "{}", output.err_text());
    assert_eq!(domain.state().expect("it is there"), "paused");
    assert!(vars.exists() && memory.exists() && images.join("efi-vda.qcow2").exists() && images.join("efi-vda.s1").exists());
    assert_eq!(suite.cairn.json(&["runs"]).expect("runs"), serde_json::json!([]), "the run is gone");
});

fn file_of<'a>(point: &'a Value, role: &str) -> Option<&'a Value> {
    point["source"]["files"].as_array()?.iter().find(|file| file["role"] == role)
}

lab_test!(boot_files_come_back_and_are_stored_once, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    let boot = lab.folder().join("boot");
    let (kernel, initrd) = (boot.join("vmlinuz"), boot.join("initramfs"));
    let initrd_bytes = fs::read(&initrd).expect("an initrd");
    suite.domain.virsh_ok(&["snapshot-create-as", "lab1", "before upgrade", "--disk-only", "--diskspec", "vdb,snapshot=no"]).expect("snapshot");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    let ids = suite.points();
    let second = suite.point(&ids[1]);
    assert_eq!(file_of(&second, "initrd").expect("an initrd")["size"], initrd_bytes.len() as u64);
    let stored = second["stored"].as_u64().expect("stored");
    assert!(stored < 2 * MIB, "{stored} bytes are stored of {} that the first point has already", initrd_bytes.len());
    assert_eq!(second["source"]["snapshots"][0]["name"], "before upgrade");
    assert_eq!(second["source"]["snapshots"][0]["external"], true);

    // What cannot be read is a warning, and the point is made all the same.
    let aside = suite.path("initramfs");
    fs::rename(&initrd, &aside).expect("moved away");
    let output = suite.cairn.run(&["backup", "lab1"]).expect("it ends");
    assert_refused(&output, cairn::WARNINGS, &initrd.to_string_lossy());
    let third = suite.point(&suite.points()[2]);
    assert!(file_of(&third, "initrd").is_none() && file_of(&third, "kernel").is_some(), "{third}");
    suite.assert_left_alone(Duration::from_secs(5));

    // The disks lie in a snapshot's overlay now; the domain comes back to that path, without a chain.
    suite.domain.virsh_ok(&["destroy", "lab1"]).expect("destroy");
    let live = suite.domain.virsh_ok(&["domblklist", "lab1"]).expect("disks");
    suite.domain.virsh_ok(&["undefine", "lab1", "--snapshots-metadata"]).expect("undefine");
    for path in live.lines().filter_map(|line| line.find('/').map(|at| line[at..].trim_end())) {
        fs::remove_file(path).expect(path);
    }
    fs::write(&kernel, "another kernel").expect("written");
    let refused = suite.cairn.run(&["restore", &ids[1]]).expect("it ends");
    assert_refused(&refused, cairn::REFUSED, &kernel.to_string_lossy());
    fs::remove_file(&kernel).expect("removed");
    suite.cairn.ok(&["restore", &ids[1]]).expect("restore");
    assert!(fs::read(&initrd).expect("it is back") == initrd_bytes);
    suite.domain.start(BOOT_LIMIT).expect("it boots with them");
    suite.domain.sh("cat /mnt/a/greeting /mnt/b/greeting").expect("files");
    suite.cairn.ok(&["verify", &ids[1], "--data"]).expect("a part in another point's pack is no damage");
});
