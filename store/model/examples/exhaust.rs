//! Searches one configuration of the protocol, larger than those of the tests, and says how many states it has.
//!
//! `cargo run --release -p cairn-store-model --example exhaust -- NAME [MILLIONS OF STATES AT MOST]`. Without a name it lists them.
//! A state takes about 60 bytes of memory.

use cairn_store_model::{Config, End, Model, search};
use std::{process::ExitCode, time::Instant};

const MILLIONS_MAX: usize = 200;

fn configs() -> Vec<(&'static str, Config)> {
    vec![
        ("1x1", Config::backups(1, 1)),
        ("1x2", Config::backups(1, 2)),
        ("2x1", Config::backups(2, 1)),
        ("2x2", Config::backups(2, 2)),
        ("2x2-early-check", Config { check_early: true, ..Config::backups(2, 2) }),
        ("2x2-two-hits", Config { hits_max: 2, ..Config::backups(2, 2) }),
        ("2x2-unreduced", Config { reduced: false, ..Config::backups(2, 2) }),
        ("3x1", Config::backups(3, 1)),
        ("3x2-one-forget", Config { forgets_max: 1, ..Config::backups(3, 2) }),
        ("3x2", Config::backups(3, 2)),
        ("shared-node", Config::shared_node()),
        ("relocation-alone", Config::relocation(0)),
        ("relocation", Config::relocation(1)),
        ("relocation-chain-alone", Config::relocation_chain(0)),
        ("relocation-chain", Config::relocation_chain(1)),
        ("relocation-shared", Config::relocation_shared(1)),
        ("relocation-shared-unreduced", Config { reduced: false, ..Config::relocation_shared(1) }),
        ("relocation-shared-2", Config::relocation_shared(2)),
        ("lists-alone", Config::lists(0)),
        ("lists", Config::lists(1)),
        ("lists-grace-alone", Config { grace: true, ..Config::lists(0) }),
        ("lists-grace", Config { grace: true, ..Config::lists(1) }),
        ("grace-2x2", Config { grace: true, ..Config::backups(2, 2) }),
        ("reader-1x2", Config::reader(1, 2)),
        ("reader-2x1", Config::reader(2, 1)),
        ("reader-2x2", Config::reader(2, 2)),
        ("reader-relocation", Config { reader: true, ..Config::relocation(0) }),
        ("reader-relocation-shared", Config { reader: true, ..Config::relocation_shared(1) }),
    ]
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let millions = args.get(1).map_or(Some(MILLIONS_MAX), |n| n.parse().ok());
    let chosen = args.first().and_then(|name| configs().into_iter().find(|(n, _)| n == name));
    let (Some((name, config)), Some(millions)) = (chosen, millions) else {
        let names: Vec<&str> = configs().into_iter().map(|(name, _)| name).collect();
        eprintln!("usage: exhaust NAME [MILLIONS]\nNAME is one of: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let model = Model::new(config);
    let start = Instant::now();
    let outcome = search(&model, millions.saturating_mul(1_000_000), |state| model.violation(state).is_some());
    println!("{name}: {outcome} ({:.1} s)", start.elapsed().as_secs_f64());
    match outcome.end {
        End::Exhausted => ExitCode::SUCCESS,
        End::Found(_) | End::TooMany => ExitCode::FAILURE,
    }
}
