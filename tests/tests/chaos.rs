//! Real processes on one store under SIGKILL, SIGSTOP and SIGCONT: see `cairn_lab::chaos`.
//!
//! `CAIRN_CHAOS_SECONDS` says how long, `CAIRN_CHAOS_SEED` repeats what was asked for.

use cairn_lab::chaos::{Setup, run};

/// Beside other suites it takes what they leave: its length is given, and how much happens in it is not. Its limits are for a machine that is busy.
const NICENESS: i32 = 10;

#[test]
fn every_listed_point_restores_and_nothing_unreferenced_stays() {
    rustix::process::nice(NICENESS).expect("lower priority");
    let program = cairn_lab::testing::program().expect("the program under test");
    let setup = Setup::from_environment(program).expect("numbers");
    match run(&setup) {
        Ok(report) => println!("{report}"),
        Err(error) => panic!("{}", error.report()),
    }
}
