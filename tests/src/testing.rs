//! `lab_test!`: a test that runs inside a lab of its own, under any test runner.
//!
//! Outside a lab the test makes one and runs itself in it (the same test binary, `--exact` this test);
//! inside, the body runs. Labs share nothing, so such tests may run at the same time.

use crate::enter::{Entry, enter};
use crate::error::{Error, Result};
use crate::lab::{FOLDER_VARIABLE, Lab};
use crate::options::Options;
use std::path::PathBuf;
use std::time::Duration;

/// A test that takes longer than this is a failure.
pub const LIMIT: Duration = Duration::from_secs(1200);

/// Declares a test in a lab: `lab_test!(name, Options::small(), |lab| { ... });`
///
/// Only for the suites of this package: they know the path of its program.
#[macro_export]
macro_rules! lab_test {
    ($name:ident, $options:expr, |$lab:ident| $body:block) => {
        #[test]
        fn $name() {
            let init = std::path::PathBuf::from(env!("CARGO_BIN_EXE_cairn-lab"));
            let name = concat!(module_path!(), "::", stringify!($name));
            if let Some($lab) = $crate::testing::inside(name, init, $options) $body
        }
    };
}

/// Inside a lab: the lab. Outside: runs the test in one, and gives nothing.
///
/// # Panics
/// The test failed in its lab, or there could be none; the output is printed.
#[must_use]
pub fn inside(name: &str, init: PathBuf, options: Options) -> Option<Lab> {
    if std::env::var_os(FOLDER_VARIABLE).is_some() {
        return Some(Lab::here().expect("the lab around this test is up"));
    }
    // `module_path!` begins with the crate's name, which the runner's test names do not have.
    let exact = name.split_once("::").map_or(name, |(_, rest)| rest);
    let this = std::env::current_exe().expect("a running test has a path");
    let command = [&this.to_string_lossy(), "--exact", exact, "--nocapture", "--include-ignored"].map(str::to_owned);
    let output = std::env::temp_dir().join(format!("cairn-lab-test-{}-{}.log", std::process::id(), exact.replace("::", "-")));
    let env = [(crate::lab::CAIRN_VARIABLE, crate::testing::cairn(&this)), (crate::lab::HOOK_VARIABLE, hook(&this))]
        .into_iter()
        .filter_map(|(k, v)| v.map(|v| (k.to_owned(), v)));
    let entry = Entry { init, options, command: command.to_vec(), env: env.collect(), signals: false, output: Some(output.clone()), limit: Some(LIMIT) };
    let result = enter(entry);
    let text = std::fs::read_to_string(&output).unwrap_or_default();
    // Best effort: a left-over log is no reason to fail.
    let _ = std::fs::remove_file(&output);
    print!("{text}");
    match result {
        // A name that matches no test would "pass" with nothing run.
        Ok(0) if text.contains("1 passed") => None,
        Ok(code) => panic!("{exact} failed in its lab, exit code {code}"),
        Err(error) => panic!("{exact}: {}", error.report()),
    }
}

/// The program under test, for suites that need no lab.
///
/// # Errors
/// It was not built, or `CAIRN` names no file.
pub fn program() -> Result<PathBuf> {
    let this = std::env::current_exe().map_err(Error::io("find", "this test"))?;
    let path = cairn(&this).map(PathBuf::from).filter(|path| path.is_file());
    path.ok_or_else(|| Error::Missing {
        what: "the program under test".into(),
        remedy: "build it with `cargo build -p cairn`, or set CAIRN to its path".into(),
    })
}

/// The program under test: `CAIRN`, or the debug build beside the test's own target folder.
fn cairn(test: &std::path::Path) -> Option<String> {
    if let Ok(path) = std::env::var(crate::lab::CAIRN_VARIABLE) {
        return Some(path);
    }
    // target/debug/deps/NAME-HASH -> target/debug/cairn
    let path = test.ancestors().nth(2)?.join("cairn");
    path.is_file().then(|| path.to_string_lossy().into_owned())
}

/// libvirt's hook: `CAIRN_HOOK`, or as `cargo xtask hook` builds it into the test's own target folder.
fn hook(test: &std::path::Path) -> Option<String> {
    if let Ok(path) = std::env::var(crate::lab::HOOK_VARIABLE) {
        return Some(path);
    }
    let path = test.ancestors().nth(3)?.join(format!("{}-unknown-linux-gnu/hook/cairn-hook", std::env::consts::ARCH));
    path.is_file().then(|| path.to_string_lossy().into_owned())
}
