//! Reading and writing of fixed-size integers and length-prefixed names.

use super::error::CodecError;
use super::limits::NAME_BYTES_MAX;

/// Reads fields off a slice; every read names its field so that an error can.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub fn bytes(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], CodecError> {
        if self.rest.len() < count {
            return Err(CodecError::Short { field, found: self.rest.len(), needed: count });
        }
        let (head, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(field, N)?);
        Ok(out)
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// [`CodecError::Short`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, CodecError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A name of `length` bytes.
    ///
    /// # Errors
    /// Too long, cut short, not UTF-8.
    pub fn name(&mut self, field: &'static str, length: usize) -> Result<String, CodecError> {
        if length > NAME_BYTES_MAX {
            return Err(CodecError::TooLarge { field, found: length as u64, limit: NAME_BYTES_MAX as u64 });
        }
        let bytes = self.bytes(field, length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::NotUtf8 { field })
    }

    /// Everything that is left.
    #[must_use]
    pub fn remaining(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Bytes that are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Asserts the end.
    ///
    /// # Errors
    /// [`CodecError::Trailing`].
    pub fn end(&self, field: &'static str) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing { field, extra: self.rest.len() }) }
    }
}

/// Compares a magic number.
///
/// # Errors
/// [`CodecError::Magic`].
pub fn expect_magic(field: &'static str, found: u64, expected: u64) -> Result<(), CodecError> {
    if found == expected { Ok(()) } else { Err(CodecError::Magic { field, found, expected }) }
}

/// Compares a length with its limit.
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn within(field: &'static str, found: u64, limit: u64) -> Result<(), CodecError> {
    if found <= limit { Ok(()) } else { Err(CodecError::TooLarge { field, found, limit }) }
}

/// Appends a name with a 32-bit length in front.
///
/// # Errors
/// [`CodecError::TooLarge`] above 4096 bytes.
pub fn put_name(out: &mut Vec<u8>, field: &'static str, name: &str) -> Result<(), CodecError> {
    within(field, name.len() as u64, NAME_BYTES_MAX as u64)?;
    let length = u32::try_from(name.len()).expect("4096 fits 32 bits");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    Ok(())
}
