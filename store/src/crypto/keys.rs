//! The working keys of an open store: content ids, small seals, pack keys.

use super::{PackKey, open_x, seal_x};
use crate::{
    Result, StoreError,
    platform::{Platform, random_bytes},
};
use cairn_store_format::{
    FamilyId, Id,
    header::ObjectKind,
    keys::{EpochKeys, KeyRing},
    pack::{FrameKind, KeyRow, WrapScheme},
    small,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use zeroize::Zeroize;

/// First byte of a small seal: cleartext with a checksum (stores without encryption).
const SCHEME_PLAIN: u8 = 0;
/// First byte of a small seal: XChaCha20-Poly1305 under an epoch's metadata key.
const SCHEME_SEALED: u8 = 1;
/// Checksum of cleartext small objects, bytes.
const PLAIN_SUM_BYTES: usize = 16;

/// Keys of an open store, or none in a store without encryption.
pub(crate) struct Keys {
    family: FamilyId,
    id_key: Option<Hmac<Sha256>>,
    cut_key: [u8; 16],
    epochs: Vec<EpochKeys>,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.cut_key.zeroize();
        for e in &mut self.epochs {
            e.data.zeroize();
            e.meta.zeroize();
        }
    }
}

/// A fresh ring for a new store.
pub(crate) fn new_ring(platform: &dyn Platform) -> KeyRing {
    KeyRing {
        id_key: random_bytes(platform),
        cut_key: random_bytes(platform),
        signing_seed: random_bytes(platform),
        epochs: vec![EpochKeys { epoch: 1, data: random_bytes(platform), meta: random_bytes(platform) }],
    }
}

impl Keys {
    /// From a ring; without encryption only the cut key is used.
    pub(crate) fn new(family: FamilyId, ring: &KeyRing, encrypted: bool) -> Self {
        let id_key = encrypted.then(|| Hmac::new_from_slice(&ring.id_key).expect("HMAC takes keys of any length"));
        Self { family, id_key, cut_key: ring.cut_key, epochs: if encrypted { ring.epochs.clone() } else { Vec::new() } }
    }

    pub(crate) fn family(&self) -> FamilyId {
        self.family
    }

    pub(crate) fn cut_key(&self) -> &[u8; 16] {
        &self.cut_key
    }

    /// Content id of kind, level and content (for nodes: their canonical part).
    pub(crate) fn content_id(&self, kind: FrameKind, level: u8, content: &[u8]) -> Id {
        let head = [kind as u8, level];
        Id(match &self.id_key {
            Some(key) => {
                let mut mac = key.clone();
                mac.update(&head);
                mac.update(content);
                mac.finalize().into_bytes().into()
            }
            None => {
                let mut hash = Sha256::new();
                hash.update(head);
                hash.update(content);
                hash.finalize().into()
            }
        })
    }

    fn current(&self) -> Option<&EpochKeys> {
        self.epochs.last()
    }

    fn epoch(&self, n: u32) -> Result<&EpochKeys> {
        self.epochs
            .iter()
            .find(|e| e.epoch == n)
            .ok_or_else(|| StoreError::Key(format!("key epoch {n} is not in this host's key ring; open the store again to load a newer ring")))
    }

    /// Seals a small payload: scheme u8 · epoch u32 · nonce and ciphertext, or cleartext and checksum.
    pub(crate) fn seal_small(&self, platform: &dyn Platform, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let (scheme, epoch, body) = match self.current() {
            Some(e) => (SCHEME_SEALED, e.epoch, seal_x(&e.meta, random_bytes(platform), aad, plain)),
            None => (SCHEME_PLAIN, 0, [plain, &plain_sum(aad, plain)].concat()),
        };
        [&[scheme][..], &epoch.to_le_bytes(), &body].concat()
    }

    /// Opens what [`Keys::seal_small`] made.
    pub(crate) fn open_small(&self, what: &dyn std::fmt::Display, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let bad = |why: &str| StoreError::damaged(what, why);
        let (head, body) = sealed.split_first_chunk::<5>().ok_or_else(|| bad("seal is too short"))?;
        let epoch = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        match (head[0], self.current().is_some()) {
            (SCHEME_SEALED, true) => open_x(&self.epoch(epoch)?.meta, aad, body).ok_or_else(|| bad("its seal does not hold")),
            (SCHEME_PLAIN, false) => {
                let (plain, sum) = body.split_last_chunk::<PLAIN_SUM_BYTES>().ok_or_else(|| bad("too short"))?;
                if plain_sum(aad, plain) == *sum { Ok(plain.to_vec()) } else { Err(bad("its checksum does not hold")) }
            }
            // A store must not make a host that holds keys accept cleartext.
            _ => Err(bad("sealed in a way that this store does not use")),
        }
    }

    /// A complete small object.
    pub(crate) fn small_object(&self, platform: &dyn Platform, kind: ObjectKind, subject: &[u8; 16], number: u64, plain: &[u8]) -> Result<Vec<u8>> {
        let sealed = self.seal_small(platform, &small::aad(kind, subject, number), plain);
        Ok(small::encode(kind, subject, number, &sealed)?)
    }

    /// Payload of a small object that must be about `subject` and `number`.
    pub(crate) fn open_object(&self, name: &dyn std::fmt::Display, kind: ObjectKind, subject: &[u8; 16], number: u64, bytes: &[u8]) -> Result<Vec<u8>> {
        let object = small::decode(kind, bytes).map_err(|e| StoreError::damaged(name, e))?;
        if object.subject != *subject || object.number != number {
            return Err(StoreError::damaged(name, "it lies under another object's name"));
        }
        self.open_small(name, &small::aad(kind, subject, number), object.sealed)
    }

    /// A new random key for a pack, wrapped under the current data or metadata key; `None` without encryption.
    pub(crate) fn new_pack_key(&self, platform: &dyn Platform, scheme: WrapScheme) -> Option<Arc<PackKey>> {
        let epoch = self.current()?;
        let mut key: [u8; 32] = random_bytes(platform);
        let wrapping = if scheme == WrapScheme::EpochData { &epoch.data } else { &epoch.meta };
        let wrapped = seal_x(wrapping, random_bytes(platform), &self.row_aad(scheme, epoch.epoch), &key);
        let out = PackKey::new(&key, KeyRow { scheme, epoch: epoch.epoch, wrapped });
        key.zeroize();
        Some(Arc::new(out))
    }

    /// Opens a row of a pack's key table.
    pub(crate) fn unwrap_row(&self, row: &KeyRow) -> Result<PackKey> {
        let epoch = self.epoch(row.epoch)?;
        let wrapping = match row.scheme {
            WrapScheme::EpochData => &epoch.data,
            WrapScheme::EpochMeta => &epoch.meta,
            WrapScheme::Hpke => {
                return Err(StoreError::Key("this pack was sealed by a write-only host for the store's private key, which this version cannot hold".into()));
            }
        };
        let mut plain =
            open_x(wrapping, &self.row_aad(row.scheme, row.epoch), &row.wrapped).ok_or_else(|| StoreError::damaged("pack key", "its seal does not hold"))?;
        let key: [u8; 32] = plain.as_slice().try_into().map_err(|_| StoreError::damaged("pack key", "wrong length"))?;
        plain.zeroize();
        Ok(PackKey::new(&key, row.clone()))
    }

    fn row_aad(&self, scheme: WrapScheme, epoch: u32) -> Vec<u8> {
        [&b"cairn pack key"[..], &self.family.0, &[scheme as u8], &epoch.to_le_bytes()].concat()
    }
}

fn plain_sum(aad: &[u8], plain: &[u8]) -> [u8; PLAIN_SUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update((aad.len() as u64).to_le_bytes());
    hash.update(aad);
    hash.update(plain);
    let full: [u8; 32] = hash.finalize().into();
    let mut out = [0; PLAIN_SUM_BYTES];
    out.copy_from_slice(&full[..PLAIN_SUM_BYTES]);
    out
}
