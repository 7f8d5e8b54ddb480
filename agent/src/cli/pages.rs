//! `cairn completions`, `cairn man`

use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// `cairn completions`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn completions bash > /etc/bash_completion.d/cairn
  cairn completions zsh > /usr/local/share/zsh/site-functions/_cairn
  cairn completions fish > ~/.config/fish/completions/cairn.fish

Packages of Cairn have them in place.")]
pub struct Completions {
    /// For which shell
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: ShellName,
}

/// Shells that completions are made for.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShellName {
    /// bash, with the package bash-completion
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// `cairn man`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  cairn man | man -l -
  cairn man /usr/local/share/man/man1

Without a folder, the page of cairn itself goes to stdout. Pages of that name which are in the folder are replaced. Packages of Cairn have them in place.")]
pub struct Man {
    /// Folder for the pages of all commands; made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}
