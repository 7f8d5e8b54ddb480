//! `cairn run`, and the hidden command of a run's processes.

use super::Done;
use crate::{
    apparmor,
    cli::{self, Common},
    context,
    failure::{FAILED, Failure, Outcome},
    interrupt, output,
    run::{
        self, again, backing,
        folder::{RunFolder, RunSockets},
        keep::libvirt,
        launch, log,
        make::{self, Made},
        record::{Record, State, Wish},
        server,
        status::Status,
        supervisor,
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
/// For a guest that a failed read or write has paused: the first attempts fail while QEMU connects again, one for each disk.
const GO_ON_LIMIT: Duration = Duration::from_secs(10);
/// Between two of them.
const GO_ON_PAUSE: Duration = Duration::from_millis(500);
/// One that has run for so long goes on.
const GO_ON_STEADY: Duration = Duration::from_millis(1500);

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
            "name": r.name, "uuid": r.uuid, "id": r.point, "point": r.point_name, "network": r.network, "disks": disks, "agent": answered, "own": made.own,
            "warnings": made.warnings,
        }));
    } else if !common.quiet {
        let name = output::shown(&r.name);
        out!("domain {name} {} from {} {}", if o.paused { "is ready, paused," } else { "runs" }, output::shown(&r.point_name), r.point);
        made.own.iter().for_each(|own| out!("  {}", output::shown(own)));
        out!("  look      virsh console {name}");
        out!("  keep      cairn keep {name}");
        out!("  discard   cairn discard {name} --force");
    }
    made.warnings.iter().for_each(|w| say!("cairn: warning: {}", output::shown(w)));
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
    let host = run::connect(record.connect.as_deref())?;
    let (domain, again) = again::find(&host, &folder, &record)?;
    let warnings = if again { vec!["it was undefined; it is defined again".to_owned()] } else { Vec::new() };
    match domain.guest_state().map_err(|e| libvirt(&e))? {
        GuestState::Off => start(&folder, &host, &domain)?,
        GuestState::IoError => go_on(&record, &domain)?,
        GuestState::Running | GuestState::Paused => {}
    }
    Ok(Made { record, domain, warnings, own: Vec::new(), owner: None })
}

/// Lets a guest go on that a failed read or write has paused, or says why it cannot. The supervisor tries it too, which does no harm.
fn go_on(record: &Record, domain: &Domain) -> Outcome<()> {
    let until = Instant::now() + GO_ON_LIMIT;
    let (mut running, mut tried): (Option<Instant>, Option<Instant>) = (None, None);
    loop {
        match domain.guest_state().map_err(|e| libvirt(&e))? {
            GuestState::IoError => {
                running = None;
                if tried.is_none_or(|at| at.elapsed() > GO_ON_PAUSE) {
                    // The supervisor may have been faster; the state says what came of it.
                    let _ = domain.resume();
                    tried = Some(Instant::now());
                }
            }
            GuestState::Running if running.get_or_insert_with(Instant::now).elapsed() > GO_ON_STEADY => return Ok(()),
            GuestState::Running => {}
            // Somebody's wish meanwhile.
            GuestState::Paused | GuestState::Off => return Ok(()),
        }
        if running.is_none() && Instant::now() > until {
            let problem = Status::read(&RunSockets::of(&record.id)).and_then(|s| s.trouble());
            let why = problem.unwrap_or_else(|| "the guest is paused (I/O error)".to_owned());
            return Err(Failure::new(FAILED, format!("domain {} does not run: {why}; it goes on by itself once that is mended", output::shown(&record.name))));
        }
        std::thread::sleep(POLL);
    }
}

/// Once more while a keep lets go of the images.
fn start(folder: &RunFolder, host: &Host, domain: &Domain) -> Outcome<()> {
    let until = Instant::now() + START_LIMIT;
    loop {
        // What a crash in the middle of a keep left is undone before anything reads it.
        let restored = folder.record().and_then(|record| backing::restore(host, domain, &record));
        let again = |why: &str| why.contains("lock") && Instant::now() < until;
        match restored.map(|()| domain.start()) {
            Err(f) if again(&f.message) => {}
            Ok(Err(e)) if again(&e.to_string()) => {}
            Ok(started) => return started.map_err(|e| apparmor::does_not_start(host, &e)),
            Err(f) => return Err(f),
        }
        std::thread::sleep(POLL);
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
