//! `cargo xtask`: everything one does with this repository, in one program that needs no system library.
//!
//! It must build on a machine that has cargo and a C compiler and nothing else: `setup` is what installs the rest.

mod ansible;
mod bench;
mod demo;
mod error;
mod gates;
mod lab;
mod licences;
mod package;
mod root;
mod say;
mod setup;
mod share;
mod tidy;
mod toolchain;
mod workspace;

use error::{Error, Result};
use say::say;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup                 install what is missing to build Cairn and to run its lab (Debian, as root)
  demo [--keep]         back up and restore a real guest, every byte compared
  test [-- ARGUMENTS]   all gates: format, lints, tidy, licences, documentation, every test
  test --root RELEASE [-- SUITES]
                        the suites of the lab with libvirt and QEMU of another Debian release, for instance trixie
  hook                  build cairn-hook as it is shipped, static; prints where it is and how large
  package [OPTIONS]     .deb, .rpm, checksums, signature, bundle for hosts without a network; --help tells the rest
  package --try RELEASE install, use, upgrade, remove and purge the .deb in a booted root of that Debian release
  ansible-try           Ansible's role on two booted hosts: twice, with --check, a domain's first backup, away again
  tidy                  the tidy check alone
  bench [OPTIONS]       Cairn beside the least work for its format, restic and borg; --help tells the rest
  lab [OPTIONS] -- COMMAND...
                        run a command beside a libvirt of its own with the guest lab1 in it
";

fn main() -> ExitCode {
    if let Some(code) = cairn_lab::roles::dispatch() {
        return code;
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {}", error.report());
            ExitCode::from(error.code())
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    match args.split_first() {
        Some((command, rest)) => match command.as_str() {
            "setup" => setup::main(rest),
            "lab" => lab::main(rest),
            "demo" => demo::main(rest),
            "bench" => bench::main(rest),
            "test" => gates::main(rest),
            "hook" => hook(rest),
            "package" => package::main(rest),
            "ansible-try" => ansible::main(rest),
            "tidy" => tidy::main(rest),
            demo::INSIDE => demo::inside(rest),
            "help" | "--help" | "-h" => {
                say!("{}", USAGE.trim_end());
                Ok(ExitCode::SUCCESS)
            }
            other => Err(Error::Usage(format!("there is no command {other:?}\n\n{USAGE}"))),
        },
        None => Err(Error::Usage(USAGE.to_owned())),
    }
}

fn hook(args: &[String]) -> Result<ExitCode> {
    if let Some(arg) = args.first() {
        return Err(Error::Usage(format!("hook takes no argument, and {arg:?} is one")));
    }
    let path = workspace::hook(true)?.ok_or_else(|| Error::failed("cargo built no cairn-hook"))?;
    let bytes = std::fs::metadata(&path).map_err(|e| Error::failed(format!("cannot look at {}: {e}", path.display())))?.len();
    say!("{} {bytes} bytes", path.display());
    Ok(ExitCode::SUCCESS)
}
