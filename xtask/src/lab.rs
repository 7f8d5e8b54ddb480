//! `cargo xtask lab -- COMMAND...`: any command inside a lab.

use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace;
use cairn_lab::lab::{CAIRN_VARIABLE, HOOK_VARIABLE};
use cairn_lab::{Entry, Options};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask lab [OPTIONS] -- COMMAND...

Runs COMMAND in a private namespace with a libvirt of its own and the running domain lab1, ends with its exit
code, and leaves nothing behind. COMMAND finds LIBVIRT_DEFAULT_URI, LAB_DIR (a folder QEMU's user may write),
CAIRN (the debug build) and CAIRN_HOOK (libvirt's hook) in its environment. 70: the lab did not come up.

  --no-guest      do not start lab1
  --debian        start the Debian guest deb1 as well; its image is made on first use, in some minutes
  --no-build      do not build the program first
  --quiet         no progress lines
  --base DIR      make the lab below DIR (default: CAIRN_LAB_BASE, else /var/tmp)
  --vda MIB       size of vda, qcow2, mounted at /mnt/a (default 512)
  --vdb MIB       size of vdb, raw, mounted at /mnt/b (default 512)
  --data MIB      files of this host on vda (default 192)
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    options: Options,
    build: bool,
    command: Vec<String>,
}

/// The command; gives the exit code of what ran in the lab.
pub fn main(args: &[String]) -> Result<ExitCode> {
    if args.first().is_some_and(|arg| arg == "--help" || arg == "-h") {
        say!("{}", USAGE.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let request = parse(args)?;
    let code = run(request)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn run(request: Request) -> Result<i32> {
    let mut env = Vec::new();
    if let Some(path) = workspace::cairn(request.build)? {
        env.push((CAIRN_VARIABLE.to_owned(), path.to_string_lossy().into_owned()));
    }
    if let Some(path) = workspace::hook(request.build)? {
        env.push((HOOK_VARIABLE.to_owned(), path.to_string_lossy().into_owned()));
    }
    enter(request.options, request.command, env)
}

/// Runs `command` in a lab made by this program, with Ctrl-C handled.
pub fn enter(options: Options, command: Vec<String>, env: Vec<(String, String)>) -> Result<i32> {
    let init = std::env::current_exe().map_err(|e| Error::failed(format!("cannot find xtask's own path: {e}")))?;
    let entry = Entry { init, options, command, env, signals: true, output: None, limit: None };
    Ok(cairn_lab::enter(entry)?)
}

fn parse(args: &[String]) -> Result<Request> {
    let mut options = Options::default();
    let mut build = true;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Error::Usage(format!("{arg} needs a value\n\n{USAGE}")));
        match arg.as_str() {
            "--no-guest" => options.guest = false,
            "--debian" => options.debian = true,
            "--no-build" => build = false,
            "--quiet" | "-q" => options.quiet = true,
            "--base" => options.base = value()?.into(),
            "--vda" => options.vda_mib = mib(arg, value()?)?,
            "--vdb" => options.vdb_mib = mib(arg, value()?)?,
            "--data" => options.data_mib = mib(arg, value()?)?,
            "--" => {
                let command: Vec<String> = args.cloned().collect();
                if command.is_empty() {
                    break;
                }
                return Ok(Request { options, build, command });
            }
            _ => {
                return Err(Error::Usage(format!("unknown option {arg:?}; the command comes after `--`\n\n{USAGE}")));
            }
        }
    }
    Err(Error::Usage(format!("no command to run; give it after `--`\n\n{USAGE}")))
}

fn mib(option: &str, text: &str) -> Result<u64> {
    text.parse().map_err(|e| Error::Usage(format!("{option} {text:?}: {e}; give a number of MiB")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_come_before_the_command_and_its_own_are_left_alone() {
        let request = parsed("--no-build --vda 100 -- virsh list --all -- --vda 7").expect("valid");
        assert_eq!((request.build, request.options.vda_mib), (false, 100));
        assert_eq!(request.command, ["virsh", "list", "--all", "--", "--vda", "7"]);
    }

    #[test]
    fn wrong_lines_are_wrong_usage() {
        for line in ["", "--", "virsh list", "--vda", "--vda x -- true", "--frobnicate -- true"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line:?}");
        }
    }
}
