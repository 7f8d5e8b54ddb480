//! Jobs, from their order to their end, by the command line.

use crate::{
    place::noise,
    served::{LIMIT, Served, apart, wait_for},
};
use std::{
    fs,
    time::{Duration, Instant},
};

#[test]
fn a_job_makes_a_point_and_tells_of_it() {
    let served = Served::started("");
    fs::write(served.place.path("image"), noise(300_000, 1)).expect("writes");
    let image = served.place.path("image").display().to_string();
    let said = served.run(&["job", "run", "--image", &image, "--name", "data", "--store", "main", "--json"]).expect(0).json();
    let id = said["jobs"][0]["id"].as_i64().expect("a number");
    let followed = served.run(&["job", "log", &id.to_string(), "--follow"]).expect(0);
    assert!(followed.out.contains("backup-image") && followed.out.contains("ended with exit code 0"), "{}", followed.out);
    let job = served.job(id);
    assert!(job["state"] == "done" && job["code"] == 0 && job["trigger"] == "asked" && job["store"] == "main", "{job}");
    let point = job["point"].as_str().expect("a point");
    assert_eq!(served.points("data"), [point]);
    // The last that is said before its end: what came of it.
    let log = served.run(&["job", "log", &id.to_string()]).expect(0).out;
    let last: Vec<&str> = log.lines().rev().take(2).collect();
    assert!(last[0].contains("ended with exit code 0"), "{log}");
    assert!(last[1].contains(&format!("data: point {point}: 293.0 KiB read, 296.0 KiB changed, ")) && last[1].ends_with(" stored"), "{log}");
    let listed = served.run(&["jobs"]).expect(0);
    assert!(listed.out.contains("data") && listed.out.contains("done"), "{}", listed.out);
    assert_eq!(served.run(&["jobs", "--all", "--json"]).expect(0).json().as_array().expect("a list").len(), 1);
    assert!(job["started"].as_str() >= job["queued"].as_str() && job["ended"].as_str() >= job["started"].as_str(), "{job}");
}

#[test]
fn one_that_fails_says_why_and_ends_with_its_code() {
    let served = Served::started("");
    let id = served.save("nothing", "x");
    let job = served.wait_state(id, "failed");
    assert_eq!(job["code"], 15);
    assert!(job["message"].as_str().expect("a message").contains("cannot read the source"), "{job}");
    let followed = served.run(&["job", "log", &id.to_string(), "--follow", "--json"]).expect(15);
    assert!(followed.json()["text"].as_str().expect("text").contains("cannot read the source"));
    served.run(&["job", "log", &id.to_string()]).expect(0);
    let log = served.run(&["job", "log", &id.to_string()]).expect(0).out;
    assert!(!log.contains("point "), "there is none: {log}");
    // A domain that libvirt does not have is no job at all.
    for unknown in ["nosuch", "0d5a1f00-0000-4000-8000-00000000dead"] {
        let refused = served.run(&["job", "run", "--domain", unknown, "--store", "main", "--json"]).expect(15);
        assert!(refused.err.contains(&format!("no domain \\\"{unknown}\\\"")), "{}", refused.err);
    }
    assert_eq!(served.get("/api/v1/jobs").as_array().expect("a list").len(), 1);
    for (args, code) in [
        (&["job", "log", "99"][..], 15),
        (&["job", "cancel", "99"], 15),
        (&["job", "cancel", "1"], 13),
        (&["job", "run", "--domain", "a", "--store", "nosuch"], 15),
        (&["job", "run", "--domain", "a", "--policy", "nosuch"], 15),
    ] {
        let refused = served.run(args).expect(code);
        assert!(!refused.err.is_empty());
    }
}

#[test]
fn where_libvirt_cannot_tell_of_a_domain_the_job_does() {
    let mut served = Served::new("");
    served.start_by(|mut command| {
        command.env("LIBVIRT_DEFAULT_URI", "qemu:///system?socket=/nowhere/at/all");
        command
    });
    let said = served.run(&["job", "run", "--domain", "nosuch", "--store", "main", "--json"]).expect(0).json();
    let job = served.wait_state(said["jobs"][0]["id"].as_i64().expect("a number"), "failed");
    assert!(job["message"].as_str().expect("a message").contains("/nowhere/at/all"), "{job}");
}

#[test]
fn limits_hold_and_the_order_is_kept() {
    let served = Served::started("daemon: { jobs_max: 2 }\n");
    // Two of the same name, then others: the second waits for the first, and is passed by.
    let ids = [served.save_slowly("a", "x"), served.save_slowly("b", "x"), served.save_slowly("c", "y"), served.save("nothing", "z")];
    served.wait_pid(ids[0]);
    served.wait_pid(ids[2]);
    let states = |served: &Served| ids.iter().map(|id| served.job(*id)["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>();
    assert_eq!(states(&served), ["running", "queued", "running", "queued"]);
    let health = served.get("/api/v1/health");
    assert_eq!((&health["jobs"]["running"], &health["jobs"]["queued"]), (&2.into(), &2.into()));
    assert_eq!(served.get("/api/v1/jobs?state=queued").as_array().expect("a list").len(), 2);
    served.open_pipe("c");
    served.wait_state(ids[3], "failed");
    assert_eq!(states(&served), ["running", "queued", "failed", "failed"], "still one of a name");
    served.open_pipe("a");
    served.wait_state(ids[0], "failed");
    served.wait_pid(ids[1]);
    served.open_pipe("b");
    served.wait_state(ids[1], "failed");
}

#[test]
fn a_cancel_ends_what_waits_and_what_runs() {
    let served = Served::started("daemon: { jobs_max: 1 }\n");
    let (running, waiting) = (served.save_slowly("a", "a"), served.save_slowly("b", "b"));
    let pid = served.wait_pid(running);
    served.run(&["job", "cancel", &waiting.to_string()]).expect(0);
    assert_eq!(served.job(waiting)["state"], "cancelled");
    served.run(&["job", "cancel", &running.to_string()]).expect(0);
    let job = served.wait_state(running, "cancelled");
    assert!(job["cancel_asked"] == true && job["code"].as_i64().is_some_and(|code| code != 0), "{job}");
    assert!(fs::metadata(format!("/proc/{pid}")).is_err(), "its process is gone");
    assert!(served.points("a").is_empty() && served.points("b").is_empty());
    served.run(&["job", "cancel", &running.to_string()]).expect(13);
}

#[test]
fn one_that_does_not_hear_is_ended_all_the_same() {
    let served = Served::started("daemon: { cancel_limit: 1s }\n");
    let id = served.save_slowly("a", "a");
    served.stop(id);
    let began = Instant::now();
    served.run(&["job", "cancel", &id.to_string()]).expect(0);
    let job = served.wait_state(id, "cancelled");
    assert_eq!(job["code"], 137, "{job}");
    assert!(began.elapsed() > Duration::from_secs(10), "each signal has its time: {:?}", began.elapsed());
    let log = served.run(&["job", "log", &id.to_string()]).expect(0).out;
    for word in ["SIGINT", "SIGTERM", "SIGKILL"] {
        assert!(log.contains(word), "{word}: {log}");
    }
}

#[test]
fn how_far_it_is_can_be_seen() {
    let served = Served::started("");
    // Sparse and large, with as much in it as a quick machine needs some seconds for.
    let image = fs::File::create(served.place.path("image")).expect("makes");
    image.set_len(64 << 30).expect("grows");
    for at in 0..320_u64 {
        std::os::unix::fs::FileExt::write_all_at(&image, &noise(1 << 20, at), at * (200 << 20)).expect("writes");
    }
    let id = served.save("image", "data");
    let mut seen = false;
    let until = Instant::now() + LIMIT * 3;
    wait_for("it runs", || served.job(id)["state"] != "queued");
    while served.job(id)["state"] == "running" {
        assert!(Instant::now() < until, "it does not end");
        seen |= served.job(id)["progress"]["total"] == 64_u64 << 30;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(seen, "{}", served.job(id));
    assert_eq!(served.job(id)["state"], "done");
}

#[test]
fn a_package_that_was_upgraded_under_the_daemon_does_not_keep_jobs_from_starting() {
    let mut served = Served::new("");
    let (program, next, upgraded) = (served.place.path("cairn"), served.place.path("next"), served.place.path("upgraded"));
    fs::copy(env!("CARGO_BIN_EXE_cairn"), &program).expect("copies");
    let here = program.clone();
    served.start_by(|command| {
        let mut own = std::process::Command::new(here);
        own.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        own
    });
    // As dpkg does it. The newer one tells that it was started, and goes on as this one.
    let text = format!("#!/bin/sh\necho \"$1\" >> {}\nexec {} \"$@\"\n", upgraded.display(), env!("CARGO_BIN_EXE_cairn"));
    fs::write(&next, text).expect("writes");
    fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("sets");
    fs::rename(&next, &program).expect("renames");
    let own = fs::read_link(format!("/proc/{}/exe", served.pid())).expect("reads");
    assert!(own.to_string_lossy().ends_with("cairn (deleted)"), "{}", own.display());
    fs::write(served.place.path("image"), noise(100_000, 1)).expect("writes");
    let job = served.save("image", "data");
    served.wait_state(job, "done");
    assert_eq!(fs::read_to_string(&upgraded).expect("reads"), "job-runner\n", "the newer one");
    // Removed for good: what runs goes on, and so does the daemon.
    fs::remove_file(&program).expect("removes");
    let job = served.save("image", "data");
    served.wait_state(job, "done");
    assert_eq!(served.points("data").len(), 2);
}

#[test]
fn a_start_that_hangs_holds_up_its_own_job_alone_and_not_for_ever() {
    use std::os::unix::fs::PermissionsExt;
    let mut served = Served::new("daemon: { jobs_max: 3 }\n");
    fs::write(served.place.path("image"), noise(200_000, 1)).expect("writes");
    // A host with systemd, whose systemd-run does not come back for two of the jobs.
    let bin = served.place.path("bin");
    fs::create_dir(&bin).expect("makes");
    let script = "#!/bin/sh\ncase \"$*\" in *unit=cairn-job-[12]-*) exec sleep 1000;; esac\nwhile [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"\n";
    fs::write(bin.join("systemd-run"), script).expect("writes");
    fs::set_permissions(bin.join("systemd-run"), fs::Permissions::from_mode(0o755)).expect("ours");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    served.start_by(|command| {
        let mut command = apart(&command, "mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/systemd/system");
        command.env("PATH", path);
        command
    });
    let began = Instant::now();
    let (hung, cancelled) = (served.save("image", "hung"), served.save("image", "cancelled"));
    // Others are started, listed, cancelled meanwhile.
    let other = served.save("image", "other");
    served.wait_state(other, "done");
    assert_eq!((&served.job(hung)["state"], &served.job(cancelled)["state"]), (&"running".into(), &"running".into()));
    served.run(&["job", "cancel", &cancelled.to_string()]).expect(0);
    served.wait_state(cancelled, "cancelled");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    // It is begun anew, as a plain process, and once.
    served.wait_state(hung, "done");
    assert!(began.elapsed() > Duration::from_secs(28), "systemd has its time: {:?}", began.elapsed());
    assert_eq!((served.points("hung").len(), served.points("cancelled").len(), served.points("other").len()), (1, 0, 1));
    assert!(served.log().contains("was broken off"), "{}", served.log());
}
