//! Tag-length-value lists: tag u16, length u32, value. Unknown tags are skipped, so fields can be added without a new version;
//! what an old reader must not ignore gets a feature bit in the header instead.

use crate::{
    FormatError,
    wire::{Put, Reader},
};

/// Fields of one object while it is written.
#[derive(Debug, Default, Clone)]
pub struct TlvWriter(Vec<u8>);

impl TlvWriter {
    /// An empty list.
    pub const fn new() -> Self {
        Self(Vec::new())
    }
    /// Adds raw bytes.
    pub fn bytes(&mut self, tag: u16, value: &[u8]) -> &mut Self {
        self.0.put_u16(tag);
        self.0.put_u32(u32::try_from(value.len()).expect("fields are far below 4 GiB: callers check the object's limit"));
        self.0.put(value);
        self
    }
    /// Adds a number, eight bytes.
    pub fn u64(&mut self, tag: u16, value: u64) -> &mut Self {
        self.bytes(tag, &value.to_le_bytes())
    }
    /// Adds text.
    pub fn text(&mut self, tag: u16, value: &str) -> &mut Self {
        self.bytes(tag, value.as_bytes())
    }
    /// The list's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Fields of one object as read.
#[derive(Debug, Clone)]
pub struct Tlv<'a> {
    what: &'static str,
    fields: Vec<(u16, &'a [u8])>,
}

impl<'a> Tlv<'a> {
    /// Parses the whole input.
    pub fn parse(what: &'static str, bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(what, bytes);
        let mut fields = Vec::new();
        while r.left() > 0 {
            let tag = r.u16()?;
            let len = r.u32()? as usize;
            fields.push((tag, r.bytes(len)?));
        }
        Ok(Self { what, fields })
    }
    /// First value of a tag.
    pub fn get(&self, tag: u16) -> Option<&'a [u8]> {
        self.all(tag).next()
    }
    /// All values of a tag, in order.
    pub fn all(&self, tag: u16) -> impl Iterator<Item = &'a [u8]> + '_ {
        self.fields.iter().filter(move |f| f.0 == tag).map(|f| f.1)
    }
    /// First value, or an error.
    pub fn need(&self, tag: u16) -> Result<&'a [u8], FormatError> {
        self.get(tag).ok_or(FormatError::invalid(self.what, "a required field is missing"))
    }
    /// A fixed array.
    pub fn array<const N: usize>(&self, tag: u16) -> Result<[u8; N], FormatError> {
        exact(self.what, self.need(tag)?)
    }
    /// A number.
    pub fn u64(&self, tag: u16) -> Result<u64, FormatError> {
        self.array(tag).map(u64::from_le_bytes)
    }
    /// A number that older writers did not know.
    pub fn u64_or(&self, tag: u16, default: u64) -> Result<u64, FormatError> {
        self.get(tag).map_or(Ok(default), |v| exact(self.what, v).map(u64::from_le_bytes))
    }
    /// Text of at most `limit` bytes.
    pub fn text(&self, tag: u16, limit: usize) -> Result<String, FormatError> {
        text(self.what, self.need(tag)?, limit)
    }
    /// All texts of a tag.
    pub fn texts(&self, tag: u16, limit: usize) -> Result<Vec<String>, FormatError> {
        self.all(tag).map(|v| text(self.what, v, limit)).collect()
    }
}

/// Bytes of exactly `N`.
pub(crate) fn exact<const N: usize>(what: &'static str, v: &[u8]) -> Result<[u8; N], FormatError> {
    v.try_into().map_err(|_| FormatError::invalid(what, "a field has the wrong length"))
}

/// UTF-8 of at most `limit` bytes.
pub(crate) fn text(what: &'static str, v: &[u8], limit: usize) -> Result<String, FormatError> {
    crate::error::at_most(what, v.len() as u64, limit as u64)?;
    std::str::from_utf8(v).map(str::to_owned).map_err(|_| FormatError::invalid(what, "text is not UTF-8"))
}
