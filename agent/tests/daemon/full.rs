//! A daemon whose state folder lies on a small disk of its own, which fills up: a tmpfs that the daemon alone sees.

use crate::{
    place::noise,
    served::{Served, apart, send, wait_for},
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
};

/// Room for a table of jobs, a cache of a store and some jobs.
const DISK: &str = "size=6m";

/// Starts it with its state folder on that disk.
fn started(more: &str) -> Served {
    let mut served = Served::new(more);
    fs::create_dir_all(served.state()).expect("makes");
    let script = format!("mount -t tmpfs -o mode=0700,{DISK} tmpfs '{}'", served.state().display());
    served.start_by(|command| apart(&command, &script));
    served
}

/// The state folder as the daemon has it.
fn state(served: &Served) -> PathBuf {
    PathBuf::from(format!("/proc/{}/root{}", served.pid(), served.state().display()))
}

/// Not a byte is left.
fn fill(served: &Served) -> PathBuf {
    let path = state(served).join("filler");
    let mut file = File::create(&path).expect("makes");
    let mut bytes = 1 << 20;
    while bytes > 0 {
        // By pages at the end: what is left of one is nobody's.
        if file.write_all(&vec![1; bytes]).is_err() {
            bytes = if bytes > 4096 { 4096 } else { 0 };
        }
    }
    path
}

fn full(served: &Served) -> Option<String> {
    served.troubles().into_iter().find(|reason| reason.contains("is full") && reason.contains(&served.state().display().to_string()))
}

#[test]
fn a_full_state_folder_costs_no_job_its_end() {
    let served = started("daemon: { jobs_max: 3 }\n");
    assert_eq!(served.troubles(), [""; 0]);
    fs::write(served.place.path("image"), noise(8 << 20, 1)).expect("writes");
    // The cache of the store is there from now on.
    let first = served.save("image", "first");
    served.wait_state(first, "done");
    let slow = served.save_slowly("a", "slow");
    served.wait_pid(slow);
    let cancelled = served.save_slowly("b", "cancelled");
    served.wait_pid(cancelled);
    let good = served.save("image", "good");
    let begun = state(&served).join(format!("jobs/{good}/process.json"));
    let mut pid = None;
    wait_for("it runs", || {
        pid = fs::read(&begun).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok()?["pid"].as_i64());
        pid.is_some()
    });
    let pid = i32::try_from(pid.expect("seen")).expect("a process");
    send(pid, 19);
    let filler = fill(&served);

    wait_for("health tells of it", || full(&served).is_some());
    let told = full(&served).expect("it is");
    assert!(told.contains("free space") && told.contains("daemon.state_dir"), "{told}");
    let (status, said) =
        served.ask("POST", "/api/v1/backups", &format!("{{\"image\": \"{}\", \"name\": \"new\", \"store\": \"main\"}}", served.config().display()));
    assert_eq!(status, 500, "{said}");
    assert!(
        said["error"].as_str().is_some_and(|text| text.contains("is full")) && said["remedy"].as_str().is_some_and(|text| text.contains("free space")),
        "{said}"
    );
    let refused = served.run(&["job", "run", "--domain", "test", "--store", "main"]).expect(1);
    assert!(refused.err.contains("is full") && refused.err.contains("free space"), "{}", refused.err);

    // What runs is heard to its end.
    served.open_pipe("a");
    let job = served.wait_state(slow, "failed");
    assert!(job["code"] == 12 && job["message"].as_str().is_some_and(|text| text.contains("passphrase")), "{job}");
    served.run(&["job", "cancel", &cancelled.to_string()]).expect(0);
    served.wait_state(cancelled, "cancelled");
    send(pid, 18);
    let job = served.wait_state(good, "done");
    assert_eq!(served.points("good"), [job["point"].as_str().expect("a point")]);

    fs::remove_file(&filler).expect("ours");
    wait_for("it is well again", || served.troubles().is_empty());
    let next = served.save("image", "next");
    let job = served.wait_state(next, "done");
    assert_eq!(served.points("next"), [job["point"].as_str().expect("a point")]);
}
