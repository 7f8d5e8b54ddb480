//! Sealing frames: compress, seal under the pack's key with a nonce made from the content, and the way back.
//!
//! Sealed plaintext: plain length u32 · raw or compressed bytes. Associated data: format, family, kind, level, id, codec, codec level; not
//! pack or offset, so GC can move a frame with its key row.

use super::{Keys, dense::is_dense};
use crate::{Result, StoreError};
use cairn_store_format::{
    FamilyId, Id,
    limits::{BLOCK_BYTES, FRAME_PLAIN_BYTES_MAX},
    map,
    pack::{Codec, FrameHeader, FrameKind, KEY_ROW_NONE, KeyRow},
};
use hmac::{Hmac, KeyInit, Mac};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use std::sync::Arc;
use zstd::bulk::{Compressor, Decompressor};

/// What is compressed of dense content to see whether it shrinks after all.
const TRIAL_BYTES: usize = 2 * BLOCK_BYTES;
/// A trial that leaves more is not worth the time: a quarter of a backup's, for less than a thirty-second of the room.
const TRIAL_BYTES_MAX: usize = TRIAL_BYTES / 32 * 31;

/// A pack's key, ready for use, with its wrapped row.
pub(crate) struct PackKey {
    aead: LessSafeKey,
    nonces: Hmac<Sha256>,
    pub(crate) row: Arc<KeyRow>,
}

impl PackKey {
    pub(crate) fn new(key: &[u8; 32], row: KeyRow) -> Self {
        let mut derive = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
        derive.update(b"cairn frame nonces");
        let nonce_key = derive.finalize().into_bytes();
        Self {
            aead: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key")),
            nonces: Hmac::new_from_slice(&nonce_key).expect("HMAC takes keys of any length"),
            row: Arc::new(row),
        }
    }

    /// Content, codec and level decide the nonce: two clones of a resumed host cannot use one for two plaintexts.
    fn nonce(&self, id: &Id, codec: Codec, codec_level: u8) -> Nonce {
        let mut mac = self.nonces.clone();
        mac.update(&id.0);
        mac.update(&[codec as u8, codec_level]);
        let full = mac.finalize().into_bytes();
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&full[..12]);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// A frame ready to be put into a pack.
pub(crate) struct SealedFrame {
    pub(crate) id: Id,
    pub(crate) kind: FrameKind,
    pub(crate) level: u8,
    pub(crate) codec: Codec,
    pub(crate) codec_level: u8,
    pub(crate) stored: Vec<u8>,
    pub(crate) crc: u32,
    /// Row of the key it is sealed under.
    pub(crate) row: Option<Arc<KeyRow>>,
}

fn aad(family: &FamilyId, id: &Id, kind: FrameKind, level: u8, codec: Codec, codec_level: u8) -> [u8; 56] {
    let mut out = [0; 56];
    out[..4].copy_from_slice(b"CRN1");
    out[4..20].copy_from_slice(&family.0);
    out[20..24].copy_from_slice(&[kind as u8, level, codec as u8, codec_level]);
    out[24..].copy_from_slice(&id.0);
    out
}

/// Compresses and seals; one a thread.
pub(crate) struct Sealer {
    family: FamilyId,
    zstd: Compressor<'static>,
    level: u8,
    /// Compressed bytes of the frame in work: as large as the largest one needs, touched once and used again.
    scratch: Vec<u8>,
}

impl Sealer {
    pub(crate) fn new(family: FamilyId, level: u8) -> Self {
        Self { family, zstd: Compressor::new(i32::from(level)).expect("zstd accepts any level and needs only memory"), level, scratch: Vec::new() }
    }

    /// Seals `plain`, whose content id is `id`.
    pub(crate) fn seal(&mut self, id: Id, kind: FrameKind, level: u8, plain: &[u8], key: Option<&Arc<PackKey>>) -> SealedFrame {
        assert!(plain.len() <= FRAME_PLAIN_BYTES_MAX, "callers cut what is larger");
        let (codec, codec_level, body) = match self.compressed(kind, plain) {
            Some(n) => (Codec::Zstd, self.level, &self.scratch[..n]),
            None => (Codec::Raw, 0, plain),
        };
        // Frames wait for their place in a pack: they are allocated as large as they are, not as large as they might have been.
        let mut stored = Vec::with_capacity(4 + body.len() + AES_256_GCM.tag_len());
        stored.extend_from_slice(&u32::try_from(plain.len()).expect("checked above").to_le_bytes());
        stored.extend_from_slice(body);
        if let Some(k) = key {
            let aad = Aad::from(aad(&self.family, &id, kind, level, codec, codec_level));
            k.aead.seal_in_place_append_tag(k.nonce(&id, codec, codec_level), aad, &mut stored).expect("AES-GCM seals anything below 64 GiB");
        }
        let crc = crc32c(&stored);
        SealedFrame { id, kind, level, codec, codec_level, stored, crc, row: key.map(|k| k.row.clone()) }
    }

    /// How many bytes of scratch `plain` takes compressed; `None` where that is not less.
    fn compressed(&mut self, kind: FrameKind, plain: &[u8]) -> Option<usize> {
        // What looks random may still repeat itself, as tables of numbers do: the trial of a piece tells.
        if kind == FrameKind::Chunk && is_dense(plain) && self.shrinks(&plain[..TRIAL_BYTES]).is_none_or(|n| n > TRIAL_BYTES_MAX) {
            return None;
        }
        self.shrinks(plain)
    }

    fn shrinks(&mut self, plain: &[u8]) -> Option<usize> {
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.scratch).ok().filter(|n| *n < plain.len())
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    cairn_store_format::pack::checksum(bytes)
}

/// Opens a frame: checksum, seal, decompression, content id; in this order, and nothing is returned unless all hold.
pub(crate) fn open_frame(keys: &Keys, zstd: &mut Decompressor<'static>, header: &FrameHeader, stored: &mut [u8], key: Option<&PackKey>) -> Result<Vec<u8>> {
    let bad = |why: &str| StoreError::damaged(format_args!("frame {}", header.id), why);
    header.check_stored(stored).map_err(|_| bad("its checksum differs"))?;
    let opened: &mut [u8] = match (header.key_row, key) {
        (KEY_ROW_NONE, None) => stored,
        (_, Some(k)) => {
            let aad = Aad::from(aad(&keys.family(), &header.id, header.kind, header.level, header.codec, header.codec_level));
            let nonce = k.nonce(&header.id, header.codec, header.codec_level);
            k.aead.open_in_place(nonce, aad, stored).map_err(|_| bad("its seal does not hold"))?
        }
        _ => return Err(bad("not sealed in the way this store does")),
    };
    let (len, body) = opened.split_first_chunk::<4>().ok_or_else(|| bad("too short"))?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > FRAME_PLAIN_BYTES_MAX {
        return Err(bad("its plain length is beyond the limit"));
    }
    let plain = match header.codec {
        Codec::Raw => body.to_vec(),
        Codec::Zstd => zstd.decompress(body, len).map_err(|_| bad("it does not decompress"))?,
    };
    if plain.len() != len {
        return Err(bad("its plain length differs"));
    }
    let content = if header.kind == FrameKind::Node { map::split_node(&plain).map_err(|e| bad(&e.to_string()))?.0 } else { &plain };
    if keys.content_id(header.kind, header.level, content) != header.id {
        return Err(bad("its content is not what its id says"));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::new_ring, platform::LocalPlatform};
    use cairn_store_format::pack::WrapScheme;

    fn open(keys: &Keys, f: &SealedFrame, key: Option<&PackKey>) -> Result<Vec<u8>> {
        let key_row = if key.is_some() { 0 } else { KEY_ROW_NONE };
        let h = FrameHeader {
            id: f.id,
            key_row,
            kind: f.kind,
            level: f.level,
            codec: f.codec,
            codec_level: f.codec_level,
            stored_len: f.stored.len() as u32,
            crc: f.crc,
        };
        open_frame(keys, &mut Decompressor::new().expect("zstd"), &h, &mut f.stored.clone(), key)
    }

    #[test]
    fn seals_open_only_unchanged_and_under_their_key() {
        let dir = tempfile::tempdir().expect("temp dir");
        let platform = LocalPlatform::open(dir.path()).expect("opens");
        let keys = Keys::new(FamilyId([1; 16]), &new_ring(&platform), true);
        let key = keys.new_pack_key(&platform, WrapScheme::EpochData).expect("encrypted");
        let mut sealer = Sealer::new(keys.family(), 1);
        for plain in [vec![5u8; 70_000], (0..40_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()] {
            let id = keys.content_id(FrameKind::Chunk, 0, &plain);
            let f = sealer.seal(id, FrameKind::Chunk, 0, &plain, Some(&key));
            assert!(!f.stored.windows(64).any(|w| plain.starts_with(w)), "cleartext in a sealed frame");
            let again = keys.unwrap_row(&key.row).expect("own row");
            assert_eq!(open(&keys, &f, Some(&again)).expect("opens"), plain);
            let mut bad = SealedFrame { stored: f.stored.clone(), row: None, ..f };
            bad.stored[9] ^= 1;
            assert!(open(&keys, &bad, Some(&key)).is_err(), "checksum");
            bad.crc = crc32c(&bad.stored);
            assert!(open(&keys, &bad, Some(&key)).is_err(), "seal");
            let other = keys.new_pack_key(&platform, WrapScheme::EpochData).expect("encrypted");
            bad.stored[9] ^= 1;
            bad.crc = crc32c(&bad.stored);
            assert!(open(&keys, &bad, Some(&other)).is_err(), "another pack's key");
            assert!(open(&keys, &bad, None).is_err(), "no key");
            assert_eq!(open(&keys, &bad, Some(&key)).expect("restored"), plain);
        }
    }

    #[test]
    fn without_encryption_the_id_still_proves_the_content() {
        let dir = tempfile::tempdir().expect("temp dir");
        let platform = LocalPlatform::open(dir.path()).expect("opens");
        let keys = Keys::new(FamilyId([1; 16]), &new_ring(&platform), false);
        let plain = b"content".repeat(100);
        let mut f = Sealer::new(keys.family(), 1).seal(keys.content_id(FrameKind::Chunk, 0, &plain), FrameKind::Chunk, 0, &plain, None);
        assert_eq!(open(&keys, &f, None).expect("opens"), plain);
        f.id = keys.content_id(FrameKind::Chunk, 0, b"other");
        assert!(open(&keys, &f, None).is_err());
    }
}
