//! `config/<n>`: what a store is. header 16 · length u32 · TLV · Ed25519 signature 64 over everything before it.
//! Cleartext: a host must read it before it has keys. The signing key is pinned by hosts, so a store cannot swap keys or downgrade.

use crate::{
    FamilyId, FormatError, StoreId,
    error::at_most,
    header::{ObjectKind, check_header, put_header},
    limits::{CHUNK_BLOCKS_MAX, SMALL_BYTES_MAX},
    tlv::{Tlv, TlvWriter},
    wire::{Put, Reader},
};

/// Chunk sizes, blocks of 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    /// A cut is looked for from here on.
    pub min_blocks: u32,
    /// Wanted mean.
    pub mean_blocks: u32,
    /// Always cut here.
    pub max_blocks: u32,
}

impl ChunkSizes {
    /// `default`: 32-128 KiB, mean 64.
    pub const DEFAULT: Self = Self { min_blocks: 8, mean_blocks: 16, max_blocks: 32 };
    /// `small`: 16-64 KiB, mean 32.
    pub const SMALL: Self = Self { min_blocks: 4, mean_blocks: 8, max_blocks: 16 };
    /// `archive`: 128-512 KiB, mean 256.
    pub const ARCHIVE: Self = Self { min_blocks: 32, mean_blocks: 64, max_blocks: 128 };

    fn check(&self) -> Result<(), FormatError> {
        let ordered = 1 <= self.min_blocks && self.min_blocks < self.mean_blocks && self.mean_blocks < self.max_blocks;
        if ordered && self.max_blocks as usize <= CHUNK_BLOCKS_MAX { Ok(()) } else { Err(FormatError::invalid("config", "chunk sizes make no sense")) }
    }
}

/// A store's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The store.
    pub store: StoreId,
    /// Its family.
    pub family: FamilyId,
    /// Made at, Unix milliseconds.
    pub created_unix_ms: u64,
    /// Sealed, or cleartext with plain SHA-256 ids.
    pub encrypted: bool,
    /// Name of the profile (`default`, ..).
    pub profile: String,
    /// Its sizes.
    pub chunks: ChunkSizes,
    /// zstd level of data chunks.
    pub zstd_level: u8,
    /// Ed25519 key that signs this object.
    pub public_key: [u8; 32],
}

impl Config {
    /// Everything that is signed.
    pub fn encode_unsigned(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.bytes(1, &self.store.0).bytes(2, &self.family.0).u64(3, self.created_unix_ms).bytes(4, &[self.encrypted.into()]);
        w.text(5, &self.profile);
        let mut sizes = Vec::new();
        [self.chunks.min_blocks, self.chunks.mean_blocks, self.chunks.max_blocks].iter().for_each(|v| sizes.put_u32(*v));
        w.bytes(6, &sizes).bytes(7, &[self.zstd_level]).bytes(8, &self.public_key);
        let tlv = w.finish();
        let mut out = Vec::new();
        put_header(&mut out, ObjectKind::Config);
        out.put_u32(u32::try_from(tlv.len()).expect("a config is a few hundred bytes"));
        out.put(&tlv);
        out
    }

    /// Decodes; the caller checks the signature over the first returned slice.
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8], [u8; 64]), FormatError> {
        const WHAT: &str = "config";
        at_most(WHAT, bytes.len() as u64, SMALL_BYTES_MAX as u64)?;
        let mut r = Reader::new(WHAT, bytes);
        check_header(WHAT, &mut r, ObjectKind::Config)?;
        let len = r.u32()? as usize;
        let t = Tlv::parse(WHAT, r.bytes(len)?)?;
        let signature = r.array()?;
        r.finish()?;
        let sizes: [u8; 12] = t.array(6)?;
        let mut s = Reader::new(WHAT, &sizes);
        let chunks = ChunkSizes { min_blocks: s.u32()?, mean_blocks: s.u32()?, max_blocks: s.u32()? };
        chunks.check()?;
        let encrypted = match t.array::<1>(4)? {
            [0] => false,
            [1] => true,
            _ => return Err(FormatError::invalid(WHAT, "encryption is neither on nor off")),
        };
        let config = Self {
            store: StoreId(t.array(1)?),
            family: FamilyId(t.array(2)?),
            created_unix_ms: t.u64(3)?,
            encrypted,
            profile: t.text(5, 32)?,
            chunks,
            zstd_level: t.array::<1>(7)?[0],
            public_key: t.array(8)?,
        };
        Ok((config, &bytes[..bytes.len() - 64], signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let c = Config {
            store: StoreId([1; 16]),
            family: FamilyId([2; 16]),
            created_unix_ms: 3,
            encrypted: true,
            profile: "default".into(),
            chunks: ChunkSizes::DEFAULT,
            zstd_level: 1,
            public_key: [4; 32],
        };
        let mut bytes = c.encode_unsigned();
        let unsigned = bytes.clone();
        bytes.extend([9; 64]);
        assert_eq!(Config::decode(&bytes).expect("own"), (c, &unsigned[..], [9; 64]));
        assert!(Config::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
