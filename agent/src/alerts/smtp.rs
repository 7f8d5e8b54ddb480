//! Mail over SMTP (RFC 5321): one connection, one message, to all recipients.
//!
//! Invariants
//! - Delivered is what the server took for at least one recipient; those that it refused are told.
//! - No password goes over a connection that others can read, but to this host itself (the configuration sees to it). What a server sent before TLS began is not
//!   taken for what it says within.
//! - What a server says is bounded, and shown as text.
//! - The body goes as base64: no line of it can end the message, and no line is too long.

use super::{message::Message, send, tls};
use crate::{
    config::{Mail, Security},
    output::shown,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Longest line of an answer, and how many of them.
const LINE_BYTES_MAX: u64 = 2048;
const LINES_MAX: usize = 100;
/// Bytes of a subject in one encoded word: 60 characters of base64 and the marks are less than its 75.
const WORD_BYTES_MAX: usize = 45;
/// Bytes of a line of the body; 76 characters.
const BODY_LINE_BYTES: usize = 57;
/// Of an answer that is shown.
const SAID_CHARS_MAX: usize = 300;

/// An answer: its code and its lines.
struct Answer {
    code: u16,
    lines: Vec<String>,
}

/// A connection to a server.
struct Session<S> {
    stream: BufReader<S>,
}

/// Sends it; what is to be said though it was taken.
pub async fn send(mail: &Mail, message: &Message) -> Result<Option<String>, String> {
    let login = match &mail.login {
        Some((user, file)) => Some((user.as_str(), send::password(file).await?)),
        None => None,
    };
    let login = login.as_ref().map(|(user, password)| (*user, password.as_str()));
    let stream = TcpStream::connect((mail.host.as_str(), mail.port)).await.map_err(|e| format!("{}:{}: {e}", mail.host, mail.port))?;
    let ca_file = mail.ca_file.as_deref();
    if mail.security == Security::Tls {
        let mut session = Session::new(tls::begin(stream, &mail.host, ca_file).await?);
        session.expect(None, 220).await?;
        let offers = session.hello(&message.host).await?;
        return session.deliver(mail, message, &offers, login).await;
    }
    let mut session = Session::new(stream);
    session.expect(None, 220).await?;
    let offers = session.hello(&message.host).await?;
    if mail.security == Security::None {
        return session.deliver(mail, message, &offers, login).await;
    }
    if !offers.iter().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
        return Err(format!("{} offers no STARTTLS, and nothing is sent without TLS; smtps:// may be what it wants", mail.host));
    }
    session.expect(Some("STARTTLS"), 220).await?;
    if !session.stream.buffer().is_empty() {
        return Err(format!("{} sent more than it should before TLS began; somebody may be between", mail.host));
    }
    let mut session = Session::new(tls::begin(session.stream.into_inner(), &mail.host, ca_file).await?);
    let offers = session.hello(&message.host).await?;
    session.deliver(mail, message, &offers, login).await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Says something, if there is something to say, and hears the answer.
    async fn ask(&mut self, line: Option<&str>) -> Result<Answer, String> {
        let fail = |e: std::io::Error| format!("the mail server's connection broke: {e}");
        if let Some(line) = line {
            self.stream.write_all(format!("{line}\r\n").as_bytes()).await.map_err(fail)?;
            self.stream.flush().await.map_err(fail)?;
        }
        let mut lines = Vec::new();
        loop {
            let mut bytes = Vec::new();
            (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).await.map_err(fail)?;
            let text = String::from_utf8_lossy(&bytes);
            let code = text.get(..3).and_then(|code| code.parse::<u16>().ok());
            let (Some(code), true) = (code, text.ends_with('\n') && lines.len() < LINES_MAX) else {
                return Err(if bytes.is_empty() { "the mail server closed the connection".into() } else { format!("this is no mail server: {}", said(&text)) });
            };
            lines.push(text.get(4..).unwrap_or_default().trim_end().to_owned());
            if text.as_bytes().get(3) != Some(&b'-') {
                return Ok(Answer { code, lines });
            }
        }
    }

    /// The same where there is one good answer. `what` is shown in place of a line that is a secret.
    async fn expect(&mut self, line: Option<&str>, code: u16) -> Result<Answer, String> {
        let answer = self.ask(line).await?;
        if answer.code == code { Ok(answer) } else { Err(refused(line.unwrap_or("the greeting"), &answer)) }
    }

    /// What the server offers.
    async fn hello(&mut self, host: &str) -> Result<Vec<String>, String> {
        let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        let answer = self.expect(Some(&format!("EHLO {}", if is_name { host } else { "localhost" })), 250).await?;
        Ok(answer.lines.into_iter().skip(1).collect())
    }

    async fn deliver(mut self, mail: &Mail, message: &Message, offers: &[String], login: Option<(&str, &str)>) -> Result<Option<String>, String> {
        if let Some((user, password)) = login {
            self.log_in(offers, user, password).await?;
        }
        self.expect(Some(&format!("MAIL FROM:<{}>", mail.from)), 250).await?;
        let mut refused_by = Vec::new();
        for to in &mail.to {
            let answer = self.ask(Some(&format!("RCPT TO:<{to}>"))).await?;
            if !matches!(answer.code, 250 | 251) {
                refused_by.push(refused(to, &answer));
            }
        }
        if refused_by.len() == mail.to.len() {
            return Err(format!("no recipient is taken: {}", refused_by.join("; ")));
        }
        self.expect(Some("DATA"), 354).await?;
        // The text ends with a line's end.
        self.expect(Some(&format!("{}.", text(mail, message))), 250).await.map_err(|e| cut_data(&e))?;
        // It is taken, however the connection ends.
        let _ = self.ask(Some("QUIT")).await;
        Ok((!refused_by.is_empty()).then(|| format!("some recipients are not taken: {}", refused_by.join("; "))))
    }

    async fn log_in(&mut self, offers: &[String], user: &str, password: &str) -> Result<(), String> {
        let ways: Vec<String> = offers.iter().filter_map(|o| o.to_ascii_uppercase().strip_prefix("AUTH ").map(str::to_owned)).collect();
        let offers = |way: &str| ways.iter().any(|line| line.split(' ').any(|one| one == way));
        let answer = if offers("PLAIN") {
            self.ask(Some(&format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{password}"))))).await?
        } else if offers("LOGIN") {
            self.expect(Some("AUTH LOGIN"), 334).await?;
            self.expect(Some(&STANDARD.encode(user)), 334).await.map_err(|_| "the mail server does not take the user".to_owned())?;
            self.ask(Some(&STANDARD.encode(password))).await?
        } else {
            return Err("the mail server offers no log in by a password (AUTH PLAIN or LOGIN)".into());
        };
        if answer.code == 235 { Ok(()) } else { Err(refused("user and password", &answer)) }
    }
}

/// What was refused, and in which words.
fn refused(what: &str, answer: &Answer) -> String {
    format!("the mail server refused {}: {} {}", said(what), answer.code, said(&answer.lines.join(" ")))
}

/// The message is not what was wrong with it.
fn cut_data(why: &str) -> String {
    format!(
        "the mail server did not take the message: {}",
        why.rsplit_once("refused ").and_then(|(_, rest)| rest.rsplit_once(": ")).map_or(why, |(_, said)| said)
    )
}

fn said(text: &str) -> String {
    shown(text.trim()).chars().take(SAID_CHARS_MAX).collect()
}

/// Headers and body, each line ended.
fn text(mail: &Mail, message: &Message) -> String {
    let made = i64::try_from(message.made_unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_string(&made).unwrap_or_default();
    let domain = mail.from.rsplit_once('@').map_or("localhost", |(_, domain)| domain);
    let mut out = String::new();
    for (name, value) in [
        ("Date", date),
        ("Message-ID", format!("<{}@{domain}>", message.id)),
        ("From", format!("Cairn <{}>", mail.from)),
        ("To", mail.to.join(", ")),
        ("Subject", encoded(&message.subject)),
        // No one who is on holiday answers (RFC 3834).
        ("Auto-Submitted", "auto-generated".into()),
        ("MIME-Version", "1.0".into()),
        ("Content-Type", "text/plain; charset=utf-8".into()),
        ("Content-Transfer-Encoding", "base64".into()),
    ] {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    message.text.replace('\n', "\r\n").as_bytes().chunks(BODY_LINE_BYTES).for_each(|line| out.push_str(&format!("{}\r\n", STANDARD.encode(line))));
    out
}

/// A header's text (RFC 2047): as it is where it can be, else in words of base64. A control character would be no text, and is none here.
fn encoded(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if text.is_ascii() && text.len() < 200 && !text.contains("=?") {
        return text;
    }
    let mut words = vec![String::new()];
    for c in text.chars() {
        match words.last_mut() {
            Some(word) if word.len() + c.len_utf8() <= WORD_BYTES_MAX => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_plain_or_encoded_and_never_more_than_one() {
        assert_eq!(encoded("[cairn] vm1: web is late"), "[cairn] vm1: web is late");
        assert_eq!(encoded("a\r\nBcc: x"), "aBcc: x");
        let long = encoded(&"ü=".repeat(200));
        let lines: Vec<&str> = long.split("\r\n").collect();
        assert!(lines.len() > 3 && lines.iter().all(|line| line.len() <= 76), "{long}");
        assert!(lines[1..].iter().all(|line| line.starts_with(" =?utf-8?B?")), "{long}");
        let decode = |line: &&str| STANDARD.decode(line.trim().trim_start_matches("=?utf-8?B?").trim_end_matches("?=")).expect("base64");
        assert_eq!(String::from_utf8(lines.iter().flat_map(decode).collect()).expect("text"), "ü=".repeat(200));
    }
}
