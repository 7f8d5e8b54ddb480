//! Key slots (`keys/slot-<kid>`) and key rings (`keys/ring-<n>`).
//!
//! A slot wraps the master key under something a person or host has: a passphrase, a key file, the recovery key. A ring, sealed under the
//! master key, holds the store's working keys; a rotation writes ring n+1.
//! Slot: header 16 · length u32 · TLV · CRC32C u32. Ring payload: TLV in a [`crate::small`] object.

use crate::{
    FormatError,
    error::at_most,
    header::{ObjectKind, check_header, put_header},
    limits::SMALL_BYTES_MAX,
    tlv::{Tlv, TlvWriter},
    wire::{Put, Reader, check_crc, put_crc},
};

/// How a slot's wrapping key is had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// argon2id of a passphrase.
    Passphrase {
        /// Memory, KiB.
        memory_kib: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
        /// Salt.
        salt: [u8; 16],
    },
    /// 32 random bytes in a file.
    KeyFile,
    /// 32 random bytes printed once.
    Recovery,
}

/// A slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySlot {
    /// How to get the wrapping key.
    pub kind: SlotKind,
    /// Made at, Unix milliseconds.
    pub created_unix_ms: u64,
    /// Nonce and ciphertext of the master key.
    pub wrapped: Vec<u8>,
}

impl KeySlot {
    /// Encodes the object.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        match self.kind {
            SlotKind::Passphrase { memory_kib, passes, lanes, salt } => {
                w.bytes(1, &[1]).u64(2, memory_kib.into()).u64(3, passes.into()).u64(4, lanes.into()).bytes(5, &salt)
            }
            SlotKind::KeyFile => w.bytes(1, &[2]),
            SlotKind::Recovery => w.bytes(1, &[3]),
        };
        w.u64(6, self.created_unix_ms).bytes(7, &self.wrapped);
        let tlv = w.finish();
        let mut out = Vec::new();
        put_header(&mut out, ObjectKind::KeySlot);
        out.put_u32(u32::try_from(tlv.len()).expect("a slot is a few hundred bytes"));
        out.put(&tlv);
        put_crc(&mut out);
        out
    }

    /// Decodes the object; argon2 costs are bounded, so a hostile store cannot make a host run out of memory.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "key slot";
        at_most(WHAT, bytes.len() as u64, SMALL_BYTES_MAX as u64)?;
        let mut r = Reader::new(WHAT, check_crc(WHAT, bytes)?);
        check_header(WHAT, &mut r, ObjectKind::KeySlot)?;
        let len = r.u32()? as usize;
        let t = Tlv::parse(WHAT, r.bytes(len)?)?;
        r.finish()?;
        let cost = |tag, limit: u64| {
            let v = t.u64(tag)?;
            at_most("argon2 cost", v, limit)?;
            Ok::<u32, FormatError>(u32::try_from(v).expect("limits are below 4 Gi"))
        };
        let kind = match t.array::<1>(1)?[0] {
            1 => SlotKind::Passphrase { memory_kib: cost(2, 4 << 20)?, passes: cost(3, 64)?, lanes: cost(4, 64)?, salt: t.array(5)? },
            2 => SlotKind::KeyFile,
            3 => SlotKind::Recovery,
            _ => return Err(FormatError::invalid(WHAT, "unknown kind")),
        };
        Ok(Self { kind, created_unix_ms: t.u64(6)?, wrapped: t.need(7)?.to_vec() })
    }
}

/// Keys of one epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct EpochKeys {
    /// Epoch number, from 1.
    pub epoch: u32,
    /// Wraps the keys of data packs.
    pub data: [u8; 32],
    /// Wraps the keys of metadata packs, seals small objects.
    pub meta: [u8; 32],
}

/// The working keys. No `Debug`: they must not reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// Keys the content ids.
    pub id_key: [u8; 32],
    /// Keys the cut positions.
    pub cut_key: [u8; 16],
    /// Seed of the Ed25519 key that signs the config.
    pub signing_seed: [u8; 32],
    /// All epochs, oldest first; the last one is in use.
    pub epochs: Vec<EpochKeys>,
}

impl KeyRing {
    /// TLV payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = TlvWriter::new();
        w.bytes(1, &self.id_key).bytes(2, &self.cut_key).bytes(3, &self.signing_seed);
        for e in &self.epochs {
            w.bytes(4, &[&e.epoch.to_le_bytes()[..], &e.data, &e.meta].concat());
        }
        w.finish()
    }
    /// Decodes the payload.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        const WHAT: &str = "key ring";
        let t = Tlv::parse(WHAT, bytes)?;
        let epoch = |v| {
            let mut r = Reader::new(WHAT, v);
            let e = EpochKeys { epoch: r.u32()?, data: r.array()?, meta: r.array()? };
            r.finish().map(|()| e)
        };
        let epochs: Vec<_> = t.all(4).map(epoch).collect::<Result<_, _>>()?;
        if epochs.is_empty() {
            return Err(FormatError::invalid(WHAT, "no epoch"));
        }
        Ok(Self { id_key: t.array(1)?, cut_key: t.array(2)?, signing_seed: t.array(3)?, epochs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for kind in [SlotKind::Passphrase { memory_kib: 65536, passes: 3, lanes: 1, salt: [1; 16] }, SlotKind::KeyFile, SlotKind::Recovery] {
            let s = KeySlot { kind, created_unix_ms: 1, wrapped: vec![2; 72] };
            assert_eq!(KeySlot::decode(&s.encode()).expect("own"), s);
        }
        let greedy = KeySlot { kind: SlotKind::Passphrase { memory_kib: u32::MAX, passes: 1, lanes: 1, salt: [0; 16] }, created_unix_ms: 0, wrapped: vec![] };
        assert!(KeySlot::decode(&greedy.encode()).is_err(), "4 TiB of argon2 memory must be refused");
        let ring = KeyRing { id_key: [1; 32], cut_key: [2; 16], signing_seed: [3; 32], epochs: vec![EpochKeys { epoch: 1, data: [4; 32], meta: [5; 32] }] };
        assert!(KeyRing::decode(&ring.encode()).expect("own") == ring);
    }
}
