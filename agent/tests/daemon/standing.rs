//! `cairn status` and `cairn check` where something is missing: libvirt is its own driver for tests, which has one domain, `test`.

use crate::served::Served;
use std::fs;

/// A configuration without the stores that hang.
fn configure(served: &Served, policies: &str) {
    let (store, key) = (served.place.store(), served.place.path("key"));
    // Of its own: others listen where libvirt's hook tells.
    let hooks = served.place.path("hooks");
    let text = format!("daemon: {{ hook_dir: {} }}\nstores:\n  main: {{ url: {}, key_file: {} }}\n{policies}", hooks.display(), store.display(), key.display());
    fs::write(served.config(), text).expect("writes");
}

fn policy(names: &str, more: &str) -> String {
    format!("policies:\n  nightly: {{ select: {{ names: [\"{names}\"] }}, stores: [main]{more} }}\n")
}

#[test]
fn a_check_says_what_it_could_not_look_at_and_what_is_broken() {
    let mut served = Served::new("");
    let check = |served: &Served, args: &[&str], code: i32, word: &str| {
        let said = served.run(&[&["check"], args].concat()).expect(code);
        assert!(said.out.starts_with("CAIRN ") && said.out.contains(word), "{word}: {}{}", said.out, said.err);
    };
    fs::write(served.config(), "nonsense: 1\n").expect("writes");
    check(&served, &[], 3, "UNKNOWN - ");
    check(&served, &["--nonsense"], 3, "--nonsense");
    for line in [&["--json", "check", "--nonsense"][..], &["-c", "test:///default", "check", "--nonsense"]] {
        assert!(served.run(line).expect(3).out.starts_with("CAIRN UNKNOWN"));
    }
    served.run(&["list", "check", "--nonsense"]).expect(2);
    configure(&served, "");
    check(&served, &[], 3, "nothing is promised");
    // Nobody makes its points, which is worse.
    configure(&served, &policy("*", ""));
    check(&served, &[], 2, "UNKNOWN: nothing is promised");
    configure(&served, &policy("*", ", rpo: 26h"));
    check(&served, &[], 2, "policies make no points");
    check(&served, &["--policy", "typo"], 3, "there are: nightly");
    served.start();
    check(&served, &[], 2, "test: no good point in main");
    configure(&served, &policy("web*", ", rpo: 26h"));
    check(&served, &[], 1, "test is unprotected");
    check(&served, &["--unprotected-ok"], 3, "no domain of this host is promised anything");
    check(&served, &["--policy", "nightly"], 3, "policy check");
    fs::rename(served.place.store(), served.place.path("away")).expect("moves");
    configure(&served, &policy("*", ", rpo: 26h"));
    check(&served, &[], 3, "store main: ");
}

#[test]
fn the_page_tells_of_domains_stores_and_a_daemon_that_is_missed() {
    let served = Served::new("");
    configure(&served, &policy("*", ", rpo: 26h"));
    let page = served.run(&["status"]).expect(3).out;
    for word in ["NO POINT", "POLICIES MAKE NO POINTS", "no daemon", "nightly", "1 d 2 h"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    let told = served.run(&["status", "--json"]).expect(3).json();
    assert_eq!((&told["domains"][0]["name"], &told["domains"][0]["standing"]), (&"test".into(), &"never".into()), "{told:#}");
    assert_eq!(told["domains"][0]["claims"][0]["rpo_s"], 26 * 3600, "{told:#}");
    assert!(told["stores"][0]["free"].as_u64().is_some_and(|free| free > 0) && told["stores"][0]["points"] == 0, "{told:#}");
    fs::write(served.config(), "nonsense: 1\n").expect("writes");
    served.run(&["status"]).expect(2);
}
