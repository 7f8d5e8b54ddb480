//! Greeting and options, to the point where an export is open or a list is read.

use std::time::Duration;

use super::connection::{Connection, ExportInfo};
use super::error::NbdError;
use super::options::{ConnectOptions, StructuredReplies};
use super::wire::{What, Wire};
use crate::codec::handshake::{self as codec, BlockSizes, Info, option, reply};
use crate::codec::limits::{CONTEXTS_MAX, OPTION_REPLIES_MAX, REPLY_BYTES_MAX};
use crate::codec::wire::within;

/// An option's payload-carrying replies, and how it ended.
struct Answer {
    replies: Vec<(u32, Vec<u8>)>,
    /// ACK, or an error type with the server's words.
    end: Result<(), (u32, String)>,
}

/// Connects and opens the export.
pub(super) async fn open(options: &ConnectOptions) -> Result<Connection, NbdError> {
    let server = format!("{} export {:?}", options.address, options.export);
    let wire = Wire::connect(&options.address, server.clone(), options.limits.connect).await?;
    limited(server, options.limits.handshake, negotiate(wire, options)).await
}

/// Names of the exports that the server lists.
///
/// # Errors
/// Those of connecting and of the handshake; a server may refuse to list.
pub async fn list_exports(options: &ConnectOptions) -> Result<Vec<String>, NbdError> {
    let server = options.address.to_string();
    let wire = Wire::connect(&options.address, server.clone(), options.limits.connect).await?;
    limited(server, options.limits.handshake, list(wire)).await
}

/// Meta contexts of the export that match `query` ("" = all).
///
/// # Errors
/// Those of connecting and of the handshake.
pub async fn list_meta_contexts(options: &ConnectOptions, query: &str) -> Result<Vec<String>, NbdError> {
    let server = format!("{} export {:?}", options.address, options.export);
    let wire = Wire::connect(&options.address, server.clone(), options.limits.connect).await?;
    limited(server, options.limits.handshake, list_contexts(wire, options, query)).await
}

async fn limited<T>(server: String, limit: Duration, work: impl Future<Output = Result<T, NbdError>>) -> Result<T, NbdError> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(NbdError::Timeout { server, what: "the handshake".to_owned(), limit }),
    }
}

async fn negotiate(mut wire: Wire, options: &ConnectOptions) -> Result<Connection, NbdError> {
    greet(&mut wire).await?;
    let structured = structured_replies(&mut wire, options).await?;
    let mut contexts = Vec::new();
    if !options.contexts.is_empty() {
        contexts = set_contexts(&mut wire, options).await?;
    }
    let info = go(&mut wire, &options.export).await?;
    Ok(Connection::established(wire, options.limits, info, structured, contexts))
}

async fn list(mut wire: Wire) -> Result<Vec<String>, NbdError> {
    greet(&mut wire).await?;
    let answer = ask(&mut wire, option::LIST, "LIST", &[]).await?;
    accepted(&wire, "LIST", answer.end)?;
    let what = What::Step("LIST");
    let mut names = Vec::new();
    for (kind, payload) in answer.replies {
        if kind == reply::SERVER {
            names.push(codec::decode_server_reply(&payload).map_err(|e| wire.malformed(what, e))?);
        }
    }
    farewell(wire).await;
    Ok(names)
}

async fn list_contexts(mut wire: Wire, options: &ConnectOptions, query: &str) -> Result<Vec<String>, NbdError> {
    const NAME: &str = "LIST_META_CONTEXT";
    let what = What::Step(NAME);
    greet(&mut wire).await?;
    structured_replies(&mut wire, &options.clone().context("base:allocation")).await?;
    let queries = if query.is_empty() { Vec::new() } else { vec![query.to_owned()] };
    let payload = codec::encode_meta_context(&options.export, &queries).map_err(|e| wire.malformed(what, e))?;
    let answer = ask(&mut wire, option::LIST_META_CONTEXT, NAME, &payload).await?;
    accepted(&wire, NAME, answer.end)?;
    let mut names = Vec::new();
    for (kind, payload) in answer.replies {
        if kind == reply::META_CONTEXT {
            names.push(codec::decode_meta_context_reply(&payload).map_err(|e| wire.malformed(what, e))?.1);
        }
    }
    farewell(wire).await;
    Ok(names)
}

async fn greet(wire: &mut Wire) -> Result<(), NbdError> {
    let what = What::Step("connect (greeting)");
    let greeting = wire.array::<{ codec::GREETING_BYTES }>(what).await?;
    let old_style = greeting[8..16] == codec::OLDSTYLE_MAGIC.to_be_bytes();
    let flags = match codec::decode_greeting(&greeting) {
        Err(_) if old_style => {
            return Err(NbdError::OldStyle { server: wire.server.clone() });
        }
        result => result.map_err(|e| wire.malformed(what, e))?,
    };
    if flags & codec::FLAG_FIXED_NEWSTYLE == 0 {
        return Err(NbdError::OldStyle { server: wire.server.clone() });
    }
    let ours = u32::from(codec::FLAG_FIXED_NEWSTYLE | (flags & codec::FLAG_NO_ZEROES));
    wire.send(what, &ours.to_be_bytes()).await
}

async fn structured_replies(wire: &mut Wire, options: &ConnectOptions) -> Result<bool, NbdError> {
    let required = options.structured == StructuredReplies::Require || !options.contexts.is_empty();
    if options.structured == StructuredReplies::Never && !required {
        return Ok(false);
    }
    let answer = ask(wire, option::STRUCTURED_REPLY, "STRUCTURED_REPLY", &[]).await?;
    match answer.end {
        Ok(()) => Ok(true),
        Err((reply::ERR_TLS_REQD, _)) => Err(NbdError::TlsRequired { server: wire.server.clone() }),
        Err(_) if required => Err(NbdError::NoStructuredReplies { server: wire.server.clone() }),
        Err(_) => Ok(false),
    }
}

async fn set_contexts(wire: &mut Wire, options: &ConnectOptions) -> Result<Vec<(u32, String)>, NbdError> {
    const NAME: &str = "SET_META_CONTEXT";
    let what = What::Step(NAME);
    let payload = codec::encode_meta_context(&options.export, &options.contexts).map_err(|e| wire.malformed(what, e))?;
    let answer = ask(wire, option::SET_META_CONTEXT, NAME, &payload).await?;
    accepted(wire, NAME, answer.end)?;
    within("meta context count", answer.replies.len() as u64, CONTEXTS_MAX as u64).map_err(|e| wire.malformed(what, e))?;
    let mut found: Vec<(u32, String)> = Vec::new();
    for (kind, payload) in &answer.replies {
        if *kind != reply::META_CONTEXT {
            return Err(wire.violation(what, format!("reply type {kind:#x}")));
        }
        let (id, name) = codec::decode_meta_context_reply(payload).map_err(|e| wire.malformed(what, e))?;
        if !options.contexts.contains(&name) {
            return Err(wire.violation(what, format!("it offers {name:?}, which was not asked for")));
        }
        if found.iter().any(|(known, known_name)| *known == id || *known_name == name) {
            return Err(wire.violation(what, format!("context {id} {name:?} comes twice")));
        }
        found.push((id, name));
    }
    match options.contexts.iter().find(|wanted| !found.iter().any(|(_, name)| name == *wanted)) {
        Some(missing) => Err(NbdError::ContextMissing { server: wire.server.clone(), context: missing.clone() }),
        None => Ok(found),
    }
}

async fn go(wire: &mut Wire, export: &str) -> Result<ExportInfo, NbdError> {
    const NAME: &str = "GO";
    let what = What::Step(NAME);
    let payload = codec::encode_go(export, &[codec::info::BLOCK_SIZE]).map_err(|e| wire.malformed(what, e))?;
    let answer = ask(wire, option::GO, NAME, &payload).await?;
    accepted(wire, NAME, answer.end)?;
    let mut export = None;
    let mut sizes = BlockSizes { minimum: 1, preferred: 4096, maximum: REPLY_BYTES_MAX };
    for (kind, payload) in &answer.replies {
        if *kind != reply::INFO {
            return Err(wire.violation(what, format!("reply type {kind:#x}")));
        }
        match codec::decode_info(payload).map_err(|e| wire.malformed(what, e))? {
            Info::Export { size_bytes, flags } => export = Some((size_bytes, flags)),
            Info::BlockSize(found) => sizes = found,
            Info::Other(_) => {}
        }
    }
    let Some((size_bytes, flags)) = export else {
        return Err(wire.violation(what, "it does not tell the export's size"));
    };
    if size_bytes % u64::from(sizes.minimum) != 0 {
        return Err(wire.violation(what, format!("size {size_bytes} is no multiple of the block size {}", sizes.minimum)));
    }
    Ok(ExportInfo { size_bytes, flags, block_sizes: sizes })
}

fn accepted(wire: &Wire, name: &'static str, end: Result<(), (u32, String)>) -> Result<(), NbdError> {
    let server = wire.server.clone();
    match end {
        Ok(()) => Ok(()),
        Err((reply::ERR_TLS_REQD, _)) => Err(NbdError::TlsRequired { server }),
        Err((reply::ERR_UNKNOWN, _)) => Err(NbdError::NoSuchExport { server }),
        Err((code, message)) => Err(NbdError::Refused { server, option: name, code, message }),
    }
}

async fn ask(wire: &mut Wire, option: u32, name: &'static str, payload: &[u8]) -> Result<Answer, NbdError> {
    let what = What::Step(name);
    wire.send(what, &codec::encode_option(option, payload)).await?;
    let mut replies = Vec::new();
    loop {
        let bytes = wire.array::<{ codec::OPTION_REPLY_HEADER_BYTES }>(what).await?;
        let header = codec::decode_option_reply_header(&bytes).map_err(|e| wire.malformed(what, e))?;
        if header.option != option {
            return Err(wire.violation(what, format!("it answers option {}", header.option)));
        }
        let payload = wire.payload(what, header.length).await?;
        if header.kind == reply::ACK {
            return Ok(Answer { replies, end: Ok(()) });
        }
        if header.kind & reply::ERROR_BIT != 0 {
            let message = String::from_utf8_lossy(&payload).into_owned();
            return Ok(Answer { replies, end: Err((header.kind, message)) });
        }
        if replies.len() == OPTION_REPLIES_MAX {
            return Err(wire.violation(what, format!("more than {OPTION_REPLIES_MAX} replies")));
        }
        replies.push((header.kind, payload));
    }
}

/// Tells the server that we go; a reply is not waited for.
async fn farewell(mut wire: Wire) {
    let what = What::Step("ABORT");
    if wire.send(what, &codec::encode_option(option::ABORT, &[])).await.is_ok() {
        wire.shutdown().await;
    }
}
