//! Every rule of the protocol is needed: without it the search finds a counter-example. `--nocapture` prints the shortest one.
//!
//! The configurations are some of those that `protocol.rs` finds safe with all rules in place.

use cairn_store_model::{
    Action, Config, End, Model,
    Mutation::{self, *},
    Violation::{self, *},
    search,
};

const STATES_MAX: usize = 20_000_000;

/// Breaks one rule, expects this harm and that these actions are part of the shortest way to it.
fn expect_harm(mutation: Mutation, config: Config, harm: Violation, needed: &[Action]) {
    let model = Model::mutated(config, mutation);
    let outcome = search(&model, STATES_MAX, |state| model.violation(state) == Some(harm));
    println!("{mutation:?}, {harm:?}: {outcome}");
    let End::Found(trace) = &outcome.end else { panic!("{mutation:?} harms nobody: {outcome}") };
    for action in needed {
        assert!(trace.iter().any(|event| event.action == *action), "{mutation:?}: the counter-example lacks {action:?}: {outcome}");
    }
}

#[test]
fn no_recheck_before_delete() {
    expect_harm(NoRecheck, Config::backups(1, 1), PointDamaged, &[Action::Commit, Action::Delete]);
}

#[test]
fn fresh_forget_set_at_the_recheck() {
    expect_harm(FreshForgetSetAtRecheck, Config::backups(2, 1), PointDamaged, &[Action::Forget, Action::Recheck, Action::Delete]);
}

#[test]
fn condemned_read_before_the_session_exists() {
    expect_harm(CondemnedReadBeforeSession, Config::backups(1, 1), PointDamaged, &[Action::Delete, Action::Commit]);
}

#[test]
fn no_wait_for_older_sessions() {
    expect_harm(NoWait, Config::backups(1, 1), PointDamaged, &[Action::Delete, Action::Commit]);
}

#[test]
fn commit_not_exclusive_with_the_fence() {
    expect_harm(CommitNotExclusive, Config::backups(1, 1), CommittedAndFenced, &[Action::Fence, Action::Commit]);
    expect_harm(CommitNotExclusive, Config::backups(1, 1), PointDamaged, &[Action::Fence, Action::Delete, Action::Commit]);
}

#[test]
fn parent_chosen_before_the_session_exists() {
    expect_harm(ParentBeforeSession, Config::backups(1, 1), PointDamaged, &[Action::ChooseParent, Action::Forget, Action::Delete]);
}

#[test]
fn deduplication_ignores_d() {
    expect_harm(DedupeIgnoresCondemned, Config::backups(1, 1), PointDamaged, &[Action::Deduplicate, Action::Delete]);
}

#[test]
fn sessions_listed_before_condemned_is_published() {
    expect_harm(SessionsListedBeforePublish, Config::backups(1, 1), PointDamaged, &[Action::ListSessions, Action::Publish, Action::Delete]);
}

#[test]
fn condemned_retired_before_its_deletes_finish() {
    expect_harm(RetiredBeforeDeletesFinish, Config::backups(1, 1), PointDamaged, &[Action::Retire, Action::Delete]);
}

#[test]
fn no_look_for_packs_of_a_stale_index() {
    expect_harm(NoPackCheck, Config::backups(1, 1), PointDamaged, &[Action::Delete, Action::Retire, Action::Deduplicate]);
}

#[test]
fn stale_look_at_tombstones() {
    expect_harm(StaleForgetLook, Config::backups(1, 1), PointDamaged, &[Action::Forget, Action::ChooseParent, Action::Delete]);
}

#[test]
fn a_register_deleted() {
    expect_harm(RegisterDeleted, Config::backups(1, 1), PointDamaged, &[Action::RemoveRegister, Action::Delete, Action::Commit]);
}

#[test]
fn nodes_reused_across_trees() {
    expect_harm(NodesReused, Config::shared_node(), PointDamaged, &[Action::ReuseNodes, Action::Delete]);
}

#[test]
fn relocation_marks_any_copy() {
    expect_harm(RelocationAnyCopy, Config::relocation(0), PointDamaged, &[Action::Relocate, Action::Delete]);
}

#[test]
fn pardon_not_exclusive() {
    expect_harm(PardonNotExclusive, Config::backups(1, 1), PointDamaged, &[Action::Close, Action::CreatePardon, Action::Delete]);
}

#[test]
fn pardon_removed_when_the_round_is_retired() {
    let without_overwriting = [Action::Close, Action::Retire, Action::CreatePardon, Action::Delete];
    expect_harm(PardonRemovedAtRetirement, Config::backups(1, 1), PointDamaged, &without_overwriting);
}

#[test]
fn name_of_a_retired_round_used_again() {
    expect_harm(RoundNameReused, Config::backups(1, 2), PointDamaged, &[Action::Retire, Action::Publish, Action::Delete]);
}

#[test]
fn deduplication_into_a_place_that_was_moved() {
    let two_rounds = Config { closing: false, retiring: false, ..Config::relocation_shared(1) };
    expect_harm(DedupeIntoRelocated, two_rounds, PointDamaged, &[Action::Relocate, Action::Deduplicate, Action::Delete]);
    let one_round = Config { collectors: 1, ..Config::relocation_shared(1) };
    expect_harm(DedupeIntoRelocated, one_round, FalseAlarm, &[Action::Relocate, Action::Deduplicate, Action::Delete]);
}

#[test]
fn list_goes_although_a_pack_stays_that_it_moved_something_out_of() {
    let config = Config { closing: false, ..Config::lists(1) };
    expect_harm(ListGoesBeforeItsPacks, config, PointDamaged, &[Action::Relocate, Action::ReadLists, Action::Deduplicate, Action::Delete]);
}

#[test]
fn pins_read_before_tombstones() {
    expect_harm(PinsReadBeforeTombstones, Config::reader(0, 1), ReaderLost, &[Action::Pin, Action::Look, Action::Forget, Action::Delete]);
}

#[test]
fn reader_looks_before_it_pins() {
    expect_harm(LookBeforePin, Config::reader(0, 1), ReaderLost, &[Action::Look, Action::Pin, Action::Forget, Action::Delete]);
}
