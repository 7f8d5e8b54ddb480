//! `cairn policy`

use clap::{ArgGroup, Args, Subcommand};

/// `cairn policy`
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// List all policies
    List,
    /// Show one policy: what it says, and when it is due next
    Show(PolicyName),
    /// Check the configuration, and which domains of this host each policy takes
    #[command(after_help = "Domains that no policy takes end in exit code 3, a configuration that is wrong in 2.")]
    Check,
    /// Write a new policy into the configuration
    #[command(after_help = "Examples:
  cairn policy create nightly --name 'prod-*' --to main --schedule '0 2 * * *' --keep-daily 7 --keep-weekly 4
  cairn policy create rest --default --to main --schedule @daily --jitter 2h --window 22:00-06:00
  cairn policy create off --name '*' --to main --on shutdown --dry-run

All else of the file stays as it is, and the daemon takes the new one after 'cairn daemon --reload'. docs/policies.md has all keys.")]
    Create(Box<PolicyCreate>),
    /// Take a policy out of the configuration; its points stay
    Delete(PolicyName),
}

/// One of them.
#[derive(Args, Debug)]
pub struct PolicyName {
    /// Name of the policy
    #[arg(value_name = "POLICY")]
    pub name: String,
}

/// `cairn policy create`
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("selection").required(true).multiple(true).args(["names", "tags", "default"])))]
pub struct PolicyCreate {
    /// Name of the policy
    #[arg(value_name = "POLICY")]
    pub policy: String,
    /// Pattern of domains' names; may be repeated
    #[arg(long = "name", value_name = "PATTERN")]
    pub names: Vec<String>,
    /// Tag in domains' metadata; may be repeated
    #[arg(long = "domain-tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Take the domains that no other policy takes
    #[arg(long)]
    pub default: bool,
    /// Pattern of names that are left out; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub except: Vec<String>,
    /// Name of a store; may be repeated
    #[arg(long = "to", value_name = "STORE", required = true)]
    pub stores: Vec<String>,
    /// When, as cron has it; may be repeated
    #[arg(long, value_name = "CRON")]
    pub schedule: Vec<String>,
    /// Time zone of schedule and window
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Spread the domains over so long a time
    #[arg(long, value_name = "TIME")]
    pub jitter: Option<String>,
    /// Nothing begins outside of these hours
    #[arg(long, value_name = "HH:MM-HH:MM")]
    pub window: Option<String>,
    /// Event that makes a point (shutdown, started); may be repeated
    #[arg(long, value_name = "EVENT")]
    pub on: Vec<String>,
    /// How old the newest point may get
    #[arg(long, value_name = "TIME")]
    pub rpo: Option<String>,
    /// Keep the newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep the newest of each of the last N hours that have points
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// Keep the newest of each of the last N days that have points
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// Keep the newest of each of the last N weeks that have points
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// Keep the newest of each of the last N months that have points
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// Keep the newest of each of the last N years that have points
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Read so many percent of each store's data a day
    #[arg(long, value_name = "PERCENT")]
    pub verify_percent: Option<u32>,
    /// Show the new file, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}
