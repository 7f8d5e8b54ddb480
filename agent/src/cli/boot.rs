//! Options of `cairn verify --boot`.

use super::run::parse_memory;
use crate::commands::parse_ms;
use cairn_store::format::boot_proof::BootLevel;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// How a boot proof is made.
#[derive(Args, Debug)]
pub struct Boot {
    /// Boot the points in isolation, one after the other, and record what came of it: of a name its latest point
    #[arg(long, conflicts_with_all = ["data", "packs", "percent", "rate", "against_disk"])]
    pub boot: bool,
    /// For a guest to come up
    #[arg(long, value_name = "TIME", value_parser = parse_ms, default_value = "5m", requires = "boot")]
    pub boot_timeout: u64,
    /// How far it has to come (default: agent, for a domain with a channel for one; else screen)
    #[arg(long, value_enum, value_name = "LEVEL", requires = "boot")]
    pub boot_level: Option<LevelChoice>,
    /// Command line for the guest's shell, run by its agent; it has to end in 0
    #[arg(long, value_name = "CMD", requires = "boot")]
    pub boot_exec: Option<String>,
    /// Program on this host, told of the guest by CAIRN_BOOT_DOMAIN, _UUID, _URI, _POINT and _NAME; it has to end in 0
    #[arg(long, value_name = "FILE", requires = "boot")]
    pub boot_script: Option<PathBuf>,
    /// For --boot-exec and --boot-script, each
    #[arg(long, value_name = "TIME", value_parser = parse_ms, default_value = "5m", requires = "boot")]
    pub boot_script_timeout: u64,
    /// Memory of the guest other than the saved
    #[arg(long, value_name = "BYTES", value_parser = parse_memory, requires = "boot")]
    pub memory: Option<u64>,
    /// Folder for what the guest writes meanwhile (default: /var/lib/libvirt/images)
    #[arg(long, value_name = "DIR", conflicts_with = "pool", requires = "boot")]
    pub dir: Option<PathBuf>,
    /// Storage pool for what the guest writes meanwhile
    #[arg(long, value_name = "POOL", requires = "boot")]
    pub pool: Option<String>,
}

/// How far a guest has to come.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LevelChoice {
    /// Its guest agent answers
    Agent,
    /// It reads a system from its disks, and its screen changes or its console speaks
    Screen,
    /// It runs steadily
    Started,
}

impl From<LevelChoice> for BootLevel {
    fn from(choice: LevelChoice) -> Self {
        match choice {
            LevelChoice::Agent => Self::Agent,
            LevelChoice::Screen => Self::Screen,
            LevelChoice::Started => Self::Started,
        }
    }
}
