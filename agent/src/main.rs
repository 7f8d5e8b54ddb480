//! `cairn`: the command line of Cairn.
//!
//! Arguments are parsed once (`cli`), a command runs (`commands`), its outcome becomes an exit code ([`failure`]). Scripts rely on the
//! codes and on `--json`; both are described in docs/command-line.md.

// First: its macros are what all others print with.
#[macro_use]
mod output;

mod alerts;
mod apparmor;
mod boot_proof;
mod changed_list;
mod cli;
mod commands;
mod config;
mod context;
mod daemon;
mod doctor;
mod domain;
mod failure;
mod give_way;
mod hook;
mod in_place;
mod interrupt;
mod jobs;
mod logging;
mod own;
mod point_export;
mod points;
mod read_limit;
mod recover_host;
mod restore;
mod retention;
mod run;
mod schedule;
mod standing;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A parent that blocks signals must not make us, or the programs we start, deaf to SIGTERM and Ctrl-C.
    // That fails for no mask that exists; and if it did, signals would be as the parent left them.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
    let args = match cli::Cli::parse_given() {
        Ok(args) => args,
        Err(e) => {
            if !e.use_stderr() {
                out!("{}", e.render().to_string().trim_end());
                return heard(ExitCode::SUCCESS, false);
            }
            // 2 means that a promise is broken there.
            if is_check(std::env::args_os().skip(1)) {
                let said = standing::plugin::unknown(e.render().to_string().trim());
                out!("{}", said.text);
                return ExitCode::from(said.state.code());
            }
            if wants_json(std::env::args_os()) {
                failure::Failure::usage(e.render().to_string().trim().trim_start_matches("error: ")).print(true);
            } else {
                // A terminal that is gone reads nothing more.
                let _ = e.print();
            }
            return ExitCode::from(failure::USAGE);
        }
    };
    logging::start(args.common.verbose);
    let json = args.common.json;
    match commands::run(args) {
        Ok(commands::Done::Clean) => heard(ExitCode::SUCCESS, json),
        // What these codes say matters more than that nobody could read of it, which is said all the same.
        Ok(commands::Done::WithWarnings) => {
            heard(ExitCode::SUCCESS, json);
            ExitCode::from(failure::WARNINGS)
        }
        Ok(commands::Done::Code(code)) => {
            heard(ExitCode::SUCCESS, json);
            ExitCode::from(code)
        }
        Err(f) => {
            f.print(json);
            ExitCode::from(f.code)
        }
    }
}

/// A command that did all it should, but could not say so, has failed for who relies on what it says.
fn heard(code: ExitCode, json: bool) -> ExitCode {
    match output::was_heard() {
        Ok(()) => code,
        Err(f) => {
            f.print(json);
            ExitCode::from(f.code)
        }
    }
}

/// Whether the command is `check`, among arguments that could not be parsed: the first that is no option and no option's value.
fn is_check(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    const WITH_VALUE: [&str; 7] = ["-c", "--connect", "--store", "--config", "--key-file", "--passphrase-file", "--state-dir"];
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        if !text.starts_with('-') {
            return text == "check";
        }
        if WITH_VALUE.contains(&&*text) {
            args.next();
        }
    }
    false
}

/// Whether `--json` is among arguments that could not be parsed; after `--` it is no option.
fn wants_json(args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.take_while(|a| a != "--").any(|a| a == "--json")
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
