//! Base64 as the guest agent uses it (RFC 4648, with padding): small enough to need no crate.

use crate::error::{Error, Result};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Decodes; line ends are not allowed.
///
/// # Errors
/// A character or a length that base64 does not have.
pub fn base64_decode(text: &str) -> Result<Vec<u8>> {
    let bad = |detail: &str| Error::answer("base64 text", detail);
    if !text.len().is_multiple_of(4) {
        return Err(bad("its length is not a multiple of 4"));
    }
    let body = text.trim_end_matches('=');
    if text.len() - body.len() > 2 {
        return Err(bad("too much padding"));
    }
    let mut bytes = Vec::with_capacity(body.len() * 3 / 4);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for character in body.bytes() {
        let value = ALPHABET.iter().position(|c| *c == character).ok_or_else(|| bad("a character that does not belong there"))?;
        buffer = (buffer << 6) | u32::try_from(value).expect("positions in the alphabet are below 64");
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).expect("masked to eight bits"));
        }
    }
    Ok(bytes)
}

/// Encodes.
#[must_use]
pub fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let value = usize::try_from((word >> (18 - 6 * place)) & 63).expect("six bits");
            text.push(if place <= group.len() { char::from(ALPHABET[value]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        for (text, plain) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(base64_decode(text).expect("valid"), plain.as_bytes());
            assert_eq!(base64_encode(plain.as_bytes()), text);
        }
        for text in ["Zg=", "Z===", "Zm9*", "Zm9v\n"] {
            assert!(base64_decode(text).is_err(), "{text:?}");
        }
    }
}
