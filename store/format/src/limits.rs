//! Every limit of the format, named. Changing one of those marked (format) needs a feature bit.

/// A block: the unit of zero detection and of cutting, bytes (format).
pub const BLOCK_BYTES: usize = 4096;
/// A region: chunks never cross its edges, bytes (format).
pub const REGION_BYTES: u64 = 4 << 20;
/// Blocks of one region (format).
pub const REGION_BLOCKS: usize = 1024;
/// Children of a branch node (format).
pub const BRANCH_FANOUT: usize = 64;
/// Highest level of a branch node: 5 spans 4 PiB (format).
pub const BRANCH_LEVEL_MAX: u8 = 5;
/// Largest chunk of any profile, blocks (`archive`: 512 KiB).
pub const CHUNK_BLOCKS_MAX: usize = 128;

/// A data pack is closed when its next frame would pass this size.
pub const PACK_TARGET_BYTES: usize = 32 << 20;
/// No pack is larger.
pub const PACK_BYTES_MAX: usize = 64 << 20;
/// Frames of one pack: slot numbers fit 16 bits.
pub const PACK_FRAMES_MAX: usize = 65_535;
/// Rows of a pack's key table; `0xFFFF` in a frame means "not sealed".
pub const KEY_ROWS_MAX: usize = 4096;
/// Wrapped key of one row, bytes (XChaCha20-Poly1305 needs 72, HPKE 80).
pub const KEY_ROW_BYTES_MAX: usize = 256;
/// Plain bytes of one frame.
pub const FRAME_PLAIN_BYTES_MAX: usize = 16 << 20;
/// Stored bytes of one frame: the plain limit, its length field and a seal.
pub const FRAME_STORED_BYTES_MAX: usize = FRAME_PLAIN_BYTES_MAX + 64;

/// A commit register, bytes: small enough for one write anywhere.
pub const REGISTER_BYTES_MAX: usize = 4096;
/// Sealed summary at the register's start, bytes.
pub const SUMMARY_SEALED_BYTES_MAX: usize = 512;
/// What is left of it for the summary itself: scheme, epoch, nonce and tag take 45.
pub const SUMMARY_PLAIN_BYTES_MAX: usize = SUMMARY_SEALED_BYTES_MAX - 45;
/// Name of a domain or image, bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 200;
/// Host name in a register, bytes; longer ones are cut.
pub const HOST_BYTES_MAX: usize = 64;
/// One tag, bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// A note, bytes.
pub const NOTE_BYTES_MAX: usize = 4096;
/// Picture of a boot proof, bytes of PNG: with what lies beside it, it fits a small object.
pub const PICTURE_BYTES_MAX: usize = 768 << 10;
/// End of a guest's console in a boot proof, bytes.
pub const CONSOLE_BYTES_MAX: usize = 64 << 10;
/// One text of a boot proof's verdict, bytes; longer ones are cut.
pub const VERDICT_TEXT_BYTES_MAX: usize = 512;
/// Disks of one point.
pub const DISKS_MAX: usize = 1024;
/// Target name of a disk, bytes.
pub const TARGET_BYTES_MAX: usize = 64;
/// Reason text of a disk, bytes; longer ones are cut.
pub const REASON_BYTES_MAX: usize = 120;

/// Any other small object (session record, log entry, key), bytes.
pub const SMALL_BYTES_MAX: usize = 1 << 20;
/// Index file or list of condemned packs, bytes.
pub const LIST_BYTES_MAX: usize = 64 << 20;
/// Packs of one index file.
pub const INDEX_PACKS_MAX: usize = 4096;
/// Largest disk: what a level-5 tree spans, bytes.
pub const DISK_BYTES_MAX: u64 = 4 << 50;

const _: () = assert!(REGION_BLOCKS * BLOCK_BYTES == REGION_BYTES as usize);
const _: () = assert!(PICTURE_BYTES_MAX + CONSOLE_BYTES_MAX + 4096 < SMALL_BYTES_MAX);
const _: () = assert!(PACK_TARGET_BYTES + FRAME_STORED_BYTES_MAX < PACK_BYTES_MAX);
