//! Targets of alerts as the grammar has them; docs/configuration.md is made of it, as of [`super::raw`].

use crate::alerts::Severity;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::path::PathBuf;

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    /// Mail to these people. Each target has one of `mail`, `webhook` and `command`.
    /// - type: keys
    /// - default: none
    /// - example: `{ to: [root@example.net], from: cairn@example.net, server: "smtp://localhost" }`
    #[serde(default)]
    pub mail: Option<RawMail>,
    /// A program by its absolute path, and arguments.
    /// - type: list
    /// - default: none
    /// - example: `[/bin/true, --page]`
    #[serde(default)]
    pub command: Option<Spanned<Vec<Spanned<String>>>>,
    /// A POST with the JSON of the message.
    /// - type: keys
    /// - default: none
    /// - example: `{ url: "https://hooks.example.net/cairn" }`
    #[serde(default)]
    pub webhook: Option<RawWebhook>,
    /// What this target is told; all parts must fit.
    /// - type: keys
    /// - default: all
    /// - example: `{ severity: critical }`
    #[serde(default, rename = "match")]
    pub matching: Option<RawMatch>,
    /// Told again so often while it lasts.
    /// - type: time, 1 m to 366 d
    /// - default: never
    /// - example: `24h`
    #[serde(default)]
    pub repeat: Option<Spanned<String>>,
    /// Told when it is over, too.
    /// - type: `true`, `false`
    /// - default: `false`
    /// - example: `true`
    #[serde(default)]
    pub resolved: Option<bool>,
    /// Of one cause that comes and goes one message in so long a time.
    /// - type: time, 1 s to 7 d
    /// - default: 1h
    /// - example: `30m`
    #[serde(default)]
    pub pause: Option<Spanned<String>>,
}

/// Mail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMail {
    /// Recipients, bare addresses; 32 at most.
    /// - type: list
    /// - default: none: it must be given
    /// - example: `[root@example.net, admin@example.net]`
    pub to: Spanned<Vec<Spanned<String>>>,
    /// The sender's address.
    /// - type: text
    /// - default: none: it must be given
    /// - example: `cairn@example.net`
    pub from: Spanned<String>,
    /// `smtp://`, `starttls://` or `smtps://` and the host; `starttls` sends nothing without TLS.
    /// - type: URL
    /// - default: none: it must be given; ports 25, 587, 465
    /// - example: `"smtps://mail.example.net"`
    pub server: Spanned<String>,
    /// Name to log in with. Not over `smtp://`, but to this host itself.
    /// - type: text
    /// - default: none
    /// - example: `cairn`
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    /// File whose first line is the password, 0600.
    /// - type: path
    /// - default: none
    /// - example: `/etc/cairn/mail.password`
    #[serde(default)]
    pub password_file: Option<Spanned<PathBuf>>,
    /// Certificates that are trusted in the place of the system's. TLS is always verified.
    /// - type: path
    /// - default: the system's
    /// - example: `/etc/cairn/ca.pem`
    #[serde(default)]
    pub ca_file: Option<Spanned<PathBuf>>,
}

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    /// Where it is sent; delivered is what is answered with 2xx, redirects are not followed.
    /// - type: URL
    /// - default: none: it must be given
    /// - example: `"https://hooks.example.net/cairn"`
    pub url: Spanned<String>,
    /// File with `Name: value` on each line, 0600; a token belongs here.
    /// - type: path
    /// - default: none
    /// - example: `/etc/cairn/hook.headers`
    #[serde(default)]
    pub headers_file: Option<Spanned<PathBuf>>,
    /// Certificates that are trusted in the place of the system's. TLS is always verified.
    /// - type: path
    /// - default: the system's
    /// - example: `/etc/cairn/ca.pem`
    #[serde(default)]
    pub ca_file: Option<Spanned<PathBuf>>,
}

/// What is told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMatch {
    /// Kinds of causes ([alerts.md](alerts.md#kinds)).
    /// - type: list
    /// - default: all
    /// - example: `[job-failed, rpo]`
    #[serde(default)]
    pub kinds: Vec<Spanned<String>>,
    /// Patterns of domains' names; what is of no domain is not among them.
    /// - type: list
    /// - default: all
    /// - example: `["prod-*"]`
    #[serde(default)]
    pub domains: Vec<Spanned<String>>,
    /// Names of policies; what is of none is not among them.
    /// - type: list
    /// - default: all
    /// - example: `[all]`
    #[serde(default)]
    pub policies: Vec<Spanned<String>>,
    /// Names of stores; what is of none is not among them.
    /// - type: list
    /// - default: all
    /// - example: `[main]`
    #[serde(default)]
    pub stores: Vec<Spanned<String>>,
    /// From here on: `warning`, or `critical` alone.
    /// - type: word
    /// - default: `warning`
    /// - example: `critical`
    #[serde(default)]
    pub severity: Option<Severity>,
}
