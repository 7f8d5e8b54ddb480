//! What the Debian guest consists of.
//!
//! Everything that ends up in the image is in [`text`], and its hash is the image's name: another recipe is another image. Nothing of Cairn's
//! is in it: suites bring that along, so that a change of theirs builds no new image.

/// Changed by hand where a change of the builder makes another image of the same recipe.
const VERSION: u32 = 1;
/// Size of the root file system; only what is in it takes space.
pub const DISK_MIB: u64 = 3072;
/// Beside what Debian requires of every system.
pub const PACKAGES: [&str; 10] =
    ["systemd-sysv", "udev", "kmod", "initramfs-tools", "zstd", "linux-image-cloud-amd64", "qemu-guest-agent", "postgresql", "mariadb-server", "e2fsprogs"];
/// Not unpacked: nobody reads them in a lab.
pub const LEFT_OUT: [&str; 4] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"];
/// There before the kernel is installed, which makes the initrd: its modules and no others, a third of the time to boot.
pub const FILES_BEFORE: [(&str, &str); 2] = [
    ("etc/initramfs-tools/conf.d/lab", "MODULES=list\nCOMPRESS=zstd\nRESUME=none\n"),
    ("usr/share/initramfs-tools/modules.d/lab", "virtio_pci\nvirtio_blk\next4\n"),
];
/// Written at the end.
pub const FILES: [(&str, &str); 5] = [
    ("etc/fstab", "/dev/vda / ext4 defaults,discard 0 1\n"),
    ("etc/hostname", "deb1\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 deb1\n"),
    // The guest of a lab has no clock and no disk to spare for its journal.
    ("etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=volatile\nForwardToConsole=no\n"),
    // Emulated, a database takes its time to start.
    ("etc/systemd/system.conf.d/lab.conf", "[Manager]\nDefaultTimeoutStartSec=300s\nDefaultTimeoutStopSec=60s\n"),
];
/// Units that would write, or wait, for nothing.
pub const MASKED: [&str; 14] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
    "man-db.timer",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "getty@tty1.service",
    "getty-static.service",
    "serial-getty@ttyS0.service",
    "systemd-update-utmp.service",
];

/// All of the above for the release of that name, in one text.
#[must_use]
pub fn text(release: &str) -> String {
    let pairs = |files: &[(&str, &str)]| files.iter().map(|(path, text)| format!("{path}\n{text}")).collect::<Vec<_>>().join("\n");
    let lists = [PACKAGES.join(" "), LEFT_OUT.join(" "), pairs(&FILES_BEFORE), pairs(&FILES), MASKED.join(" ")];
    format!("{VERSION}\n{release}\n{DISK_MIB}\n{}\n", lists.join("\n\n"))
}

/// A name for the image of that recipe.
#[must_use]
pub fn name(release: &str) -> String {
    // FNV-1a: no one attacks the name of a test's image.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    format!("{release}-{:016x}", text(release).bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_recipe_has_another_name() {
        assert_eq!(name("bookworm"), name("bookworm"));
        assert_ne!(name("bookworm"), name("trixie"));
        assert!(name("bookworm").starts_with("bookworm-"));
        for package in PACKAGES {
            assert!(text("bookworm").contains(package));
        }
    }
}
