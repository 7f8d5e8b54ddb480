//! The limits that the guest's part is shipped with, added up: they fit into the time that the host gives a freeze unless told otherwise.

use cairn_quiesce::freeze::THAW_HOOKS_LIMIT_MIN;
use cairn_quiesce::guard::call_limit;
use cairn_quiesce::level::FREEZE_LIMIT_DEFAULT;
use std::path::Path;
use std::time::Duration;

/// For the freeze itself, after the hooks.
const FREEZE: Duration = Duration::from_secs(1);

/// A default in a file of the guest's: `NAME=7`, or `name=${NAME:-7}`.
fn default_of(file: &str, name: &str) -> Duration {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (plain, by_variable) = (format!("{name}="), format!("${{{name}:-"));
    let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&plain).or_else(|| line.split_once(&by_variable)?.1.strip_suffix('}'))).collect();
    let [value] = found[..] else { panic!("{file} has not one default of {name}: {found:?}") };
    Duration::from_secs(value.parse().unwrap_or_else(|e| panic!("{file}, {name}: {value:?}: {e}")))
}

fn of_all(name: &str) -> Duration {
    default_of("cairn-quiesce", name)
}

#[test]
fn all_that_comes_before_a_freeze_fits_into_the_time_that_the_host_gives_it() {
    let hooks = of_all("FREEZE_LIMIT_S") + of_all("KILL_AFTER_S") + of_all("UNDO_LIMIT_S");
    assert!(hooks + FREEZE <= call_limit(FREEZE_LIMIT_DEFAULT), "{hooks:?} for the hooks and {FREEZE:?} for the freeze");
}

#[test]
fn all_that_comes_after_a_thaw_fits_into_the_time_that_the_host_waits_for_its_answer() {
    let hooks = of_all("THAW_LIMIT_S") + of_all("KILL_AFTER_S");
    assert!(hooks < THAW_HOOKS_LIMIT_MIN, "{hooks:?}");
}

#[test]
fn each_hook_gives_up_by_itself_before_it_is_ended_and_holds_what_it_holds_long_enough() {
    for (file, name) in [("hooks.d/10-postgresql", "POSTGRESQL_LIMIT_S"), ("hooks.d/50-mariadb", "MARIADB_LOCK_WAIT_S")] {
        let limit = default_of(file, name);
        assert!(limit < of_all("FREEZE_LIMIT_S"), "{name}: {limit:?}");
    }
    let held = default_of("hooks.d/50-mariadb", "MARIADB_HOLD_S");
    let longest = call_limit(FREEZE_LIMIT_DEFAULT) + THAW_HOOKS_LIMIT_MIN;
    assert!(held > longest, "{held:?}: a freeze and its thaw may take {longest:?}");
}
