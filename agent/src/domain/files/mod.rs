//! Files that go with a domain besides its disks: firmware variables, TPM state, kernel and initrd of a direct boot.
//!
//! They lie in a point as parts of its manifest, cut into pieces of bounded size; what they are, and whose they were, is in the manifest's `source`
//! (docs/adr/0015). A point without them, from before they were saved or because they could not be read, is a good point.

mod read;
mod write;

pub use read::Belongings;
pub use write::{Context, Files};

use super::saved::PART_NVRAM;
use cairn_hypervisor::state_files::Role;

/// One part: below what a frame may hold, and small enough that a piece that did not change is not stored again.
const PIECE_BYTES: usize = 8 << 20;
/// A direct boot's kernel or initrd; distributions' are below 100 MiB.
const BOOT_BYTES_MAX: u64 = 128 << 20;
/// Variables of firmware; real ones are below 1 MiB. They are one part, as in points of the first version.
const NVRAM_BYTES_MAX: u64 = 16 << 20;
/// One file of a TPM's state; real ones are below 100 KiB.
const TPM_BYTES_MAX: u64 = 4 << 20;

fn bytes_max(role: Role) -> u64 {
    match role {
        Role::Nvram => NVRAM_BYTES_MAX,
        Role::Tpm => TPM_BYTES_MAX,
        Role::Kernel | Role::Initrd | Role::Dtb => BOOT_BYTES_MAX,
    }
}

/// Name of a piece: `nvram`, `tpm-0.0`, `initrd-0.3`.
fn part_name(role: Role, file: usize, piece: usize) -> String {
    if role == Role::Nvram { PART_NVRAM.to_owned() } else { format!("{}-{file}.{piece}", role.name()) }
}
