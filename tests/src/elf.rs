//! Whether a program needs a dynamic loader: what a guest without libraries must know before it boots.
//!
//! Reads 64-bit little-endian ELF files (elf(5)), the only ones the lab's guests run. Every length is checked
//! before it is believed. Must not be used for more: libraries are `ldd`'s affair.

use crate::error::{Error, Result};
use std::fs;
use std::path::Path;

/// Magic, 64 bits, little-endian.
const IDENT: [u8; 6] = [0x7f, b'E', b'L', b'F', 2, 1];
const PROGRAM_HEADERS_OFFSET: usize = 32;
const PROGRAM_HEADER_SIZE_OFFSET: usize = 54;
const PROGRAM_HEADERS_COUNT_OFFSET: usize = 56;
/// Type of the program header that names the loader.
const PT_INTERP: u32 = 3;

/// Whether the kernel can run the program with nothing beside it.
///
/// # Errors
/// Not readable, or no program of the kind above.
pub fn is_static(path: &Path) -> Result<bool> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    needs_loader(&bytes).map(|needs| !needs).ok_or_else(|| Error::answer(path.to_string_lossy(), "is no whole 64-bit little-endian ELF program"))
}

/// `None` when the bytes are no such program or end too early.
fn needs_loader(bytes: &[u8]) -> Option<bool> {
    if !bytes.starts_with(&IDENT) {
        return None;
    }
    let start = usize::try_from(u64::from_le_bytes(field(bytes, PROGRAM_HEADERS_OFFSET)?)).ok()?;
    let size = usize::from(u16::from_le_bytes(field(bytes, PROGRAM_HEADER_SIZE_OFFSET)?));
    let count = usize::from(u16::from_le_bytes(field(bytes, PROGRAM_HEADERS_COUNT_OFFSET)?));
    for index in 0..count {
        let kind = u32::from_le_bytes(field(bytes, start.checked_add(index.checked_mul(size)?)?)?);
        if kind == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

fn field<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of two headers, the second of that type.
    fn program(kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 2 * 56];
        bytes[..6].copy_from_slice(&IDENT);
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 2;
        bytes[64] = 1;
        bytes[64 + 56..64 + 60].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn a_loader_is_found_and_its_absence_too() {
        assert_eq!(needs_loader(&program(PT_INTERP)), Some(true));
        assert_eq!(needs_loader(&program(2)), Some(false));
    }

    #[test]
    fn real_programs_are_told_apart() {
        // This test itself is linked dynamically, and Debian's ldconfig (package libc-bin) never is.
        assert!(!is_static(Path::new("/proc/self/exe")).expect("an ELF program"));
        assert!(is_static(Path::new("/sbin/ldconfig")).expect("an ELF program"));
    }

    #[test]
    fn what_is_no_whole_program_is_refused() {
        let whole = program(PT_INTERP);
        for length in [0, 5, 40, 60, 64 + 56 + 3] {
            assert_eq!(needs_loader(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(needs_loader(b"#!/bin/sh\nexit 0\n"), None);
        let mut far = program(2);
        far[32..40].fill(0xff);
        assert_eq!(needs_loader(&far), None);
    }
}
