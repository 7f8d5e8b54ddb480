//! The NBD codec: every function that reads a peer's bytes, each against what writes them.

use cairn_nbd::codec::handshake::{
    GREETING_BYTES, Info, OPTION_HEADER_BYTES, OPTION_REPLY_HEADER_BYTES, decode_client_flags, decode_export_name, decode_go, decode_greeting, decode_info,
    decode_meta_context, decode_meta_context_reply, decode_option_header, decode_option_reply_header, decode_server_reply, encode_go, encode_greeting,
    encode_info, encode_meta_context, encode_option, encode_option_reply,
};
use cairn_nbd::codec::limits::{CONTEXTS_MAX, EXPORT_BYTES_MAX, NAME_BYTES_MAX, OPTION_REPLY_BYTES_MAX, OPTION_REQUEST_BYTES_MAX, STATUS_PAYLOAD_BYTES_MAX};
use cairn_nbd::codec::transmission::{
    CHUNK_HEADER_BYTES, ChunkHeader, REQUEST_BYTES, Request, SIMPLE_REPLY_BYTES, SimpleReply, decode_block_status, decode_error, encode_block_status,
    encode_error,
};

/// The bytes as each message in turn.
pub fn nbd_codec(data: &[u8]) -> bool {
    let headers = greeting(data) | option(data) | option_reply(data) | request(data) | replies(data);
    headers | client_flags(data) | go(data) | meta_context(data) | names(data) | information(data) | block_status(data) | error(data)
}

fn greeting(data: &[u8]) -> bool {
    let Some(Ok(flags)) = data.first_chunk::<GREETING_BYTES>().map(decode_greeting) else { return false };
    assert_eq!(encode_greeting(flags), data[..GREETING_BYTES]);
    true
}

fn client_flags(data: &[u8]) -> bool {
    let name = decode_export_name(data);
    if let Ok(name) = &name {
        assert!(name.len() <= NAME_BYTES_MAX && name.as_bytes() == data);
    }
    let Some(Ok(no_zeroes)) = data.first_chunk::<4>().map(|flags| decode_client_flags(*flags)) else { return name.is_ok() };
    assert_eq!(data[3] & 2 != 0, no_zeroes);
    assert!(data[..3] == [0; 3] && data[3] < 4);
    true
}

fn option(data: &[u8]) -> bool {
    let Some(Ok((option, length))) = data.first_chunk::<OPTION_HEADER_BYTES>().map(decode_option_header) else { return false };
    assert!(length <= OPTION_REQUEST_BYTES_MAX);
    if let Some(payload) = data[OPTION_HEADER_BYTES..].get(..length as usize) {
        assert!(data.starts_with(&encode_option(option, payload)));
    }
    true
}

fn option_reply(data: &[u8]) -> bool {
    let Some(Ok(header)) = data.first_chunk::<OPTION_REPLY_HEADER_BYTES>().map(decode_option_reply_header) else { return false };
    assert!(header.length <= OPTION_REPLY_BYTES_MAX);
    if let Some(payload) = data[OPTION_REPLY_HEADER_BYTES..].get(..header.length as usize) {
        assert!(data.starts_with(&encode_option_reply(header.option, header.kind, payload)));
        let _ = names(payload) | information(payload);
    }
    true
}

fn request(data: &[u8]) -> bool {
    let Some(Ok(request)) = data.first_chunk::<REQUEST_BYTES>().map(Request::decode) else { return false };
    assert_eq!(request.encode(), data[..REQUEST_BYTES]);
    true
}

/// Behind their magic numbers, which are the connection's to read.
fn replies(data: &[u8]) -> bool {
    if let Some(Ok(reply)) = data.first_chunk::<{ SIMPLE_REPLY_BYTES - 4 }>().map(SimpleReply::decode) {
        assert_eq!(reply.encode()[4..], data[..SIMPLE_REPLY_BYTES - 4]);
    }
    let Some(Ok(header)) = data.first_chunk::<{ CHUNK_HEADER_BYTES - 4 }>().map(ChunkHeader::decode) else { return false };
    assert_eq!(header.encode()[4..], data[..CHUNK_HEADER_BYTES - 4]);
    assert!(header.length <= STATUS_PAYLOAD_BYTES_MAX);
    true
}

fn go(data: &[u8]) -> bool {
    let Ok((export, infos)) = decode_go(data) else { return false };
    assert_eq!(encode_go(&export, &infos).as_deref(), Ok(data));
    true
}

fn meta_context(data: &[u8]) -> bool {
    let Ok((export, queries)) = decode_meta_context(data) else { return false };
    assert!(queries.len() <= CONTEXTS_MAX);
    assert_eq!(encode_meta_context(&export, &queries).as_deref(), Ok(data));
    true
}

fn names(data: &[u8]) -> bool {
    let context = decode_meta_context_reply(data);
    if let Ok((id, name)) = &context {
        assert_eq!([&id.to_be_bytes()[..], name.as_bytes()].concat(), data);
    }
    let server = decode_server_reply(data);
    if let Ok(name) = &server {
        assert!(name.len() <= NAME_BYTES_MAX && data[4..].starts_with(name.as_bytes()));
    }
    context.is_ok() || server.is_ok()
}

fn information(data: &[u8]) -> bool {
    let Ok(information) = decode_info(data) else { return false };
    assert!(data.starts_with(&encode_info(information)));
    match information {
        Info::Export { size_bytes, .. } => assert!(size_bytes <= EXPORT_BYTES_MAX),
        Info::BlockSize(sizes) => assert!(sizes.minimum.is_power_of_two() && sizes.minimum <= sizes.maximum),
        Info::Other(_) => {}
    }
    true
}

fn block_status(data: &[u8]) -> bool {
    let Ok((context, descriptors)) = decode_block_status(data) else { return false };
    assert_eq!(encode_block_status(context, &descriptors), data);
    assert!(descriptors.iter().all(|descriptor| descriptor.length > 0));
    true
}

fn error(data: &[u8]) -> bool {
    let Ok((errno, message)) = decode_error(data) else { return false };
    assert!(errno != 0);
    assert!(data.starts_with(&encode_error(errno, &message).expect("what was accepted keeps the limit")));
    true
}
