//! Hosts whose clock is wrong: what they date must cost no other point its place, and is told.

use crate::place::{Place, noise};

const KIB: usize = 1 << 10;

#[test]
fn a_year_ahead_is_no_latest_and_costs_no_point_its_place() {
    let place = Place::new();
    let library = place.clock_library();
    let shifted =
        |args: &[&str], shift_s: i64| place.command(args).env("LD_PRELOAD", &library).env("CLOCK_SHIFT_S", shift_s.to_string()).output().expect("it runs");
    let image = place.path("disk.raw");
    let image = image.to_str().expect("plain");
    let save = |seed: u64, shift_days: i64| {
        std::fs::write(image, noise(300 * KIB, seed)).expect("writes");
        let output = shifted(&["backup-image", image, "--name", "w"], shift_days * 86_400);
        assert!([Some(0), Some(3)].contains(&output.status.code()), "{}", String::from_utf8_lossy(&output.stderr));
        output
    };
    for days in [-40_i64, -20, -5, -2] {
        save(days.unsigned_abs(), days);
    }
    save(1000, 366);
    let last = save(2000, 0);
    assert_eq!(last.status.code(), Some(3), "it is told that a point of this name is dated later");
    let pruned = place.run(&["prune", "w", "--keep-within", "30d", "--json"]).expect(0);
    assert!(pruned.err.contains("dated ahead"), "{}", pruned.err);
    let rows = pruned.json();
    let kept = rows.as_array().expect("rows").iter().filter(|r| r["action"] == "keep").count();
    assert_eq!(kept, 5, "the oldest goes: {rows}");
    let out = place.path("out.raw");
    let restored = place.run(&["restore", "w@latest", "--disk", &format!("disk0={}", out.display())]).expect(0);
    assert!(restored.err.contains("dated ahead"), "{}", restored.err);
    assert_eq!(std::fs::read(&out).expect("reads"), noise(300 * KIB, 2000), "the latest is the one that was taken last");
    // Young ones and old ones in one command: all or none.
    let ids: Vec<String> =
        place.run(&["list", "w", "--json"]).expect(0).json().as_array().expect("points").iter().map(|p| p["id"].as_str().expect("id").to_owned()).collect();
    let refused = place.run(&["forget", &ids[0], "w@latest"]).expect(13);
    assert!(refused.err.contains("younger"), "{}", refused.err);
    let after = place.run(&["list", "w", "--json"]).expect(0).json();
    assert_eq!(after.as_array().expect("points").len(), ids.len(), "nothing was forgotten");
}
