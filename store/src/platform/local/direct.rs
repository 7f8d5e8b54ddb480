//! Writing past the page cache: what a backup stores is not read again soon, and copying it into the cache, writing it back and dropping it cost a tenth
//! of a backup's CPU time and other programs their cache (docs/adr/0025).
//!
//! Invariant: what stands in the file is the same either way; `sync_data` follows as ever, since a device's own cache is not passed by.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use std::{fs::File, io, os::unix::fs::FileExt};

/// What the kernel wants of addresses, offsets and lengths at most; a file system that wants more says so, and is written to as any other.
const ALIGN: usize = 4096;
/// What is written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Writes `bytes` at the beginning of an empty file: directly where they are many and the file system lets it, else through the cache.
pub(super) fn write(file: &File, bytes: &[u8]) -> io::Result<()> {
    let whole = bytes.len() / ALIGN * ALIGN;
    let directly = if bytes.len() >= PIECE_BYTES && set(file, true) { write_pieces(file, &bytes[..whole]) } else { Ok(0) };
    // The tail is no whole block. Where the flag stays set, the write below says so.
    set(file, false);
    let done = match directly {
        Ok(done) => done,
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => 0,
        Err(e) => return Err(e),
    };
    file.write_all_at(&bytes[done..], done as u64)
}

fn set(file: &File, is_direct: bool) -> bool {
    let Ok(flags) = fcntl(file, FcntlArg::F_GETFL).map(OFlag::from_bits_retain) else { return false };
    let wanted = if is_direct { flags | OFlag::O_DIRECT } else { flags - OFlag::O_DIRECT };
    flags == wanted || fcntl(file, FcntlArg::F_SETFL(wanted)).is_ok()
}

/// Through a buffer that lies where the kernel wants it; the callers' buffers need not.
fn write_pieces(file: &File, bytes: &[u8]) -> io::Result<usize> {
    let mut room = vec![0; PIECE_BYTES + ALIGN];
    let from = room.as_ptr().align_offset(ALIGN);
    let buffer = &mut room[from..from + PIECE_BYTES];
    let mut done = 0;
    for piece in bytes.chunks(PIECE_BYTES) {
        let buffer = &mut buffer[..piece.len()];
        buffer.copy_from_slice(piece);
        file.write_all_at(buffer, done as u64)?;
        done += piece.len();
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn content_of_any_length_is_there() {
        let dir = tempfile::tempdir().expect("a folder");
        for len in [0, 1, ALIGN, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + ALIGN + 17] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let path = dir.path().join(len.to_string());
            let file = File::create_new(&path).expect("a file");
            write(&file, &bytes).expect("writes");
            assert_eq!(OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).expect("flags")) & OFlag::O_DIRECT, OFlag::empty());
            assert!(fs::read(&path).expect("reads") == bytes, "{len}");
        }
    }

    #[test]
    fn a_file_that_takes_no_writes_is_an_error() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        fs::write(&path, "old").expect("a file");
        let file = File::open(&path).expect("opens");
        assert_eq!(write(&file, &vec![1; 2 * PIECE_BYTES]).expect_err("it is open for reading").raw_os_error(), Some(libc::EBADF));
    }
}
