//! `cairn`: the command line of Cairn.
//!
//! Arguments are parsed once (`cli`), a command runs (`commands`), its outcome becomes an exit code ([`failure`]). Scripts rely on the
//! codes and on `--json`; both are described in docs/command-line.md.

mod cli;
mod commands;
mod context;
mod domain;
mod failure;
mod interrupt;
mod output;
mod points;
mod restore;
mod retention;
mod run;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A closed pipe (`cairn list | head`) ends the program quietly, as it does with every other tool.
    // SAFETY: setting a signal's default disposition before any thread exists.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
    // A parent that blocks signals must not make us, or the programs we start, deaf to SIGTERM and Ctrl-C.
    // That fails for no mask that exists; and if it did, signals would be as the parent left them.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
    let args = match cli::Cli::try_parse() {
        Ok(args) => args,
        Err(e) => {
            if !e.use_stderr() {
                // Help or version; nothing is left to do where the terminal is gone.
                let _ = e.print();
                return ExitCode::SUCCESS;
            }
            if wants_json(std::env::args_os()) {
                failure::Failure::usage(e.render().to_string().trim().trim_start_matches("error: ")).print(true);
            } else {
                // As above.
                let _ = e.print();
            }
            return ExitCode::from(failure::USAGE);
        }
    };
    start_log(args.common.verbose);
    let json = args.common.json;
    match commands::run(args) {
        Ok(commands::Done::Clean) => ExitCode::SUCCESS,
        Ok(commands::Done::WithWarnings) => ExitCode::from(failure::WARNINGS),
        Ok(commands::Done::Code(code)) => ExitCode::from(code),
        Err(f) => {
            f.print(json);
            ExitCode::from(f.code)
        }
    }
}

/// Whether `--json` is among arguments that could not be parsed; after `--` it is no option.
fn wants_json(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.take_while(|a| a != "--").any(|a| a == "--json")
}

/// Log lines go to stderr: warnings by default, more with `-v`, or as `CAIRN_LOG` says.
fn start_log(verbose: u8) {
    let default = ["warn", "info", "debug", "trace"][usize::from(verbose.min(3))];
    let filter = tracing_subscriber::EnvFilter::try_from_env("CAIRN_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).without_time().with_ansi(false).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_seen_among_wrong_arguments() {
        let wants = |line: &str| wants_json(line.split(' ').map(Into::into));
        assert!(wants("cairn frobnicate --json") && wants("cairn --json backup --nonsense"));
        assert!(!wants("cairn frobnicate") && !wants("cairn list -- --json"));
    }
}
