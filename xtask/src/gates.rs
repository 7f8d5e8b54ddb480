//! `cargo xtask test`: all gates, in the order in which they are quick to fail.

use crate::error::{Error, Result};
use crate::say::say;
use crate::workspace::{cargo, run_visibly};
use crate::{ansible, licences, root, setup, share, tidy, toolchain, workspace};
use cairn_lab::lab::{CAIRN_VARIABLE, HOOK_VARIABLE};
use cairn_lab::process::exit_code;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const USAGE: &str = "\
usage: cargo xtask test [-- ARGUMENTS...]
       cargo xtask test --root RELEASE [-- SUITES...]

Runs setup, formatting, lints, tidy, licences, documentation, the hook's build and all tests. ARGUMENTS go to
the test runner (cargo-nextest where it is installed, else cargo test). With CAIRN_SHARE=today, or 1, 2 or 3, nextest runs
the first tier and a third of the second.

With --root the suites of the lab, or those that are named, run with libvirt and QEMU of another Debian release, in a root
that is made on first use and kept in /var/tmp/cairn-roots. The release must not be older than this machine's.
";
/// Tests in a lab start a guest each; more at once only slow each other down.
const TEST_THREADS: &str = "2";

/// What was run, how long it took, what it said at its end.
struct Report {
    lines: Vec<String>,
    start: Instant,
}

impl Report {
    fn gate(&mut self, name: &str, run: impl FnOnce() -> Result<String>) -> Result<()> {
        say!("\n== {name}");
        let start = Instant::now();
        let said = run().map_err(|error| Error::failed(format!("gate {name}: {}", error.report())))?;
        self.lines.push(format!("{name:14} ok {:6.1} s  {said}", start.elapsed().as_secs_f64()));
        Ok(())
    }
}

/// The command.
pub fn main(args: &[String]) -> Result<ExitCode> {
    let extra = match args.split_first() {
        None => &[][..],
        Some((first, rest)) if first == "--" => rest,
        Some((first, _)) if first == "--help" || first == "-h" => {
            say!("{}", USAGE.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
        Some((first, rest)) if first == "--root" => return in_root(rest),
        Some((first, _)) => {
            return Err(Error::Usage(format!("unknown argument {first:?}\n\n{USAGE}")));
        }
    };
    let mut report = Report { lines: Vec::new(), start: Instant::now() };
    let result = all(&mut report, extra);
    say!("\n== summary, {:.0} s", report.start.elapsed().as_secs_f64());
    for line in &report.lines {
        say!("{line}");
    }
    result.map(|()| ExitCode::SUCCESS)
}

fn in_root(args: &[String]) -> Result<ExitCode> {
    let (release, wanted) = match args {
        [release] => (release, &[][..]),
        [release, dashes, wanted @ ..] if dashes == "--" => (release, wanted),
        _ => return Err(Error::Usage(format!("--root needs the name of a release\n\n{USAGE}"))),
    };
    setup::install_missing()?;
    let (lines, passed) = root::suites(release, wanted)?;
    say!("\n== summary, Debian {release}");
    for line in &lines {
        say!("{line}");
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all(report: &mut Report, extra: &[String]) -> Result<()> {
    report.gate("setup", || setup::install_missing().and_then(|()| toolchain::complete()).map(|()| String::new()))?;
    report.gate("tidy", || tidy::check().map(|()| String::new()))?;
    report.gate("format", || visibly(cargo(&["fmt", "--all", "--check"])?))?;
    report.gate("licences", || licences::check().map(|count| format!("{count} crates")))?;
    report.gate("clippy", || visibly(cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?))?;
    report.gate("documentation", || {
        let mut command = cargo(&["doc", "--workspace", "--no-deps", "--locked"])?;
        command.env("RUSTDOCFLAGS", "-D warnings");
        visibly(command)
    })?;
    let mut hook = None;
    report.gate("hook", || {
        hook = workspace::hook(true)?;
        Ok(String::new())
    })?;
    let hook = hook.ok_or_else(|| Error::failed("cargo built no cairn-hook"))?;
    // Built with all tests; of some it would be whatever was built before.
    let program = if extra.is_empty() { workspace::cairn_path()? } else { workspace::cairn(true)?.ok_or_else(|| Error::failed("cargo built no cairn"))? };
    let mut summary = Vec::new();
    report.gate("tests", || {
        let mut first_error = None;
        for mut command in runners(extra)? {
            command.env(CAIRN_VARIABLE, &program).env(HOOK_VARIABLE, &hook).env("CARGO_TERM_COLOR", "never");
            // What the next one finds is worth knowing, too.
            if let Err(error) = tee(&mut command, &mut summary) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or_else(|| Ok(summary.join("; ")), Err)
    })?;
    if extra.is_empty() && share::ansible()? {
        report.gate("ansible", || ansible::try_it(None))?;
    }
    Ok(())
}

fn visibly(mut command: Command) -> Result<String> {
    run_visibly(&mut command).map(|()| String::new())
}

/// Of what was named all, else what a run takes.
fn runners(extra: &[String]) -> Result<Vec<Command>> {
    let nextest = cargo(&["nextest", "--version"])?.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !nextest.is_ok_and(|status| status.success()) {
        let mut command = cargo(&["test", "--workspace", "--locked", "--no-fail-fast", "--"])?;
        command.args(["--test-threads", TEST_THREADS]).args(extra);
        return Ok(vec![command]);
    }
    let invocations = if extra.is_empty() { share::invocations()? } else { vec![extra.to_vec()] };
    let one = |args: Vec<String>| {
        let mut command = cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])?;
        command.args(args);
        Ok(command)
    };
    invocations.into_iter().map(one).collect()
}

/// Runs it, passes its output on and keeps its summary lines.
fn tee(command: &mut Command, summary: &mut Vec<String>) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| Error::failed(format!("cannot start the test runner: {e}")))?;
    let err = child.stderr.take().map(|pipe| std::thread::spawn(move || pass_on(pipe, std::io::stderr())));
    let mut lines = child.stdout.take().map(|pipe| pass_on(pipe, std::io::stdout())).unwrap_or_default();
    lines.extend(err.and_then(|thread| thread.join().ok()).unwrap_or_default());
    let status = child.wait().map_err(|e| Error::failed(format!("cannot wait for the test runner: {e}")))?;
    for line in &lines {
        say!("{line}");
    }
    summary.extend(lines);
    if status.success() { Ok(()) } else { Err(Error::failed(format!("the test runner ended with exit code {}", exit_code(status)))) }
}

/// Copies line by line, whatever bytes there are; gives the summary lines.
fn pass_on(pipe: impl Read, mut to: impl Write) -> Vec<String> {
    let mut kept = Vec::new();
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        // Nobody reading any more is no reason to stop the tests.
        let _ = to.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        if is_summary(text.trim()) {
            kept.push(text.trim().to_owned());
        }
        line.clear();
    }
    kept
}

/// nextest's "Summary [ 3.2s] 18 tests run: ..." and cargo's "test result: ok. 7 passed; ...".
fn is_summary(line: &str) -> bool {
    line.starts_with("Summary [") || line.starts_with("test result:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_kept_and_all_is_passed_on() {
        let text = "one\n\u{20}    Summary [   0.1s] 3 tests run: 3 passed\ntest result: ok. 2 passed\n\u{7}\n";
        let mut out = Vec::new();
        let kept = pass_on(text.as_bytes(), &mut out);
        assert_eq!(kept, ["Summary [   0.1s] 3 tests run: 3 passed", "test result: ok. 2 passed"]);
        assert_eq!(out, text.as_bytes());
    }
}
