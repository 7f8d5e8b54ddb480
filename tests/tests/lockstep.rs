//! Backups of a guest that writes without a pause: both disks of one point in time, and frozen.

use cairn_lab::suite::{Suite, quiesce};
use cairn_lab::{Options, lab_test};
use std::time::Duration;

const GENERATIONS: usize = 4;

lab_test!(points_under_load_are_of_one_moment, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(0).expect("writer");
    for _ in 0..GENERATIONS {
        std::thread::sleep(Duration::from_millis(700));
        suite.cairn.ok(&["backup", "lab1"]).expect("backup");
    }
    suite.domain.writer_stop().expect("stop");
    let points = suite.points();
    assert_eq!(points.len(), GENERATIONS);
    let mut before = 0;
    for id in &points {
        assert_ne!(quiesce(&suite.point(id)), "crash", "the guest can freeze, so its points must be frozen");
        let (a, _) = suite.assert_one_moment(id);
        assert!(a > before, "each point is later than the one before: {a} records after {before}");
        before = a;
    }
    suite.assert_left_alone(Duration::from_secs(5));
});

lab_test!(without_a_freeze_points_are_still_of_one_moment, Options::small(), |lab| {
    let suite = Suite::new(&lab);
    suite.domain.writer_start(0).expect("writer");
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(700));
        suite.cairn.ok(&["backup", "lab1", "--quiesce", "never"]).expect("backup");
    }
    for id in suite.points() {
        assert_eq!(quiesce(&suite.point(&id)), "crash");
        suite.assert_one_moment(&id);
    }
});
