//! `cairn policy`, on a real file and libvirt's test driver, which has one domain, `test`.

use crate::served::Served;
use serde_json::json;
use std::fs;

const POLICIES: &str = "\
policies:
  # ours
  web:
    select: { names: [\"web*\"] }
    schedule: \"0 2 * * *\"
    timezone: Europe/Berlin
    retention: { keep_daily: 7 }
    stores: [main]
    rpo: 26h
";

#[test]
fn policies_are_written_listed_checked_and_taken_out() {
    let served = Served::new(POLICIES);
    let text = || fs::read_to_string(served.config()).expect("reads");
    let before = text();
    let checked = served.run(&["policy", "check", "--json"]).expect(3);
    assert_eq!((&checked.json()["unprotected"][0]["name"], &checked.json()["policies"][0]["domains"]), (&json!("test"), &json!([])));
    assert!(checked.err.contains("no policy takes test"), "{}", checked.err);

    let create =
        &["policy", "create", "rest", "--default", "--to", "main", "--schedule", "@daily", "--jitter", "1h", "--keep-last", "3", "--verify-percent", "10"];
    let shown = served.run(&[&create[..], &["--dry-run"]].concat()).expect(0);
    assert_eq!(text(), before, "a dry run writes nothing");
    let said = served.run(create).expect(0);
    assert!(said.out.contains("--reload"), "{}", said.out);
    assert_eq!(text(), shown.out);
    assert!(text().contains("  # ours\n"), "{}", text());
    let checked = served.run(&["policy", "check", "--json"]).expect(0).json();
    assert_eq!(checked["policies"][0]["domains"][0]["by"], "default", "{checked:#}");

    let listed = served.run(&["policy", "list", "--json"]).expect(0).json();
    let names: Vec<&str> = listed.as_array().expect("a list").iter().map(|p| p["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["rest", "web"]);
    let web = served.run(&["policy", "show", "web", "--json"]).expect(0).json();
    assert_eq!((&web["rpo_s"], &web["retention"]["keep_daily"], &web["timezone"]), (&json!(93_600), &json!(7), &json!("Europe/Berlin")));
    assert!(web["next"].as_str().is_some_and(|at| at.ends_with("T01:00:00Z") || at.ends_with("T00:00:00Z")), "two in Berlin: {web:#}");
    for (args, words) in
        [(&["policy", "list"][..], &["web*", "0 2 * * *", "daily 7", "what no other takes"][..]), (&["policy", "show", "rest"], &["jitter", "1 h", "10 %"])]
    {
        let out = served.run(args).expect(0).out;
        assert!(words.iter().all(|word| out.contains(word)), "{out}");
    }

    for (args, code, word) in [
        (&["policy", "create", "rest", "--default", "--to", "main"][..], 13, "already"),
        (&["policy", "create", "x", "--name", "[", "--to", "main"], 2, "is no pattern"),
        (&["policy", "create", "x", "--name", "a", "--to", "nowhere"], 2, "there is no store"),
        (&["policy", "create", "x", "--default", "--to", "main"], 2, "is that already"),
        (&["policy", "create", "x\n  y", "--name", "a", "--to", "main"], 2, "wrong"),
        (&["policy", "show", "x"], 15, "it has: rest, web"),
        (&["policy", "delete", "x"], 15, "it has: rest, web"),
    ] {
        let refused = served.run(args).expect(code);
        assert!(refused.err.contains(word), "{args:?}: {}", refused.err);
        assert_eq!(text(), shown.out, "{args:?}");
    }
    served.run(&["policy", "delete", "rest"]).expect(0);
    assert_eq!(text(), before);
    fs::write(served.config(), format!("{before}nonsense: 1\n")).expect("writes");
    assert!(served.run(&["policy", "check"]).expect(2).err.contains("nonsense"));
}
