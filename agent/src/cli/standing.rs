//! `cairn status`, `cairn watch`, `cairn check`

use super::SocketPlace;
use clap::Args;

/// `cairn status`
#[derive(Args, Debug)]
#[command(
    after_help = "Nothing is changed by it, and it never hangs: what does not answer within its limit is told as such. Stores are those of the configuration, and --store.

Ends with 0 if all is well, with 3 if something wants a look: a point that is older than its policy allows, a domain that no policy takes, a store that does \
not answer or has little space, a daemon that is missed or complains."
)]
pub struct Status {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
}

/// `cairn watch`
#[derive(Args, Debug)]
#[command(after_help = "Ctrl-C ends it.")]
pub struct Watch {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub every: u64,
}

/// `cairn check`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn check
  cairn check --policy nightly --policy gold
  command[cairn]=/usr/bin/sudo /usr/bin/cairn check          # nrpe.cfg

Exit codes are those of Nagios' plugins, and no others: 0 all is well; 1 WARNING: a domain that no policy takes, little space, a daemon that complains; \
2 CRITICAL: a point older than its policy's rpo, or none, no space, no daemon; 3 UNKNOWN: it could not look. It takes up to a minute where something hangs.")]
pub struct Check {
    /// Where the daemon listens.
    #[command(flatten)]
    pub place: SocketPlace,
    /// Only this policy's domains and stores (repeat for more)
    #[arg(long, value_name = "NAME")]
    pub policy: Vec<String>,
    /// Domains that no policy takes are well
    #[arg(long)]
    pub unprotected_ok: bool,
}
