//! Targets of alerts as the grammar has them.

use crate::alerts::Severity;
use serde::Deserialize;
use serde_saphyr::Spanned;
use std::path::PathBuf;

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTarget {
    #[serde(default)]
    pub mail: Option<RawMail>,
    #[serde(default)]
    pub command: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    pub webhook: Option<RawWebhook>,
    #[serde(default, rename = "match")]
    pub matching: Option<RawMatch>,
    #[serde(default)]
    pub repeat: Option<Spanned<String>>,
    #[serde(default)]
    pub resolved: Option<bool>,
    #[serde(default)]
    pub pause: Option<Spanned<String>>,
}

/// Mail.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMail {
    pub to: Spanned<Vec<Spanned<String>>>,
    pub from: Spanned<String>,
    pub server: Spanned<String>,
    #[serde(default)]
    pub user: Option<Spanned<String>>,
    #[serde(default)]
    pub password_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub ca_file: Option<Spanned<PathBuf>>,
}

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWebhook {
    pub url: Spanned<String>,
    #[serde(default)]
    pub headers_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub ca_file: Option<Spanned<PathBuf>>,
}

/// What is told.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMatch {
    #[serde(default)]
    pub kinds: Vec<Spanned<String>>,
    #[serde(default)]
    pub domains: Vec<Spanned<String>>,
    #[serde(default)]
    pub policies: Vec<Spanned<String>>,
    #[serde(default)]
    pub stores: Vec<Spanned<String>>,
    #[serde(default)]
    pub severity: Option<Severity>,
}
