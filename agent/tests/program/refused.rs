//! What is refused because it would cost somebody their work.

use crate::place::{Place, noise};

#[test]
fn a_collection_does_not_take_for_dead_what_may_be_alive() {
    let place = Place::new();
    place.save("data", &noise(300_000, 1));
    for short in ["0s", "1h", "119m"] {
        let refused = place.run(&["gc", "--dead-after", short]).expect(13);
        assert!(refused.err.contains("--dead-after") && refused.err.contains("sign of life"), "{}", refused.err);
    }
    place.run(&["gc", "--dead-after", "2h"]).expect(0);
    place.run(&["gc", "--dead-after", "1s", "--even-if-alive"]).expect(0);
    assert!(!place.run(&["gc", "--help"]).expect(0).out.contains("even-if-alive"), "no option for people");
}
