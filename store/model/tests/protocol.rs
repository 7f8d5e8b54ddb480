//! The whole protocol is safe in every state of these configurations. Larger ones: `examples/exhaust.rs`.

use cairn_store_model::{Action, Config, End, Model, Outcome, search};

const STATES_MAX: usize = 20_000_000;

/// No state breaks the invariant, and these actions took place: a search in which nothing can be deleted proves nothing.
fn expect_safe(config: Config, needed: &[Action]) -> Outcome {
    let what = format!("{config:?}");
    let model = Model::new(config);
    let outcome = search(&model, STATES_MAX, |state| model.violation(state).is_some());
    println!("{what}\n{outcome}");
    assert_eq!(outcome.end, End::Exhausted, "{what}: {outcome}");
    for action in needed {
        assert!(outcome.saw(*action), "{what}: {action:?} never took place");
    }
    outcome
}

const BACKUP_AND_COLLECTION: [Action; 22] = [
    Action::CreateRecord,
    Action::ListCondemned,
    Action::ListForgotten,
    Action::ChooseParent,
    Action::Deduplicate,
    Action::Upload,
    Action::CheckPack,
    Action::Commit,
    Action::Abort,
    Action::ListTombstones,
    Action::ListPacks,
    Action::Mark,
    Action::Publish,
    Action::ListSessions,
    Action::Wait,
    Action::Recheck,
    Action::CreatePardon,
    Action::Close,
    Action::Delete,
    Action::Done,
    Action::Retire,
    Action::Fence,
];

#[test]
fn one_session_two_collectors() {
    expect_safe(Config::backups(1, 2), &BACKUP_AND_COLLECTION);
}

#[test]
fn two_sessions_two_collectors() {
    expect_safe(Config::backups(2, 2), &BACKUP_AND_COLLECTION);
}

#[test]
fn three_sessions_one_collector() {
    expect_safe(Config { forgets_max: 1, ..Config::backups(3, 1) }, &BACKUP_AND_COLLECTION);
}

#[test]
fn two_chunks_deduplicated_by_each_session() {
    expect_safe(Config { hits_max: 2, ..Config::backups(2, 1) }, &BACKUP_AND_COLLECTION);
}

#[test]
fn packs_looked_for_as_early_as_allowed() {
    expect_safe(Config { check_early: true, ..Config::backups(2, 1) }, &BACKUP_AND_COLLECTION);
}

#[test]
fn points_that_share_a_pack() {
    expect_safe(Config::shared_node(), &BACKUP_AND_COLLECTION);
}

#[test]
fn two_repacks_of_one_frame() {
    expect_safe(Config::relocation(0), &[Action::CopyFrames, Action::Relocate, Action::Delete]);
    expect_safe(Config { closing: false, retiring: false, ..Config::relocation(1) }, &[Action::Relocate, Action::Deduplicate, Action::Delete]);
}

#[test]
fn a_repack_of_a_repacked_frame() {
    expect_safe(Config::relocation_chain(0), &[Action::CopyFrames, Action::Relocate, Action::Delete]);
}

#[test]
fn a_repack_of_one_of_two_frames() {
    expect_safe(Config { closing: false, ..Config::relocation_shared(1) }, &[Action::CopyFrames, Action::Relocate, Action::Deduplicate, Action::Delete]);
}

#[test]
fn a_list_of_moves_that_is_not_needed_any_more() {
    let needed = [Action::Relocate, Action::ReadLists, Action::Deduplicate, Action::Delete, Action::Retire];
    expect_safe(Config { closing: false, ..Config::lists(0) }, &needed[..2]);
    expect_safe(Config { collectors: 1, grace: true, ..Config::lists(1) }, &needed);
}

#[test]
fn a_reader() {
    let needed = [Action::Pin, Action::Look, Action::ListPins, Action::EndReading, Action::Forget, Action::Delete];
    expect_safe(Config::reader(1, 2), &needed);
    expect_safe(Config::reader(2, 1), &needed);
}

/// States that are made equal are no loss: without that the same is found, in more states. Only then those who are bound to lose are followed
/// up to the moment when they do.
#[test]
fn the_reductions_hide_nothing() {
    for config in [Config::backups(2, 1), Config::reader(1, 1), Config::relocation(0)] {
        let reduced = expect_safe(config.clone(), &[Action::Delete]);
        let whole = expect_safe(Config { reduced: false, ..config }, &[Action::Delete, Action::CommitLost, Action::PardonLost]);
        assert!(whole.states > reduced.states);
    }
}

/// What the protocol is for takes place: garbage goes, and a repacked pack goes while the point lives on in the copy.
#[test]
fn collection_and_repacking_free_space() {
    let expect_reached = |config: Config, wanted: &dyn Fn(&cairn_store_model::state::State) -> bool| {
        let outcome = search(&Model::new(config), STATES_MAX, wanted);
        assert!(matches!(outcome.end, End::Found(_)), "{outcome}");
    };
    let (a, b) = (cairn_store_model::config::A, cairn_store_model::config::B);
    expect_reached(Config::backups(1, 1), &|state| !state.packs.contains(b) && state.forgotten.is_empty());
    expect_reached(Config::backups(1, 1), &|state| !state.packs.contains(a));
    expect_reached(Config::relocation(0), &|state| !state.packs.contains(a) && state.forgotten.is_empty());
    // A pin keeps a forgotten point through a round that deletes something else.
    expect_reached(Config::reader(0, 1), &|state| state.forgotten.contains(0) && state.packs.contains(a) && !state.packs.contains(b));
}

/// The larger searches, some minutes and some GiB: `cargo test -p cairn-store-model -- --ignored`.
#[test]
#[ignore = "minutes, not seconds"]
fn larger_configurations() {
    for config in [
        Config::backups(3, 1),
        Config { check_early: true, ..Config::backups(2, 2) },
        Config::relocation(1),
        Config::relocation_shared(1),
        Config::relocation_chain(1),
        Config::lists(1),
    ] {
        expect_safe(config, &[Action::Delete, Action::Retire]);
    }
}
