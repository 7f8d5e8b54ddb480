//! `cargo xtask package`: what an admin installs. `.deb` and `.rpm`, their checksums and signature, a bundle for hosts without a network, and the trial of the
//! `.deb` in a booted root of a Debian release.
//!
//! Must not install anything on this machine but what the tools need: they are cargo's, in the target folder, of the versions that are named in `tools`.

mod bundle;
mod notices;
mod sign;
mod stage;
mod tools;
mod tried;

use crate::error::{Error, Result};
use crate::say::say;
use crate::{setup, workspace};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask package [--out DIR] [--bundle RELEASE]... [--sign KEY]
       cargo xtask package --try RELEASE

Builds the release (or takes the programs that CAIRN and CAIRN_HOOK name) and makes a .deb, an .rpm and SHA256SUMS
in DIR (default: packages/ in the target folder). cargo-deb and cargo-generate-rpm are installed into the target folder
on first use.

  --bundle RELEASE  an archive of the .deb with all it depends on in that Debian release, for hosts without a network
  --sign KEY        sign SHA256SUMS by ssh-keygen with this key
  --try RELEASE     install, use, upgrade, remove and purge the .deb in a booted root of that Debian release
";
/// The packages that are part of every set.
const NEEDS: [&str; 2] = ["dpkg-dev", "binutils"];

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    out: Option<PathBuf>,
    bundles: Vec<String>,
    key: Option<PathBuf>,
    tried: Option<String>,
}

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    if args.first().is_some_and(|arg| arg == "--help" || arg == "-h") {
        say!("{}", USAGE.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let request = parse(args)?;
    setup::install_packages(&NEEDS)?;
    let stage = stage::make(&workspace::released()?)?;
    if let Some(release) = &request.tried {
        tried::run(&stage, release)?;
        return Ok(ExitCode::SUCCESS);
    }
    let out = request.out.clone().map_or_else(|| Ok(workspace::target()?.join("packages")), |dir| std::path::absolute(&dir).map_err(|e| io(&dir, &e)))?;
    fs::create_dir_all(&out).map_err(|e| io(&out, &e))?;
    let deb = tools::deb(&stage, &out, None)?;
    let mut made = vec![deb.clone(), tools::rpm(&stage, &out)?];
    for release in &request.bundles {
        made.push(bundle::make(&deb, release, &out)?);
    }
    made.push(sign::sums(&out, &made)?);
    if let Some(key) = &request.key {
        made.push(sign::sign(made.last().map_or(Path::new(""), PathBuf::as_path), key)?);
    }
    for file in &made {
        let bytes = fs::metadata(file).map_err(|e| io(file, &e))?.len();
        say!("{} {bytes} bytes", file.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The `.deb` of this program alone, in `out`.
pub fn deb_of(program: &Path, out: &Path) -> Result<PathBuf> {
    setup::install_packages(&NEEDS)?;
    tools::deb(&stage::make(program)?, out, None)
}

fn parse(args: &[String]) -> Result<Request> {
    let mut request = Request::default();
    let mut rest = args.iter();
    while let Some(option) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| Error::Usage(format!("{option} needs a value\n\n{USAGE}")));
        match option.as_str() {
            "--out" => request.out = Some(value()?.into()),
            "--bundle" => request.bundles.push(value()?),
            "--sign" => request.key = Some(value()?.into()),
            "--try" => request.tried = Some(value()?),
            _ => return Err(Error::Usage(format!("unknown argument {option:?}\n\n{USAGE}"))),
        }
    }
    if request.tried.is_some() && (request.out.is_some() || request.key.is_some() || !request.bundles.is_empty()) {
        return Err(Error::Usage(format!("--try makes packages of its own; leave the other options out\n\n{USAGE}")));
    }
    Ok(request)
}

/// An error that names the file.
fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Request> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn scripts_of_packages_are_clean() {
        let folders = ["debian", "rpm", "bundle"].map(|name| workspace::root().join("packaging").join(name));
        let scripts: Vec<PathBuf> = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path())).collect();
        assert!(scripts.len() >= 7, "{scripts:?}");
        let mut command = std::process::Command::new("shellcheck");
        command.args(["--shell", "sh", "--severity", "warning"]).args(&scripts);
        cairn_lab::process::run_ok(&mut command, std::time::Duration::from_secs(60)).expect("shellcheck (`cargo xtask setup` installs it)");
    }

    #[test]
    fn options_are_read() {
        let request = of("--out /x --bundle bookworm --bundle trixie --sign /k").expect("valid");
        assert_eq!(request.bundles, ["bookworm", "trixie"]);
        assert_eq!((request.out, request.key, request.tried), (Some("/x".into()), Some("/k".into()), None));
        assert_eq!(of("--try trixie").expect("valid").tried.as_deref(), Some("trixie"));
        for wrong in ["--out", "x", "--try", "--try trixie --out /x", "--try trixie --sign k"] {
            assert!(matches!(of(wrong), Err(Error::Usage(_))), "{wrong}");
        }
    }
}
