//! Whoever is killed: no job is lost, none is done twice.

use crate::{
    place::noise,
    served::{Served, send, wait_for},
};
use nix::{sys::ptrace, unistd::Pid};
use serde_json::Value;
use std::{fs, path::Path};

/// A job that waits at a pipe.
fn waiting_job(served: &Served) -> (i64, i32) {
    let id = served.save_slowly("a", "first");
    (id, served.wait_pid(id))
}

#[test]
fn a_daemon_that_is_killed_finds_its_jobs_again() {
    let mut served = Served::started("daemon: { jobs_max: 2 }\n");
    fs::write(served.place.path("image"), noise(8 << 20, 1)).expect("writes");
    let good = served.save("image", "good");
    // It is done only after the daemon's death.
    let pid = served.stop(good);
    let (bad, bad_pid) = waiting_job(&served);
    let waiting = served.save("image", "waiting");
    served.kill();
    // Without a daemon: one ends, the other goes on.
    served.open_pipe("a");
    wait_for("it ended by itself", || fs::metadata(served.state().join(format!("jobs/{bad}/exit.json"))).is_ok());
    assert!(fs::metadata(format!("/proc/{bad_pid}")).is_err());
    served.start();
    let job = served.wait_state(bad, "failed");
    assert_eq!(job["code"], 12, "{job}");
    let job = served.job(good);
    assert!(job["state"] == "running" && job["pid"] == pid, "{job}");
    send(pid, 18);
    assert_eq!(served.wait_state(good, "done")["code"], 0);
    assert_eq!(served.wait_state(waiting, "done")["code"], 0);
    // Each did its work once.
    assert_eq!((served.points("good").len(), served.points("waiting").len()), (1, 1));
    assert_eq!(served.get("/api/v1/jobs").as_array().expect("a list").len(), 3);
}

#[test]
fn a_daemon_that_is_killed_again_and_again_does_each_job_once() {
    let mut served = Served::started("daemon: { jobs_max: 2 }\n");
    fs::write(served.place.path("image"), noise(200_000, 1)).expect("writes");
    let ids: Vec<i64> = (0..6).map(|n| served.save("image", &format!("n{n}"))).collect();
    for round in 0..8 {
        std::thread::sleep(std::time::Duration::from_millis(40 * round));
        served.kill();
        served.start();
    }
    for (n, id) in ids.iter().enumerate() {
        served.wait_state(*id, "done");
        assert_eq!(served.points(&format!("n{n}")).len(), 1, "n{n}");
    }
}

#[test]
fn a_job_whose_runner_is_killed_is_lost_and_ends() {
    let served = Served::started("");
    let (id, pid) = waiting_job(&served);
    let runner = parent(pid);
    assert_ne!(runner, 1);
    send(runner, 9);
    let job = served.wait_state(id, "lost");
    assert!(job["code"].is_null() && job["message"].as_str().expect("a message").contains("nobody wrote down"), "{job}");
    wait_for("its command does not outlive it", || fs::metadata(format!("/proc/{pid}")).is_err());
    // What is owed is told.
    let told = served.troubles();
    assert!(told.len() == 1 && told[0].contains(&format!("job {id} ")) && told[0].contains("cairn job run"), "{told:?}");
}

#[test]
fn a_job_that_the_host_ends_when_it_shuts_down_was_cancelled_by_nobody() {
    let served = Served::started("");
    fs::write(served.place.path("image"), noise(64 << 20, 1)).expect("writes");
    let id = served.save("image", "data");
    let pid = served.wait_pid(id);
    // It reads, and hears signals.
    let progress = served.state().join(format!("jobs/{id}/progress.json"));
    wait_for("it reads", || progress.exists());
    // As systemd ends a scope: runner and command are told, and the runner writes down how the command ended.
    for one in [parent(pid), pid] {
        send(one, 15);
    }
    let job = served.wait_state(id, "failed");
    assert_eq!(job["code"], 130, "{job}");
    assert!(job["cancel_asked"] == false && job["message"].as_str().expect("a message").starts_with("interrupted, and nobody had cancelled it"), "{job}");
    assert!(served.points("data").is_empty());
}

#[test]
fn a_job_whose_runner_is_killed_runs_until_its_command_has_ended_too() {
    let served = Served::started("daemon: { jobs_max: 2 }\n");
    fs::write(served.place.path("image"), noise(8 << 20, 1)).expect("writes");
    let id = served.save("image", "same");
    let pid = Pid::from_raw(served.stop(id));
    // As one that hangs in the kernel: no signal reaches it until it is let go. (SIGSTOP is no match: what stands in an orphaned group is ended.)
    ptrace::seize(pid, ptrace::Options::empty()).expect("traced");
    send(parent(pid.as_raw()), 9);
    let next = served.save("image", "same");
    let other = served.save("image", "other");
    served.wait_state(other, "done");
    assert_eq!((&served.job(id)["state"], &served.job(next)["state"]), (&"running".into(), &"queued".into()), "one at a time of one name");
    // The kernel lets go of it when this thread ends, and so do we.
    send(pid.as_raw(), 9);
    served.wait_state(id, "lost");
    served.wait_state(next, "done");
}

#[test]
fn a_table_that_is_no_good_is_set_aside_and_started_jobs_are_taken_in_again() {
    let mut served = Served::started("");
    fs::write(served.place.path("image"), noise(200_000, 1)).expect("writes");
    let (running, _) = waiting_job(&served);
    let done = served.save("image", "done");
    served.wait_state(done, "done");
    served.kill();
    for suffix in ["-wal", "-shm"] {
        fs::remove_file(served.state().join(format!("jobs.sqlite{suffix}"))).ok();
    }
    fs::write(served.state().join("jobs.sqlite"), vec![b'x'; 9000]).expect("writes");
    served.start();
    assert!(served.log().contains("jobs.sqlite is damaged") && served.log().contains("set aside"), "{}", served.log());
    assert!(served.state().join("jobs.sqlite.aside").exists());
    assert_eq!(served.wait_state(done, "done")["code"], 0);
    served.wait_pid(running);
    assert_eq!(served.job(running)["state"], "running");
    served.open_pipe("a");
    served.wait_state(running, "failed");
    let next = served.save("image", "next");
    assert!(next > done.max(running), "no number twice");
    served.wait_state(next, "done");
    assert_eq!((served.points("done").len(), served.points("next").len()), (1, 1));
}

#[test]
fn nobody_else_can_run_a_job_again() {
    let served = Served::started("");
    fs::write(served.place.path("image"), noise(1000, 1)).expect("writes");
    let id = served.save("image", "data");
    served.wait_state(id, "done");
    let folder = served.state().join("jobs").join(id.to_string());
    let refused = served.run(&["job-runner", "--dir", &folder.display().to_string()]).expect(13);
    assert!(refused.err.contains("only the daemon"), "{}", refused.err);
    let mut command = served.command(&["job-runner", "--dir", &folder.display().to_string()]);
    command.stdin(fs::File::open(folder.join("lock")).expect("opens")).stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let refused = crate::place::ended(&mut command).expect(13);
    assert!(refused.err.contains("started before"), "{}", refused.err);
    assert_eq!(served.points("data").len(), 1);
}

#[test]
fn secrets_of_a_job_are_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::started("");
    let id = served.save("nothing", "x");
    served.wait_state(id, "failed");
    served.get("/api/v1/domains");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o077;
    let folder = served.state().join("jobs").join(id.to_string());
    // Every file in the state folder, whatever makes it.
    let files = fs::read_dir(served.state()).expect("reads").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> = files.filter(|path| path.is_file()).collect();
    for name in ["jobs.sqlite", "jobs.sqlite-wal", "domains.sqlite"] {
        assert!(files.contains(&served.state().join(name)), "{name} is among {files:?}");
    }
    for path in files {
        assert_eq!(mode(&path), 0, "{}", path.display());
    }
    for path in [served.state().join("jobs"), folder.clone(), folder.join("log"), folder.join("result")] {
        assert_eq!(mode(&path), 0, "{}", path.display());
    }
    assert_ne!(served.job(id)["log"], Value::Null);
}

fn parent(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("lives");
    status.lines().find_map(|l| l.strip_prefix("PPid:")).and_then(|p| p.trim().parse().ok()).expect("has one")
}
