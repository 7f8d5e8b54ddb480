//! `cairn reconcile`

use clap::Args;

/// `cairn reconcile`
#[derive(Args, Debug)]
#[command(after_help = "The daemon does the same every few minutes and after events; this is for hosts without one. Stores are those of \
/etc/cairn/cairn.yaml, and --store. What a store that does not answer would have to decide is left as it is. Domains that were never backed up are \
left alone unless they are named.

Ends with 0 if all is as it should be now, with 3 if something could not be removed or a store did not answer, with 11 if a domain that was named is \
busy.")]
pub struct Reconcile {
    /// Domains, by name or UUID (default: all)
    #[arg(value_name = "DOMAIN")]
    pub domains: Vec<String>,
    /// Stores come on standard input, from the daemon; names are no reason to look at a domain that was never backed up
    #[arg(long, hide = true)]
    pub from_daemon: bool,
}
