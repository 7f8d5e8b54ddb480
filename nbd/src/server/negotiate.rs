//! From the greeting to the end of the options.
//!
//! Invariants
//! - Reads exactly what a message has, nothing ahead: what a client sent before TLS can never be taken for something said inside it. What was
//!   agreed on before TLS is forgotten, since nothing can be agreed on before it.
//! - A refused option leaves the negotiation as it was. Only what makes the stream unreadable, EXPORT_NAME without an export, and too many
//!   options end it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::End;
use super::export::{Export, Exports};
use super::limits::{EXPORT_NAME_BYTES_MAX, Limits, OPTIONS_MAX};
use super::stream::Stream;
use crate::codec::CodecError;
use crate::codec::handshake::{self as codec, BlockSizes, Info, export_flag, info, option, reply};
use crate::codec::limits::OPTION_REQUEST_BYTES_MAX;

/// The only meta context there is.
const ALLOCATION: &str = "base:allocation";
/// Asks for all contexts of the namespace.
const NAMESPACE: &str = "base:";
/// Id of [`ALLOCATION`] on every connection.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What was agreed on.
pub(super) struct Agreed {
    pub(super) name: String,
    pub(super) export: Arc<dyn Export>,
    pub(super) structured: bool,
    /// Block status may be asked for.
    pub(super) allocation: bool,
    /// The connection's place among all.
    pub(super) place: OwnedSemaphorePermit,
}

/// How a run of options ended.
pub(super) enum Outcome {
    Transmit(Agreed),
    StartTls,
    Farewell,
}

/// Where a connection stands with TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    NotOffered,
    Required,
    Done,
}

/// One connection's negotiation.
pub(super) struct Negotiation<'a> {
    pub(super) exports: &'a Exports,
    pub(super) limits: &'a Limits,
    /// Places for connections in transmission.
    pub(super) places: &'a Arc<Semaphore>,
    pub(super) tls: Tls,
    no_zeroes: bool,
    structured: bool,
    /// The export that [`ALLOCATION`] was chosen for.
    allocation_of: Option<String>,
    options: u32,
}

/// Answers to one option, sent in one piece.
struct Answer {
    option: u32,
    bytes: Vec<u8>,
}

impl Answer {
    fn add(&mut self, kind: u32, payload: &[u8]) {
        self.bytes.extend_from_slice(&codec::encode_option_reply(self.option, kind, payload));
    }

    fn ack(&mut self) {
        self.add(reply::ACK, &[]);
    }

    /// A refusal with a text for people.
    fn refuse(&mut self, kind: u32, why: &str) {
        self.add(kind, why.as_bytes());
    }

    fn malformed(&mut self, error: &CodecError) {
        let kind = if matches!(error, CodecError::TooLarge { .. }) { reply::ERR_TOO_BIG } else { reply::ERR_INVALID };
        self.refuse(kind, &error.to_string());
    }
}

impl<'a> Negotiation<'a> {
    pub(super) fn new(exports: &'a Exports, limits: &'a Limits, places: &'a Arc<Semaphore>, tls: Tls) -> Self {
        Self { exports, limits, places, tls, no_zeroes: false, structured: false, allocation_of: None, options: 0 }
    }

    /// Greets and hears the client's flags.
    pub(super) async fn greet(&mut self, stream: &mut Stream) -> Result<(), End> {
        stream.write_all(&codec::encode_greeting(codec::FLAG_FIXED_NEWSTYLE | codec::FLAG_NO_ZEROES)).await?;
        let mut flags = [0; 4];
        stream.read_exact(&mut flags).await?;
        self.no_zeroes = codec::decode_client_flags(flags)?;
        Ok(())
    }

    /// Answers options until one of them ends it.
    pub(super) async fn options(&mut self, stream: &mut Stream) -> Result<Outcome, End> {
        loop {
            let mut header = [0; codec::OPTION_HEADER_BYTES];
            stream.read_exact(&mut header).await?;
            self.options += 1;
            if self.options > OPTIONS_MAX {
                return Err(End::Violation("sent more than 256 options"));
            }
            let (option, length) = codec::decode_option_header(&header)?;
            assert!(length <= OPTION_REQUEST_BYTES_MAX, "the codec refuses longer ones");
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await?;
            let mut answer = Answer { option, bytes: Vec::new() };
            let outcome = self.answer(&payload, &mut answer)?;
            stream.write_all(&answer.bytes).await?;
            stream.flush().await?;
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
    }

    fn answer(&mut self, payload: &[u8], answer: &mut Answer) -> Result<Option<Outcome>, End> {
        match answer.option {
            option::ABORT => {
                answer.ack();
                return Ok(Some(Outcome::Farewell));
            }
            option::STARTTLS => return Ok(self.start_tls(payload, answer)),
            option::EXPORT_NAME if self.tls == Tls::Required => return Err(End::Violation("asked for an export before TLS")),
            _ if self.tls == Tls::Required => answer.refuse(reply::ERR_TLS_REQD, "this server needs TLS with a client certificate: start it first"),
            option::EXPORT_NAME => return self.export_name(payload, answer).map(Some),
            option::LIST => self.list(payload, answer),
            option::INFO | option::GO => return Ok(self.info_or_go(payload, answer)),
            option::STRUCTURED_REPLY if payload.is_empty() => {
                self.structured = true;
                answer.ack();
            }
            option::STRUCTURED_REPLY => answer.refuse(reply::ERR_INVALID, "STRUCTURED_REPLY has no payload"),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(payload, answer),
            _ => answer.refuse(reply::ERR_UNSUP, "this option is unknown here"),
        }
        Ok(None)
    }

    fn start_tls(&self, payload: &[u8], answer: &mut Answer) -> Option<Outcome> {
        match self.tls {
            _ if !payload.is_empty() => answer.refuse(reply::ERR_INVALID, "STARTTLS has no payload"),
            Tls::NotOffered => answer.refuse(reply::ERR_POLICY, "TLS is not configured on this socket"),
            Tls::Done => answer.refuse(reply::ERR_INVALID, "TLS is running already"),
            Tls::Required => {
                answer.ack();
                return Some(Outcome::StartTls);
            }
        }
        None
    }

    fn flags(&self) -> u16 {
        let always = export_flag::HAS_FLAGS | export_flag::READ_ONLY | export_flag::SEND_FLUSH | export_flag::CAN_MULTI_CONN | export_flag::SEND_CACHE;
        if self.structured { always | export_flag::SEND_DF } else { always }
    }

    fn agree(&self, name: &str, export: &Arc<dyn Export>) -> Option<Agreed> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let allocation = self.structured && self.allocation_of.as_deref() == Some(name);
        Some(Agreed { name: name.to_owned(), export: export.clone(), structured: self.structured, allocation, place })
    }

    fn export_name(&self, payload: &[u8], answer: &mut Answer) -> Result<Outcome, End> {
        let name = codec::decode_export_name(payload)?;
        let (name, export) = self.exports.find(&name).ok_or(End::Violation("asked for an export that does not exist"))?;
        let agreed = self.agree(name, export).ok_or(End::Violation("is one too many: all places for connections are taken"))?;
        answer.bytes = codec::encode_export_name_reply(export.size_bytes(), self.flags(), self.no_zeroes);
        Ok(Outcome::Transmit(agreed))
    }

    fn list(&self, payload: &[u8], answer: &mut Answer) {
        if !payload.is_empty() {
            return answer.refuse(reply::ERR_INVALID, "LIST has no payload");
        }
        for (name, export) in self.exports.iter() {
            let payload = codec::encode_server_reply(name, &description(export)).expect("names and descriptions are kept short");
            answer.add(reply::SERVER, &payload);
        }
        answer.ack();
    }

    fn info_or_go(&self, payload: &[u8], answer: &mut Answer) -> Option<Outcome> {
        let (name, asked) = match codec::decode_go(payload) {
            Ok(asked) => asked,
            Err(error) => {
                answer.malformed(&error);
                return None;
            }
        };
        let Some((name, export)) = self.exports.find(&name) else {
            answer.refuse(reply::ERR_UNKNOWN, "no such export; LIST names those there are");
            return None;
        };
        let agreed = if answer.option == option::GO { Some(self.agree(name, export)) } else { None };
        if matches!(agreed, Some(None)) {
            answer.refuse(reply::ERR_POLICY, "the server has as many connections as it may; close one or try again later");
            return None;
        }
        const SHORT: &str = "names and descriptions are kept short";
        answer.add(reply::INFO, &codec::encode_info(Info::Export { size_bytes: export.size_bytes(), flags: self.flags() }));
        if asked.contains(&info::NAME) {
            answer.add(reply::INFO, &codec::encode_info_text(info::NAME, name).expect(SHORT));
        }
        if asked.contains(&info::DESCRIPTION) {
            answer.add(reply::INFO, &codec::encode_info_text(info::DESCRIPTION, &description(export)).expect(SHORT));
        }
        if asked.contains(&info::BLOCK_SIZE) {
            let sizes = BlockSizes { minimum: 1, preferred: self.limits.read_bytes_preferred, maximum: self.limits.read_bytes_max };
            answer.add(reply::INFO, &codec::encode_info(Info::BlockSize(sizes)));
        }
        answer.ack();
        agreed.flatten().map(Outcome::Transmit)
    }

    fn meta_context(&mut self, payload: &[u8], answer: &mut Answer) {
        let setting = answer.option == option::SET_META_CONTEXT;
        if setting {
            // Whatever comes of it, an earlier choice is gone.
            self.allocation_of = None;
        }
        if !self.structured {
            return answer.refuse(reply::ERR_INVALID, "meta contexts need STRUCTURED_REPLY first");
        }
        let (name, queries) = match codec::decode_meta_context(payload) {
            Ok(asked) => asked,
            Err(error) => return answer.malformed(&error),
        };
        let Some((name, _)) = self.exports.find(&name) else {
            return answer.refuse(reply::ERR_UNKNOWN, "no such export; LIST names those there are");
        };
        let exact = queries.iter().any(|query| query == ALLOCATION);
        let listed = !setting && (queries.is_empty() || queries.iter().any(|query| query == NAMESPACE));
        if exact || listed {
            // The id means something in the answer to SET only.
            let id = if setting { ALLOCATION_ID } else { 0 };
            answer.add(reply::META_CONTEXT, &codec::encode_meta_context_reply(id, ALLOCATION).expect("a short name"));
        }
        if setting && exact {
            self.allocation_of = Some(name.to_owned());
        }
        answer.ack();
    }
}

/// A text for people, cut to what an answer holds.
fn description(export: &Arc<dyn Export>) -> String {
    let text = export.description();
    let fits = |end: &usize| *end <= EXPORT_NAME_BYTES_MAX;
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(fits).last().unwrap_or(0);
    text[..end].to_owned()
}
