//! `cairn alert`

use super::SocketPlace;
use clap::{Args, Subcommand};

/// `cairn alert`
#[derive(Subcommand, Debug)]
pub enum AlertCommand {
    /// List what is wrong, since when, and who was told
    List(AlertList),
    /// Send a test message, and say whether it arrived
    #[command(after_help = "The daemon sends it, as it sends all others. Ends with 0 if every target took its message, with 1 if one did not.")]
    Test(AlertTest),
    /// Tell nobody of one cause for a while
    #[command(after_help = "Examples:
  cairn alert silence store-space:main --for 4h
  cairn alert silence store-space:main --for 0s        # ends it

It ends by itself when the cause is gone.")]
    Silence(AlertSilence),
}

/// `cairn alert list`
#[derive(Args, Debug)]
pub struct AlertList {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
}

/// `cairn alert test`
#[derive(Args, Debug)]
pub struct AlertTest {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Name of a target below alerts: (default: all of them)
    #[arg(value_name = "TARGET")]
    pub target: Option<String>,
}

/// `cairn alert silence`
#[derive(Args, Debug)]
pub struct AlertSilence {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Key of the cause, as in 'cairn alert list'
    #[arg(value_name = "KEY")]
    pub key: String,
    /// For how long, as 30m, 4h or 7d; 0s ends it
    #[arg(long = "for", value_name = "TIME", value_parser = crate::commands::parse_ms)]
    pub for_ms: u64,
}
