//! Options of what shows points and says something of them: `list`, `show`, `tag`, `note`, `protect`, `unprotect`.

use clap::Args;
use std::path::PathBuf;

const POINTS: &str =
    "A POINT is NAME@latest, NAME@-1 (the one before), NAME@2026-11-21T02:00 (newest not after), NAME@ID-PREFIX, or an id prefix of 8 or more digits.";

/// `cairn list`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cairn list\n  cairn list web1 --json")]
pub struct List {
    /// Only points of this domain or image
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Show forgotten points that may still be taken back
    #[arg(long)]
    pub forgotten: bool,
    /// Show what each point would free if it alone were forgotten
    #[arg(long, conflicts_with = "forgotten")]
    pub sizes: bool,
}

/// `cairn show`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Show {
    /// The point
    pub point: String,
    /// Show what it would free if it alone, or its name as a whole, were forgotten
    #[arg(long)]
    pub sizes: bool,
    /// Write the picture of its newest boot proof that has one to this file, PNG
    #[arg(long, value_name = "FILE")]
    pub screenshot: Option<PathBuf>,
    /// Print the end of what the guest's console said at its newest boot proof
    #[arg(long)]
    pub console: bool,
}

/// `cairn tag`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Tag {
    /// The point
    pub point: String,
    /// Tags to add
    #[arg(required_unless_present = "remove")]
    pub tags: Vec<String>,
    /// Tag to remove; may be repeated
    #[arg(long, value_name = "TAG")]
    pub remove: Vec<String>,
}

/// `cairn note`
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct Note {
    /// The point
    pub point: String,
    /// The note; empty to remove it
    pub text: String,
}

/// Commands about one point.
#[derive(Args, Debug)]
#[command(after_help = POINTS)]
pub struct OnePoint {
    /// The point
    pub point: String,
}
