//! Who is told what is wrong, and how (docs/alerts.md).

use super::{
    check::Check,
    raw_alert::{RawMail, RawMatch, RawTarget, RawWebhook},
    words,
};
use crate::alerts::{Cause, Kind, Severity};
use serde_saphyr::Spanned;
use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

/// Between two messages of one cause that comes and goes.
const PAUSE_DEFAULT: Duration = Duration::from_secs(3600);
const PAUSE_S: RangeInclusive<u64> = 1..=7 * 86_400;
/// More often is no reminder.
const REPEAT_S: RangeInclusive<u64> = 60..=366 * 86_400;
/// Recipients of one message.
const TO_MAX: usize = 32;

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertTarget {
    /// How.
    pub way: Way,
    /// What.
    pub wanted: Wanted,
    /// Told again so often while it lasts; none is never.
    pub repeat: Option<Duration>,
    /// Told when it is over, too.
    pub resolved: bool,
    /// At most so often of one cause that comes and goes.
    pub pause: Duration,
}

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By mail.
    Mail(Mail),
    /// By a program of the site's, and its arguments.
    Command(Vec<String>),
    /// By a request.
    Webhook(Webhook),
}

/// Mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Recipients.
    pub to: Vec<String>,
    /// Sender.
    pub from: String,
    /// How the server is spoken to.
    pub security: Security,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who logs in, and the file whose first line is the password.
    pub login: Option<(String, PathBuf)>,
    /// Certificates that are trusted in the place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// When TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Never.
    None,
    /// Before anything is said but the greeting.
    StartTls,
    /// With the connection.
    Tls,
}

/// A request to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// https, or http.
    pub is_tls: bool,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// File with headers, a line for each: a token's place.
    pub headers_file: Option<PathBuf>,
    /// Certificates that are trusted in the place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// What a target is told; what is empty limits nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wanted {
    /// Kinds.
    pub kinds: Vec<Kind>,
    /// Patterns of domains' names.
    pub domains: Vec<glob::Pattern>,
    /// Names of policies.
    pub policies: Vec<String>,
    /// Names of stores.
    pub stores: Vec<String>,
    /// This bad, or worse.
    pub severity: Option<Severity>,
}

impl AlertTarget {
    /// Whether it is to be told. What is of no domain, policy or store is not of those that are named.
    pub fn matches(&self, cause: &Cause) -> bool {
        let wanted = &self.wanted;
        let has = |limit: &[String], of: &[String]| limit.is_empty() || of.iter().any(|one| limit.contains(one));
        (wanted.kinds.is_empty() || wanted.kinds.contains(&cause.kind))
            && wanted.severity.is_none_or(|least| cause.severity >= least)
            && (wanted.domains.is_empty() || cause.domain.as_ref().is_some_and(|name| wanted.domains.iter().any(|p| p.matches(name))))
            && has(&wanted.policies, &cause.policies)
            && has(&wanted.stores, cause.store.as_slice())
    }

    /// In a word.
    pub fn way_word(&self) -> &'static str {
        match self.way {
            Way::Mail(_) => "mail",
            Way::Command(_) => "command",
            Way::Webhook(_) => "webhook",
        }
    }
}

/// A URL's parts: scheme, host, port, path with query.
type Url = (String, String, Option<u16>, String);

impl Check {
    /// `known`: names of policies and of stores.
    pub(super) fn alert(&mut self, name: &str, target: Spanned<RawTarget>, known: (&[&str], &[&str])) -> Option<AlertTarget> {
        self.name("target of alerts", name, target.referenced);
        let (at, raw) = (target.referenced, target.value);
        let given = [raw.mail.is_some(), raw.command.is_some(), raw.webhook.is_some()].into_iter().filter(|is| *is).count();
        if given == 0 {
            self.lacks(&["alerts", name], at, format!("target {name:?} of alerts has no way to be told; give one of mail, command and webhook"));
        } else if given != 1 {
            self.wrong(at, format!("target {name:?} of alerts has {given} ways to be told; give one of mail, command and webhook"));
        }
        let wanted = raw.matching.map(|m| self.wanted(m, known)).unwrap_or_default();
        let repeat = raw.repeat.map(|text| Duration::from_secs(self.seconds("repeat", &text, REPEAT_S)));
        let pause = raw.pause.map_or(PAUSE_DEFAULT, |text| Duration::from_secs(self.seconds("pause", &text, PAUSE_S)));
        let way = match (raw.mail, raw.command, raw.webhook) {
            (Some(mail), ..) => Way::Mail(self.mail(mail)?),
            (_, Some(command), _) => Way::Command(self.command(&command)?),
            (.., Some(webhook)) => Way::Webhook(self.webhook(webhook)?),
            (None, None, None) => return None,
        };
        Some(AlertTarget { way, wanted, repeat, resolved: raw.resolved.unwrap_or(false), pause })
    }

    fn wanted(&mut self, raw: RawMatch, (policies, stores): (&[&str], &[&str])) -> Wanted {
        let mut kinds = Vec::new();
        for kind in raw.kinds {
            match Kind::ALL.into_iter().find(|k| k.word() == kind.value) {
                Some(kind) => kinds.push(kind),
                None => {
                    let all = Kind::ALL.map(Kind::word);
                    let meant = words::did_you_mean(&kind.value, all.into_iter());
                    self.wrong(kind.referenced, format!("{:?} is no kind of alert{meant}; there are: {}", kind.value, all.join(", ")));
                }
            }
        }
        let policies = self.known("policy", raw.policies, policies);
        let stores = self.known("store", raw.stores, stores);
        Wanted { kinds, domains: self.patterns(raw.domains), policies, stores, severity: raw.severity }
    }

    fn known(&mut self, what: &str, names: Vec<Spanned<String>>, known: &[&str]) -> Vec<String> {
        for name in names.iter().filter(|name| !known.contains(&name.value.as_str())) {
            let meant = words::did_you_mean(&name.value, known.iter().copied());
            self.wrong(name.referenced, format!("there is no {what} {:?}{meant}; nobody would ever be told", name.value));
        }
        names.into_iter().map(|name| name.value).collect()
    }

    fn command(&mut self, command: &Spanned<Vec<Spanned<String>>>) -> Option<Vec<String>> {
        let Some(program) = command.value.first() else {
            self.wrong(command.referenced, "command is empty; write the program's absolute path and its arguments: [/usr/local/bin/page, --now]");
            return None;
        };
        self.program_at("command", program.value.as_ref(), program.referenced);
        if let Some(arg) = command.value.iter().find(|arg| arg.value.contains('\0')) {
            self.wrong(arg.referenced, "an argument cannot have a zero byte");
        }
        Some(command.value.iter().map(|arg| arg.value.clone()).collect())
    }

    fn mail(&mut self, raw: RawMail) -> Option<Mail> {
        if raw.to.value.is_empty() || raw.to.value.len() > TO_MAX {
            self.wrong(raw.to.referenced, format!("a mail has 1 to {TO_MAX} recipients, this one {}", raw.to.value.len()));
        }
        raw.to.value.iter().chain([&raw.from]).for_each(|address| self.address(address));
        let (scheme, host, port, path) = self.url(&raw.server)?;
        let (security, usual) = match scheme.as_str() {
            "smtp" => (Security::None, 25),
            "starttls" => (Security::StartTls, 587),
            "smtps" => (Security::Tls, 465),
            _ => {
                self.wrong(raw.server.referenced, format!("server: {scheme} is not known; write smtp://HOST (no TLS), starttls://HOST or smtps://HOST"));
                return None;
            }
        };
        if path != "/" {
            self.wrong(raw.server.referenced, "server: nothing stands behind host and port");
        }
        let is_local = ["localhost", "127.0.0.1", "::1"].contains(&host.as_str());
        let at = raw.server.referenced;
        let login = match (raw.user, raw.password_file) {
            (Some(user), Some(file)) => {
                if security == Security::None && !is_local {
                    self.wrong(at, "a password would go over the network for all to read; write starttls:// or smtps://");
                }
                self.absolute(Some(file)).map(|file| (user.value, file))
            }
            (Some(one), None) => {
                self.wrong(one.referenced, "user needs a password_file: a file of root's, mode 0600, with the password in its first line");
                None
            }
            (None, Some(one)) => {
                self.wrong(one.referenced, "password_file needs a user");
                None
            }
            (None, None) => None,
        };
        let ca_file = self.absolute(raw.ca_file);
        Some(Mail {
            to: raw.to.value.into_iter().map(|to| to.value).collect(),
            from: raw.from.value,
            security,
            host,
            port: port.unwrap_or(usual),
            login,
            ca_file,
        })
    }

    fn webhook(&mut self, raw: RawWebhook) -> Option<Webhook> {
        let (scheme, host, port, path) = self.url(&raw.url)?;
        let is_tls = match scheme.as_str() {
            "https" => true,
            "http" => false,
            _ => {
                self.wrong(raw.url.referenced, format!("url: {scheme} is not known; write https://HOST/PATH"));
                return None;
            }
        };
        let usual = if is_tls { 443 } else { 80 };
        Some(Webhook { is_tls, host, port: port.unwrap_or(usual), path, headers_file: self.absolute(raw.headers_file), ca_file: self.absolute(raw.ca_file) })
    }

    /// Of a mail: nothing that means something in a header or a command of the protocol.
    fn address(&mut self, address: &Spanned<String>) {
        let text = &address.value;
        let fits = |c: char| c.is_ascii_graphic() && !"<>()[],;:\\\"".contains(c);
        if text.is_empty()
            || text.len() > 254
            || text.starts_with(['-', '@'])
            || text.ends_with('@')
            || !text.chars().all(fits)
            || text.matches('@').count() > 1
        {
            self.wrong(address.referenced, format!("{text:?} is no address of mail; write it bare, as ops@example.net"));
        }
    }

    fn url(&mut self, text: &Spanned<String>) -> Option<Url> {
        let found = parts(&text.value);
        if found.is_none() {
            self.wrong(
                text.referenced,
                format!("{:?} cannot be used: write SCHEME://HOST, with :PORT and a path where they are wanted, and no name and password", text.value),
            );
        }
        found
    }
}

fn parts(url: &str) -> Option<Url> {
    let (scheme, rest) = url.split_once("://")?;
    if !rest.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        return None;
    }
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(at);
    let (host, port) = match place.strip_prefix('[') {
        Some(six) => {
            let (host, port) = six.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) && !host.starts_with('-');
    let port = if port.is_empty() { None } else { Some(port.parse::<u16>().ok().filter(|port| *port > 0)?) };
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    is_host.then(|| (scheme.to_owned(), host.to_owned(), port, path))
}

#[cfg(test)]
#[path = "alert_tests.rs"]
mod tests;
