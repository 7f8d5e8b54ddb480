//! Replays every file of the corpora, every seed, and changed copies of them, with memory counted.
//!
//! Changes come from a fixed sequence: what fails once fails each time. A failure names the case, the file and the change, and shows the bytes.

mod heap;
mod mutate;

use cairn_fuzz_cases::{CASES, Case, seeds};
use heap::peak_of;
use mutate::Mutator;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Most files of one corpus.
const FILES_MAX: usize = 60;
/// Most bytes of one corpus.
const CORPUS_BYTES_MAX: usize = 100 << 10;
/// Bytes of an input that a failure shows.
const SHOWN_BYTES_MAX: usize = 4096;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// (file name, content), sorted.
fn corpus(case: &Case) -> Vec<(String, Vec<u8>)> {
    let folder = fuzz_folder().join("corpus").join(case.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}; `--example seeds` makes it", folder.display()));
    let mut out: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&path).expect("readable"))
        })
        .collect();
    out.sort();
    out
}

/// Runs a case; why it fails, if it does.
fn failure(case: &Case, data: &[u8]) -> Option<String> {
    let (result, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (case.run)(data))));
    let most = case.heap_fixed_bytes + case.heap_factor * data.len();
    let why = match result {
        Err(_) => "it panicked (see above)".to_owned(),
        Ok(_) if peak > most => format!("it took {peak} bytes of memory for {} bytes, {most} are the most", data.len()),
        Ok(_) => return None,
    };
    let shown = &data[..data.len().min(SHOWN_BYTES_MAX)];
    Some(format!("{why}; bytes: {}", shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// A first run, so that what is made once a thread is not counted.
fn replay(case: &Case) {
    (case.run)(&[]);
    (case.run)(&[0]);
    let mut inputs = corpus(case);
    inputs.extend(seeds::all().into_iter().filter(|seed| seed.case == case.name).map(|seed| (format!("fresh {}", seed.file), seed.bytes)));
    let mut failures = Vec::new();
    for (file, data) in &inputs {
        failures.extend(failure(case, data).map(|why| format!("{}/{file}: {why}", case.name)));
        let mut mutator = Mutator::new(data);
        for number in 0..case.mutations {
            let changed = mutator.next(data, &inputs[number as usize % inputs.len()].1);
            failures.extend(failure(case, &changed).map(|why| format!("{}/{file}, change {number}: {why}", case.name)));
        }
    }
    assert!(failures.is_empty(), "{} failures, the first: {}", failures.len(), failures[0]);
}

macro_rules! replays {
    ($($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                let case = CASES.iter().find(|case| case.name == stringify!($name)).expect("a case of this name");
                replay(case);
            }
        )*
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replays!(
    store_config,
    store_keys,
    store_names,
    store_pack,
    store_index,
    store_register,
    store_small,
    store_gc,
    store_point_log,
    store_manifest,
    store_map,
    store_tlv,
    nbd_codec,
    nbd_client,
    nbd_server,
    guest_agent,
    hook
);

#[test]
fn every_case_is_replayed_fuzzed_and_has_a_small_corpus() {
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).expect("the fuzz package");
    for case in CASES {
        assert!(REPLAYED.contains(&case.name), "{} is not replayed", case.name);
        assert!(manifest.contains(&format!("name = \"{}\"", case.name)), "{} is no target of fuzz/Cargo.toml", case.name);
        let target = fs::read_to_string(fuzz_folder().join(format!("fuzz_targets/{}.rs", case.name))).expect("a target of the same name");
        assert!(target.contains(&format!("cairn_fuzz_cases::{}(", case.name)), "fuzz_targets/{}.rs runs another case", case.name);
        let files = corpus(&case);
        let bytes: usize = files.iter().map(|file| file.1.len()).sum();
        assert!(files.len() <= FILES_MAX && bytes <= CORPUS_BYTES_MAX, "{}: {} files, {bytes} bytes; minimize them", case.name, files.len());
    }
    let folders = fs::read_dir(fuzz_folder().join("corpus")).expect("corpora");
    for folder in folders.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()) {
        assert!(CASES.iter().any(|case| case.name == folder), "fuzz/corpus/{folder} belongs to no case");
    }
}

/// A seed that no decoder accepts leads a fuzzer nowhere.
#[test]
fn seeds_are_accepted_and_lie_in_the_corpora() {
    for seed in seeds::all() {
        let case = CASES.iter().find(|case| case.name == seed.case).expect("a case of this name");
        assert!((case.run)(&seed.bytes), "{}/{} is not accepted", seed.case, seed.file);
        assert!(fuzz_folder().join("corpus").join(seed.case).join(&seed.file).is_file(), "{}/{} is missing; run `--example seeds`", seed.case, seed.file);
    }
    for case in CASES {
        for (file, data) in corpus(&case).iter().filter(|file| file.0.starts_with("seed-")) {
            assert!((case.run)(data), "{}/{file} is not accepted any more", case.name);
        }
    }
}

#[test]
fn a_panic_and_a_greedy_decoder_are_seen() {
    let case = |run| Case { name: "planted", run, heap_factor: 2, heap_fixed_bytes: 1000, mutations: 0 };
    let silent = |data: &[u8]| !data.is_empty();
    let greedy = |data: &[u8]| Vec::<u8>::with_capacity(1003 + data.len()).is_empty();
    let broken = |data: &[u8]| data[7] == 0;
    assert_eq!(failure(&case(silent), &[1]), None);
    assert!(failure(&case(greedy), &[1]).is_some_and(|why| why.contains("1004 bytes of memory")));
    assert_eq!(failure(&case(greedy), &[1; 20]), None, "more input may take more");
    assert!(failure(&case(broken), &[1]).is_some_and(|why| why.ends_with("bytes: 01")));
}
