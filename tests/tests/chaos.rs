//! Real processes on one store under SIGKILL, SIGSTOP and SIGCONT: see `cairn_lab::chaos`.
//!
//! `CAIRN_CHAOS_SECONDS` says how long, `CAIRN_CHAOS_SEED` repeats what was asked for.

use cairn_lab::chaos::{Setup, run};

#[test]
fn every_listed_point_restores_and_nothing_unreferenced_stays() {
    let program = cairn_lab::testing::program().expect("the program under test");
    let setup = Setup::from_environment(program).expect("numbers");
    match run(&setup) {
        Ok(report) => println!("{report}"),
        Err(error) => panic!("{}", error.report()),
    }
}
