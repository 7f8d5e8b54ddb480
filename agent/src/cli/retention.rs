//! Options of what lets points go: `forget`, `prune`, `gc`.

use crate::commands::{parse_ms, parse_span};
use clap::Args;

/// `cairn forget`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn forget web1@2026-11-01T02:00
  cairn forget 019abc123456 --force
  cairn forget --undo 019abc123456      until its data is collected; a new point with the same content

Protected points are refused. The space is free after 'cairn gc'.")]
pub struct Forget {
    /// The points
    #[arg(value_name = "POINT", required_unless_present = "undo")]
    pub points: Vec<String>,
    /// Forget young points, those whose log cannot be read, and those whose register is damaged, too
    #[arg(long)]
    pub force: bool,
    /// Points younger than this need --force
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub min_age: u64,
    /// Take a forget back
    #[arg(long, value_name = "POINT", conflicts_with = "points")]
    pub undo: Option<String>,
}

/// `cairn prune`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn prune --keep-last 3 --keep-daily 7 --keep-weekly 4 --keep-monthly 12
  cairn prune web1 --keep-within 30d --keep-tag gold --dry-run
  cairn prune --keep-daily 7 --keep-monthly 12 --simulate 400d

A point stays if any rule wants it; --dry-run names the rules. Points are counted by name and host, and the newest good one of each stays anyhow. --keep-within looks back from the newest point.
Protected points stay. The space is free after 'cairn gc'.")]
pub struct Prune {
    /// Only points of these domains or images
    #[arg(value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// Only points that were taken on this host; may be repeated
    #[arg(long = "host", value_name = "HOST", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub hosts: Vec<String>,
    /// Only points of the domain with this UUID, whatever others have had its name; may be repeated
    #[arg(long = "uuid", value_name = "UUID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub uuids: Vec<String>,
    /// Pass over names that have no points
    #[arg(long)]
    pub ignore_missing: bool,
    /// Keep the newest N
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_last: u32,
    /// Keep the newest of each of the last N hours that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_hourly: u32,
    /// Keep the newest of each of the last N days that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_daily: u32,
    /// Keep the newest of each of the last N weeks that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_weekly: u32,
    /// Keep the newest of each of the last N months that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_monthly: u32,
    /// Keep the newest of each of the last N years that have points
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub keep_yearly: u32,
    /// Keep all that are at most so much older than the newest
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub keep_within: Option<jiff::Span>,
    /// Keep all with this tag; may be repeated
    #[arg(long, value_name = "TAG", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub keep_tag: Vec<String>,
    /// Never forget points younger than this
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_ms)]
    pub min_age: u64,
    /// Show what would be kept, and why
    #[arg(long)]
    pub dry_run: bool,
    /// Show how many points the rules would keep over so long a future
    #[arg(long, value_name = "TIME", value_parser = parse_ms, conflicts_with = "dry_run")]
    pub simulate: Option<u64>,
    /// Pace of the points that --simulate adds
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = parse_ms, requires = "simulate")]
    pub every: u64,
}

/// `cairn gc`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn gc --dry-run
  cairn gc
  cairn gc --keep-trash 0s --keep-interrupted 0s    the disk is full: free the space now

Backups, restores and other hosts may go on meanwhile. Backups that began before are waited for.")]
pub struct Gc {
    /// Show what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Longest wait for backups that began before
    #[arg(long, value_name = "TIME", default_value = "2h", value_parser = parse_ms)]
    pub wait: u64,
    /// A backup of another host without a sign of life for so long is taken for dead (at least 2h)
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub dead_after: u64,
    /// Any --dead-after, for tests: what is alive loses its work
    #[arg(long, hide = true)]
    pub even_if_alive: bool,
    /// Keep what interrupted backups stored for so long, so that they can go on
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_ms)]
    pub keep_interrupted: u64,
    /// Keep discarded packs in the trash for so long
    #[arg(long, value_name = "TIME", default_value = "3d", value_parser = parse_ms)]
    pub keep_trash: u64,
    /// Rewrite packs of which less than so many percent are used (0: none)
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub repack_below: u8,
    /// Go on although live points refer to what is lost
    #[arg(long)]
    pub accept_loss: bool,
}
