//! Keys, content ids and seals.
//!
//! Invariants:
//! - No nonce is used twice for two plaintexts: frames derive theirs from the content under a key of their pack, small objects draw 192 random bits.
//! - Nothing opened is handed on before its seal held; callers recompute content ids on top.
//! - Keys are zeroized on drop and have no `Debug`.

mod dense;
mod frame;
mod keys;
mod secret;

pub(crate) use frame::{PackKey, SealedFrame, Sealer, open_frame};
pub(crate) use keys::{Keys, new_ring};
pub use secret::{Credential, RECOVERY_PREFIX, SecretKey};
pub(crate) use secret::{new_slot, unwrap_master};

use crate::{Result, StoreError};
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};

/// Bytes of an XChaCha20-Poly1305 nonce.
const NONCE_BYTES: usize = 24;

/// nonce 24 · ciphertext · tag 16.
fn seal_x(key: &[u8; 32], nonce: [u8; NONCE_BYTES], aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let sealed = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad })
        .expect("XChaCha20-Poly1305 seals anything below 256 GiB");
    [&nonce[..], &sealed].concat()
}

/// Opens what [`seal_x`] made; `None` where the key is another or a bit changed.
fn open_x(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, ct) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    XChaCha20Poly1305::new(&Key::from(*key)).decrypt(&XNonce::from(*nonce), Payload { msg: ct, aad }).ok()
}

/// Seals under a bare key (the master key over the key ring).
pub(crate) fn seal_with(key: &[u8; 32], platform: &dyn crate::platform::Platform, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    seal_x(key, crate::platform::random_bytes(platform), aad, plain)
}

/// Opens what [`seal_with`] made.
pub(crate) fn open_with(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    open_x(key, aad, sealed)
}

/// Checks an Ed25519 signature.
pub(crate) fn verify_signature(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<()> {
    ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, public_key)
        .verify(message, signature)
        .map_err(|_| StoreError::damaged("config", "its signature does not hold"))
}

/// Public key and signature of a seed.
pub(crate) fn sign(seed: &[u8; 32], message: &[u8]) -> ([u8; 32], [u8; 64]) {
    use ring::signature::KeyPair;
    let pair = ring::signature::Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are a seed");
    let public = pair.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes");
    let signature = pair.sign(message).as_ref().try_into().expect("Ed25519 signatures have 64 bytes");
    (public, signature)
}
