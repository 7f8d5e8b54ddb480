//! `cairn run`, and the hidden command of a run's processes.

use super::Done;
use crate::{
    cli::{self, Common},
    context,
    failure::{FAILED, Failure, Outcome},
    interrupt, output,
    run::{
        self, backing,
        folder::RunFolder,
        keep::libvirt,
        launch, log,
        make::{self, Made},
        record::{State, Wish},
        server, supervisor,
    },
};
use cairn_hypervisor::{Domain, Host, run::GuestState};
use cairn_store::Progress;
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

const POLL: Duration = Duration::from_millis(100);
/// For QEMU's lock on an image to be given back.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Makes a run, or serves one again.
pub fn run(common: &Common, o: &cli::Run) -> Outcome<Done> {
    o.rename.as_deref().map_or(Ok(()), crate::restore::check_new_name)?;
    run::folder::sweep(&context::state_dir(common)?);
    let (runtime, progress) = (interrupt::runtime()?, Arc::new(Progress::default()));
    interrupt::watch(&runtime, &progress, "an unfinished run, which 'cairn discard' removes")?;
    let made = match (&o.resume, &o.point) {
        (Some(name), _) => resume(common, name)?,
        (None, Some(spec)) => make::make(common, &o.into(), spec, &progress.cancel)?,
        (None, None) => return Err(Failure::usage("name a point, or a run with --resume")),
    };
    let answered = o.wait_agent.map(|limit_s| wait_agent(&made.domain, Duration::from_secs(limit_s), &progress));
    let r = &made.record;
    if common.json {
        let disks: Vec<_> =
            r.disks.iter().map(|d| serde_json::json!({"target": d.target, "size": d.size_bytes, "overlay": d.overlay.display().to_string()})).collect();
        output::print_json(&serde_json::json!({
            "name": r.name, "uuid": r.uuid, "id": r.point, "point": r.point_name, "network": r.network, "disks": disks, "agent": answered, "warnings": made.warnings,
        }));
    } else if !common.quiet {
        let name = output::shown(&r.name);
        out!("domain {name} {} from {} {}", if o.paused { "is ready, paused," } else { "runs" }, output::shown(&r.point_name), r.point);
        out!("  look      virsh console {name}");
        out!("  keep      cairn keep {name}");
        out!("  discard   cairn discard {name} --force");
    }
    made.warnings.iter().for_each(|w| eprintln!("cairn: warning: {}", output::shown(w)));
    if answered == Some(false) {
        return Err(Failure::new(
            FAILED,
            format!("the guest agent of {} did not answer in {} s; the domain runs on", output::shown(&r.name), o.wait_agent.unwrap_or(0)),
        ));
    }
    Ok(if made.warnings.is_empty() { Done::Clean } else { Done::WithWarnings })
}

/// Serves a run again, and starts its domain if that is off.
fn resume(common: &Common, name: &str) -> Outcome<Made> {
    let folder = RunFolder::of(&context::state_dir(common)?, name)?;
    let record = folder.record()?;
    if record.state == State::Making {
        return Err(Failure::refused(format!("run '{0}' was never finished; remove it with 'cairn discard {0}'", output::shown(name))));
    }
    record.refuse_proof()?;
    if matches!(folder.wish()?, Some(Wish::Discard)) {
        return Err(Failure::refused(format!("run '{0}' is being removed; 'cairn discard {0}' goes on with that", output::shown(name))));
    }
    // A keep of the domain that is off would hold its images.
    let _starting = folder.starting()?;
    launch::ensure_supervisor(&folder, &record)?;
    make::wait_served(&folder, &record, None)?;
    let host = Host::open(record.connect.as_deref())?;
    let domain = host.domain(&record.uuid)?;
    if domain.guest_state().map_err(|e| libvirt(&e))? == GuestState::Off {
        start(&folder, &host, &domain)?;
    }
    Ok(Made { record, domain, warnings: Vec::new(), owner: None })
}

/// Once more while a keep lets go of the images.
fn start(folder: &RunFolder, host: &Host, domain: &Domain) -> Outcome<()> {
    let until = Instant::now() + START_LIMIT;
    loop {
        // What a crash in the middle of a keep left is undone before anything reads it.
        let result = folder.record().and_then(|record| backing::restore(host, domain, &record)).and_then(|()| domain.start().map_err(|e| libvirt(&e)));
        match result {
            Err(f) if f.message.contains("lock") && Instant::now() < until => std::thread::sleep(POLL),
            result => return result,
        }
    }
}

fn wait_agent(domain: &Domain, limit: Duration, progress: &Progress) -> bool {
    use cairn_quiesce::agent::GuestAgent;
    let until = Instant::now() + limit;
    // Once it runs, Ctrl-C ends the waiting alone.
    while Instant::now() < until && !progress.cancel.load(Ordering::SeqCst) {
        if domain.command(r#"{"execute":"guest-ping"}"#, 2).is_ok() {
            return true;
        }
        std::thread::sleep(POLL);
    }
    false
}

/// The hidden command: a supervisor, or a server.
pub fn serve(common: &Common, o: &cli::ServeRun) -> Outcome<Done> {
    let folder = RunFolder::of(&context::state_dir(common)?, &o.name)?;
    let ours = folder.record().and_then(|record| if record.id == o.id { Ok(record) } else { Err(folder.missing()) });
    let served = ours.and_then(|record| if o.server { server::serve(&folder, &record) } else { supervisor::run(&folder, o.locked) });
    match served {
        Ok(()) => Ok(Done::Clean),
        Err(f) => {
            log::say(format!("{} ends: {}", if o.server { "server" } else { "supervisor" }, f.message));
            Ok(Done::Code(f.code))
        }
    }
}
