//! Greeting, options and option replies (fixed newstyle).

use super::error::CodecError;
use super::limits::{CONTEXTS_MAX, EXPORT_BYTES_MAX, NAME_BYTES_MAX, OPTION_REPLY_BYTES_MAX, OPTION_REQUEST_BYTES_MAX};
use super::wire::{Reader, expect_magic, put_name, within};

/// "NBDMAGIC".
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The magic of the old style without negotiation, refused.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// In front of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Bytes of the greeting.
pub const GREETING_BYTES: usize = 18;
/// Bytes in front of an option's payload.
pub const OPTION_HEADER_BYTES: usize = 16;
/// Bytes in front of an option reply's payload.
pub const OPTION_REPLY_HEADER_BYTES: usize = 20;

/// Handshake flag: fixed newstyle; without it unknown options end the connection.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: 124 zero bytes are left out after the old EXPORT_NAME.
pub const FLAG_NO_ZEROES: u16 = 2;

/// Options a client may send.
pub mod option {
    /// The old way into transmission: its reply has no room for an error.
    pub const EXPORT_NAME: u32 = 1;
    /// Give up in good order.
    pub const ABORT: u32 = 2;
    /// List the exports.
    pub const LIST: u32 = 3;
    /// Go on inside TLS.
    pub const STARTTLS: u32 = 5;
    /// Describe an export.
    pub const INFO: u32 = 6;
    /// Describe an export and enter transmission.
    pub const GO: u32 = 7;
    /// Negotiate structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// List meta contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Choose meta contexts.
    pub const SET_META_CONTEXT: u32 = 10;
}

/// Reply types of options.
pub mod reply {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of LIST.
    pub const SERVER: u32 = 2;
    /// One piece of INFO or GO.
    pub const INFO: u32 = 3;
    /// One meta context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR_BIT: u32 = 1 << 31;
    /// The option is unknown to the server.
    pub const ERR_UNSUP: u32 = ERROR_BIT | 1;
    /// Forbidden by the server's policy.
    pub const ERR_POLICY: u32 = ERROR_BIT | 2;
    /// The option was malformed.
    pub const ERR_INVALID: u32 = ERROR_BIT | 3;
    /// TLS first.
    pub const ERR_TLS_REQD: u32 = ERROR_BIT | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR_BIT | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR_BIT | 7;
    /// The export has block size constraints that the client must ask for.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR_BIT | 8;
    /// The option is larger than the server reads.
    pub const ERR_TOO_BIG: u32 = ERROR_BIT | 9;
}

/// Information types of INFO and GO.
pub mod info {
    /// Size and flags.
    pub const EXPORT: u16 = 0;
    /// The export's name as the server calls it.
    pub const NAME: u16 = 1;
    /// A text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block size constraints.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub mod export_flag {
    /// The flags mean something.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const SEND_FUA: u16 = 1 << 3;
    /// TRIM is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// DF is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one cache.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// CACHE is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
}

/// Encodes a server's greeting.
#[must_use]
pub fn encode_greeting(flags: u16) -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[..8].copy_from_slice(&GREETING_MAGIC.to_be_bytes());
    out[8..16].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
    out[16..].copy_from_slice(&flags.to_be_bytes());
    out
}

/// Decodes a server's greeting to its handshake flags.
///
/// # Errors
/// Wrong magic; the old style shows as a wrong option magic.
pub fn decode_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<u16, CodecError> {
    let mut reader = Reader::new(bytes);
    expect_magic("greeting magic", reader.u64("greeting magic")?, GREETING_MAGIC)?;
    expect_magic("option magic", reader.u64("option magic")?, OPTION_MAGIC)?;
    reader.u16("handshake flags")
}

/// Decodes a client's answer to the greeting: whether it wants 124 zero bytes left out behind EXPORT_NAME.
///
/// # Errors
/// A flag that no greeting of ours offers.
pub fn decode_client_flags(bytes: [u8; 4]) -> Result<bool, CodecError> {
    let flags = u32::from_be_bytes(bytes);
    if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return Err(CodecError::Forbidden { field: "client flags", found: u64::from(flags) });
    }
    Ok(flags & u32::from(FLAG_NO_ZEROES) != 0)
}

/// Bytes left out behind the answer to EXPORT_NAME where [`FLAG_NO_ZEROES`] was agreed on.
const EXPORT_NAME_ZEROES_BYTES: usize = 124;

/// Encodes the answer to EXPORT_NAME, the one option whose answer has no header.
#[must_use]
pub fn encode_export_name_reply(size_bytes: u64, flags: u16, no_zeroes: bool) -> Vec<u8> {
    let mut out = size_bytes.to_be_bytes().to_vec();
    out.extend_from_slice(&flags.to_be_bytes());
    out.resize(out.len() + if no_zeroes { 0 } else { EXPORT_NAME_ZEROES_BYTES }, 0);
    out
}

/// Decodes the payload of EXPORT_NAME.
///
/// # Errors
/// Too long, not UTF-8.
pub fn decode_export_name(payload: &[u8]) -> Result<String, CodecError> {
    Reader::new(payload).name("export name", payload.len())
}

/// Encodes an option with its payload.
#[must_use]
pub fn encode_option(option: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("option payloads are built by this module from bounded names");
    let mut out = Vec::with_capacity(OPTION_HEADER_BYTES + payload.len());
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Decodes an option's header to (option, payload length).
///
/// # Errors
/// Wrong magic, payload above its limit.
pub fn decode_option_header(bytes: &[u8; OPTION_HEADER_BYTES]) -> Result<(u32, u32), CodecError> {
    let mut reader = Reader::new(bytes);
    expect_magic("option magic", reader.u64("option magic")?, OPTION_MAGIC)?;
    let option = reader.u32("option")?;
    let length = reader.u32("option length")?;
    within("option length", u64::from(length), u64::from(OPTION_REQUEST_BYTES_MAX))?;
    Ok((option, length))
}

/// Header of an option reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// Option answered.
    pub option: u32,
    /// Reply type.
    pub kind: u32,
    /// Bytes of payload that follow.
    pub length: u32,
}

/// Encodes an option reply.
#[must_use]
pub fn encode_option_reply(option: u32, kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("option reply payloads are bounded by their builders");
    let mut out = Vec::with_capacity(OPTION_REPLY_HEADER_BYTES + payload.len());
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// Decodes the header of an option reply.
///
/// # Errors
/// Wrong magic, payload above its limit.
pub fn decode_option_reply_header(bytes: &[u8; OPTION_REPLY_HEADER_BYTES]) -> Result<OptionReplyHeader, CodecError> {
    let mut reader = Reader::new(bytes);
    expect_magic("option reply magic", reader.u64("option reply magic")?, OPTION_REPLY_MAGIC)?;
    let option = reader.u32("option")?;
    let kind = reader.u32("reply type")?;
    let length = reader.u32("option reply length")?;
    within("option reply length", u64::from(length), u64::from(OPTION_REPLY_BYTES_MAX))?;
    Ok(OptionReplyHeader { option, kind, length })
}

/// Payload of INFO and GO: export name and the information asked for.
///
/// # Errors
/// Name above 4096 bytes.
pub fn encode_go(export: &str, infos: &[u16]) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    put_name(&mut out, "export name", export)?;
    let count = u16::try_from(infos.len()).expect("a handful of information types");
    out.extend_from_slice(&count.to_be_bytes());
    for info in infos {
        out.extend_from_slice(&info.to_be_bytes());
    }
    Ok(out)
}

/// Decodes the payload of INFO and GO.
///
/// # Errors
/// Any length that does not fit.
pub fn decode_go(payload: &[u8]) -> Result<(String, Vec<u16>), CodecError> {
    let mut reader = Reader::new(payload);
    let length = reader.u32("export name length")? as usize;
    let name = reader.name("export name", length)?;
    let count = reader.u16("information count")?;
    let infos = (0..count).map(|_| reader.u16("information type")).collect::<Result<_, _>>()?;
    reader.end("GO payload")?;
    Ok((name, infos))
}

/// Payload of LIST_META_CONTEXT and SET_META_CONTEXT.
///
/// # Errors
/// A name above 4096 bytes, too many queries.
pub fn encode_meta_context(export: &str, queries: &[String]) -> Result<Vec<u8>, CodecError> {
    within("meta context count", queries.len() as u64, CONTEXTS_MAX as u64)?;
    let mut out = Vec::new();
    put_name(&mut out, "export name", export)?;
    let count = u32::try_from(queries.len()).expect("checked against the limit above");
    out.extend_from_slice(&count.to_be_bytes());
    for query in queries {
        put_name(&mut out, "meta context name", query)?;
    }
    Ok(out)
}

/// Decodes the payload of LIST_META_CONTEXT and SET_META_CONTEXT.
///
/// # Errors
/// Any length or count that does not fit.
pub fn decode_meta_context(payload: &[u8]) -> Result<(String, Vec<String>), CodecError> {
    let mut reader = Reader::new(payload);
    let length = reader.u32("export name length")? as usize;
    let export = reader.name("export name", length)?;
    let count = reader.u32("meta context count")?;
    within("meta context count", u64::from(count), CONTEXTS_MAX as u64)?;
    let mut queries = Vec::new();
    for _ in 0..count {
        let length = reader.u32("meta context name length")? as usize;
        queries.push(reader.name("meta context name", length)?);
    }
    reader.end("meta context payload")?;
    Ok((export, queries))
}

/// Decodes one META_CONTEXT reply to (id, name).
///
/// # Errors
/// Cut short, name too long or not UTF-8.
pub fn decode_meta_context_reply(payload: &[u8]) -> Result<(u32, String), CodecError> {
    let mut reader = Reader::new(payload);
    let id = reader.u32("meta context id")?;
    let length = reader.len();
    Ok((id, reader.name("meta context name", length)?))
}

/// Encodes one META_CONTEXT reply's payload.
///
/// # Errors
/// Name above 4096 bytes.
pub fn encode_meta_context_reply(id: u32, name: &str) -> Result<Vec<u8>, CodecError> {
    within("meta context name", name.len() as u64, NAME_BYTES_MAX as u64)?;
    let mut out = id.to_be_bytes().to_vec();
    out.extend_from_slice(name.as_bytes());
    Ok(out)
}

/// Encodes one SERVER reply's payload: an export's name and, unless empty, its description.
///
/// # Errors
/// Name or description above 4096 bytes.
pub fn encode_server_reply(name: &str, description: &str) -> Result<Vec<u8>, CodecError> {
    within("export description", description.len() as u64, NAME_BYTES_MAX as u64)?;
    let mut out = Vec::new();
    put_name(&mut out, "export name", name)?;
    out.extend_from_slice(description.as_bytes());
    Ok(out)
}

/// Encodes one INFO reply's payload that is a text: [`info::NAME`] or [`info::DESCRIPTION`].
///
/// # Errors
/// Text above 4096 bytes.
pub fn encode_info_text(kind: u16, text: &str) -> Result<Vec<u8>, CodecError> {
    within("information text", text.len() as u64, NAME_BYTES_MAX as u64)?;
    let mut out = kind.to_be_bytes().to_vec();
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

/// Decodes one SERVER reply of LIST to the export's name; a description behind it is left alone.
///
/// # Errors
/// Cut short, name too long or not UTF-8.
pub fn decode_server_reply(payload: &[u8]) -> Result<String, CodecError> {
    let mut reader = Reader::new(payload);
    let length = reader.u32("export name length")? as usize;
    reader.name("export name", length)
}

/// Block size constraints of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Requests must be aligned to this, bytes, a power of two.
    pub minimum: u32,
    /// Best request size, bytes.
    pub preferred: u32,
    /// Largest payload, bytes.
    pub maximum: u32,
}

/// One piece of information from INFO or GO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Info {
    /// Size in bytes and flags of [`export_flag`].
    Export {
        /// Bytes.
        size_bytes: u64,
        /// Bits of [`export_flag`].
        flags: u16,
    },
    /// Block size constraints.
    BlockSize(BlockSizes),
    /// One we did not ask for; clients must skip it.
    Other(u16),
}

/// Decodes one INFO reply.
///
/// # Errors
/// Wrong length, size above the limit, block sizes that contradict each other.
pub fn decode_info(payload: &[u8]) -> Result<Info, CodecError> {
    let mut reader = Reader::new(payload);
    match reader.u16("information type")? {
        info::EXPORT => {
            let size_bytes = reader.u64("export size")?;
            let flags = reader.u16("export flags")?;
            reader.end("export information")?;
            within("export size", size_bytes, EXPORT_BYTES_MAX)?;
            Ok(Info::Export { size_bytes, flags })
        }
        info::BLOCK_SIZE => {
            let sizes = BlockSizes {
                minimum: reader.u32("minimum block size")?,
                preferred: reader.u32("preferred block size")?,
                maximum: reader.u32("maximum block size")?,
            };
            reader.end("block size information")?;
            check_block_sizes(sizes)?;
            Ok(Info::BlockSize(sizes))
        }
        other => Ok(Info::Other(other)),
    }
}

fn check_block_sizes(sizes: BlockSizes) -> Result<(), CodecError> {
    if !sizes.minimum.is_power_of_two() || sizes.minimum > super::limits::REPLY_BYTES_MAX {
        return Err(CodecError::Forbidden { field: "minimum block size", found: u64::from(sizes.minimum) });
    }
    if sizes.maximum < sizes.minimum {
        return Err(CodecError::Forbidden { field: "maximum block size", found: u64::from(sizes.maximum) });
    }
    Ok(())
}

/// Encodes one INFO reply's payload.
#[must_use]
pub fn encode_info(information: Info) -> Vec<u8> {
    let mut out = Vec::new();
    match information {
        Info::Export { size_bytes, flags } => {
            out.extend_from_slice(&info::EXPORT.to_be_bytes());
            out.extend_from_slice(&size_bytes.to_be_bytes());
            out.extend_from_slice(&flags.to_be_bytes());
        }
        Info::BlockSize(sizes) => {
            out.extend_from_slice(&info::BLOCK_SIZE.to_be_bytes());
            for value in [sizes.minimum, sizes.preferred, sizes.maximum] {
                out.extend_from_slice(&value.to_be_bytes());
            }
        }
        Info::Other(kind) => out.extend_from_slice(&kind.to_be_bytes()),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        assert_eq!(decode_greeting(&encode_greeting(3)), Ok(3));
        let go = encode_go("vda", &[info::BLOCK_SIZE]).expect("short name");
        assert_eq!(decode_go(&go), Ok(("vda".to_owned(), vec![info::BLOCK_SIZE])));
        let queries = vec!["base:allocation".to_owned(), "qemu:dirty-bitmap:x".to_owned()];
        let meta = encode_meta_context("vda", &queries).expect("short names");
        assert_eq!(decode_meta_context(&meta), Ok(("vda".to_owned(), queries)));
        let sizes = Info::BlockSize(BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 25 });
        assert_eq!(decode_info(&encode_info(sizes)), Ok(sizes));
        let export = Info::Export { size_bytes: 1 << 40, flags: 3 };
        assert_eq!(decode_info(&encode_info(export)), Ok(export));
    }

    #[test]
    fn what_a_server_says_is_what_a_client_reads() {
        let server = encode_server_reply("vda", "first disk").expect("short");
        assert_eq!(decode_server_reply(&server), Ok("vda".to_owned()));
        let context = encode_meta_context_reply(1, "base:allocation").expect("short");
        assert_eq!(decode_meta_context_reply(&context), Ok((1, "base:allocation".to_owned())));
        let name = encode_info_text(info::NAME, "vda").expect("short");
        assert_eq!(decode_info(&name), Ok(Info::Other(info::NAME)));
        assert_eq!((encode_export_name_reply(1, 1, true).len(), encode_export_name_reply(1, 1, false).len()), (10, 134));
        assert!(encode_server_reply(&"x".repeat(4097), "").is_err() && encode_server_reply("x", &"x".repeat(4097)).is_err());
        assert!(encode_info_text(1, &"x".repeat(4097)).is_err() && encode_meta_context_reply(1, &"x".repeat(4097)).is_err());
    }

    #[test]
    fn client_flags_and_export_names_are_checked() {
        assert_eq!(decode_client_flags([0, 0, 0, 3]), Ok(true));
        assert_eq!(decode_client_flags([0, 0, 0, 1]), Ok(false));
        assert!(decode_client_flags([0, 0, 0, 4]).is_err() && decode_client_flags([1, 0, 0, 3]).is_err());
        assert_eq!(decode_export_name(b"vda"), Ok("vda".to_owned()));
        assert!(decode_export_name(&[0xff]).is_err() && decode_export_name(&[b'x'; 4097]).is_err());
    }

    #[test]
    fn every_truncation_is_refused() {
        let go = encode_go("vda", &[info::BLOCK_SIZE]).expect("short name");
        let meta = encode_meta_context("vda", &["base:allocation".to_owned()]).expect("short names");
        let export = encode_info(Info::Export { size_bytes: 4096, flags: 1 });
        for cut in 0..go.len() {
            assert!(decode_go(&go[..cut]).is_err(), "GO cut at {cut}");
        }
        for cut in 0..meta.len() {
            assert!(decode_meta_context(&meta[..cut]).is_err(), "meta context cut at {cut}");
        }
        for cut in 0..export.len() {
            assert!(decode_info(&export[..cut]).is_err(), "info cut at {cut}");
        }
    }

    #[test]
    fn block_sizes_that_cannot_be_are_refused() {
        for (minimum, maximum) in [(0, 1), (3, 1 << 20), (1 << 20, 1 << 25), (4096, 512)] {
            let bytes = encode_info(Info::BlockSize(BlockSizes { minimum, preferred: 4096, maximum }));
            assert!(decode_info(&bytes).is_err(), "{minimum}/{maximum}");
        }
    }

    #[test]
    fn lengths_are_checked_before_they_are_believed() {
        let mut header = [0; OPTION_REPLY_HEADER_BYTES];
        header.copy_from_slice(&encode_option_reply(7, 1, &[])[..]);
        header[16..].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(decode_option_reply_header(&header), Err(CodecError::TooLarge { .. })));
        let mut payload = u32::MAX.to_be_bytes().to_vec();
        payload.push(b'x');
        assert!(matches!(decode_server_reply(&payload), Err(CodecError::TooLarge { .. })));
    }
}
